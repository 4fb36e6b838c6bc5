"""`mintmark up`: the consortium's servers on this machine, on a PostgreSQL that is there already, until Ctrl-C.

Everything they know lies in that PostgreSQL and in one folder: started again, they go on. Keys of S3 users are files in
`storage/` of that folder, for the coordinator, MLflow and every bank that is named; only their owner reads them. S3 is
ministack here, on 127.0.0.1: where banks are elsewhere, use the S3 and the addresses of your own (docs/deploying.md).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from infra.embedded.consortium import BUCKET
from infra.embedded.interrupts import interruptible
from infra.embedded.object_storage import Credentials, create_user
from infra.embedded.postgresql import create_databases
from infra.embedded.processes import EmbeddedError, ProcessGroup
from infra.embedded.servers import Databases, Endpoints, Lasting, start_servers
from mintmark import mailbox
from mintmark.errors import DataError, StorageError
from mintmark.s3 import S3Location, S3Store
from mintmark.settings import StorageKey, dump_toml, read_toml, write_private

PREFECT_DATABASE, MLFLOW_DATABASE = "mintmark_prefect", "mintmark_mlflow"
GRACE_S = 30.0  # ministack writes its users when it ends, after its last connection


@dataclass(frozen=True)
class UpOptions:
    """What the command line asks for. `ports` are those of S3, Prefect and MLflow."""

    home: Path
    database: str
    banks: tuple[str, ...] = ()
    ports: Sequence[int] = (9000, 4200, 5000)


def keep_up(options: UpOptions, console: Console, environment: Mapping[str, str]) -> None:
    """Start everything, tell how to go on, and stay until Ctrl-C or until a server dies. Raises `MintmarkError`."""
    databases = databases_at(options.database)
    options.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = _root_key(options.home)

    def user(endpoint: str, root: Credentials, name: str, bucket: str, **prefixes: Sequence[str]) -> Credentials:
        return lasting_user(options.home / "storage" / f"{name}.toml", endpoint, root, name, bucket, **prefixes)

    with interruptible(), ProcessGroup(options.home / "logs", grace_s=GRACE_S) as group:
        endpoints = start_servers(
            group,
            options.home,
            bucket=BUCKET,
            storage_root=root,
            on_ready=lambda what: console.print(f"  [green]ready[/green] {what}", highlight=False),
            base_env=environment,
            lasting=Lasting(databases, options.ports, user),
        )
        everything = ("public/", "from/")
        user(
            endpoints.s3, root, "coordinator", BUCKET,
            read_prefixes=everything, write_prefixes=("public/",), list_prefixes=everything,
        )  # fmt: skip
        for bank in options.banks:
            own = mailbox.bank_prefix(bank)
            user(
                endpoints.s3, root, bank, BUCKET,
                read_prefixes=("public/", own), write_prefixes=(own,), list_prefixes=("public/", own),
            )  # fmt: skip
        _tell(console, options, endpoints)
        while True:
            group.check()
            time.sleep(1)


def databases_at(url: str) -> Databases:
    """Both servers' databases on the PostgreSQL at `url`, created when missing. Raises `DataError` for a URL that is none,
    `EmbeddedError` when the server is away or refuses; neither tells the password."""
    import psycopg2  # type: ignore[import-untyped,unused-ignore]
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        place = make_url(url)
    except ArgumentError:
        raise DataError("expected a URL such as postgresql://user:password@host:5432, got something else") from None
    if place.get_backend_name() != "postgresql":
        raise DataError(
            f"expected a postgresql:// URL, got one of {place.get_backend_name()}: SQLite is for `mintmark demo` only"
        )

    def connect(database: str) -> Any:
        target = place.set(drivername="postgresql", database=database)
        connection = psycopg2.connect(target.render_as_string(hide_password=False), connect_timeout=10)
        connection.autocommit = True
        return connection

    create_databases(connect, (PREFECT_DATABASE, MLFLOW_DATABASE), admin=place.database or "postgres")
    urls = [
        place.set(drivername=f"postgresql+{driver}", database=name).render_as_string(hide_password=False)
        for driver, name in (("asyncpg", PREFECT_DATABASE), ("psycopg2", MLFLOW_DATABASE))
    ]
    return Databases("postgresql", *urls)


def lasting_user(
    file: Path, endpoint: str, root: Credentials, name: str, bucket: str, **prefixes: Sequence[str]
) -> Credentials:
    """The S3 user whose key is in `file`; made, and written there, when there is none or the store does not know it."""
    if file.exists():
        known = read_toml(file, StorageKey)
        try:
            S3Store(S3Location(endpoint, bucket, known.access_key, known.secret_key)).list(prefixes["list_prefixes"][0])
        except StorageError:
            file.unlink()
        else:
            return Credentials(known.access_key, known.secret_key)
    made = create_user(endpoint, root, name, bucket, **prefixes)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    write_private(file, dump_toml(StorageKey(access_key=made.access_key, secret_key=made.secret_key)))
    return made


def _root_key(home: Path) -> Credentials:
    """The store's first key, made once."""
    file = home / "storage-root.toml"
    if file.exists():
        known = read_toml(file, StorageKey)
        return Credentials(known.access_key, known.secret_key)
    if any(home.iterdir()):
        raise EmbeddedError(f"{home}: expected a new folder or one of an earlier `mintmark up`, got another")
    made = Credentials.random()
    write_private(file, dump_toml(StorageKey(access_key=made.access_key, secret_key=made.secret_key)))
    return made


def _tell(console: Console, options: UpOptions, endpoints: Endpoints) -> None:
    keys = options.home / "storage"
    lines = [
        f"Prefect   {endpoints.prefect_ui}",
        f"MLflow    {endpoints.mlflow}",
        f"S3        {endpoints.s3}  bucket {BUCKET}; keys of the coordinator and the banks: {keys}",
        "",
        "Once, with the access key and secret of the coordinator:",
        f"  mintmark init coordinator --consortium NAME --schema SCHEMA.toml --storage-endpoint {endpoints.s3} \\",
        f"    --storage-bucket {BUCKET} --prefect-ui {endpoints.prefect_ui} --mlflow {endpoints.mlflow}",
        "For each bank (docs/deploying.md), then for all:",
        "  mintmark enrol BANK KEY --training-rows N --home coordinator",
        f"  mintmark deploy --api-url {endpoints.prefect_api} --home coordinator",
        "And as long as campaigns shall run:",
        f"  PREFECT_API_URL={endpoints.prefect_api} MINTMARK_COORDINATOR_HOME=coordinator \\",
        "    prefect worker start --pool mintmark-coordinator --type process",
        "",
        "Everything stays up until Ctrl-C.",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
