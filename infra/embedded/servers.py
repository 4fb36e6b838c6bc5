"""The servers of the one-machine consortium: object store, database, Prefect and MLflow, on 127.0.0.1 only.

All they write is under one folder; what they would send to their makers is switched off, and the way out is closed
besides. Left out: passwords on Prefect and MLflow. Whoever has an account on this machine can use them, and empty the
object store through its `/_ministack/reset`: it is a demonstration, not a deployment.

    with interruptible(), ProcessGroup(home / "logs") as group:
        endpoints = start_servers(group, home, bucket="mintmark", storage_root=Credentials.random(),
                                  on_ready=print, base_env=os.environ)
"""

from __future__ import annotations

import signal
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from infra.embedded.object_storage import REGION, Credentials, create_bucket, create_user
from infra.embedded.postgresql import start_postgresql
from infra.embedded.processes import EmbeddedError, ProcessGroup, free_ports

_HOST = "127.0.0.1"
_STORE_TIMEOUT_S = 60.0
_SERVER_TIMEOUT_S = 120.0
_INHERITED = (
    "PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ",
    "PYTHONUNBUFFERED", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
)  # fmt: skip

# For every process that imports Prefect or MLflow. MLflow 3.17 takes DO_NOT_TRACK=1 for no: it must say "true".
NO_TELEMETRY: Mapping[str, str] = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # also of the pages it serves
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "AWS_EC2_METADATA_DISABLED": "true",
}
# Prefect 3.8 asks GitHub for its collections whenever a page lists them, and has no setting against it: a proxy that
# does not exist turns that into its own fallback, a file it brings along. Port 9 is discard: nobody listens.
_NO_WAY_OUT: Mapping[str, str] = {
    "HTTP_PROXY": f"http://{_HOST}:9",
    "HTTPS_PROXY": f"http://{_HOST}:9",
    "ALL_PROXY": f"http://{_HOST}:9",
    "NO_PROXY": f"{_HOST},localhost",
}


# Prefect opens it on one connection, so that writers take turns. In a file they collide: the server answers 503 at once,
# and its client waits 2, 4, 8, 16 and 32 s before it asks again. The demonstration ends with its Prefect: nothing is lost.
_IN_MEMORY = "sqlite+aiosqlite:///file::memory:?cache=shared&uri=true&check_same_thread=false"


@dataclass(frozen=True)
class Endpoints:
    """Where the servers are: URLs without a trailing slash, and which database is behind them."""

    prefect_api: str
    prefect_ui: str
    mlflow: str
    s3: str
    database: Literal["postgresql", "sqlite"]


@dataclass(frozen=True)
class Databases:
    """SQLAlchemy URLs, with the driver that each server needs."""

    kind: Literal["postgresql", "sqlite"]
    prefect: str
    mlflow: str


@dataclass(frozen=True)
class Lasting:
    """What makes the servers' state outlive them: databases of somebody else, ports (S3, Prefect, MLflow) that stay, and
    S3 users that are made once; `user` has the arguments of `create_user`."""

    databases: Databases
    ports: Sequence[int]
    user: Callable[..., Credentials]


def start_servers(
    group: ProcessGroup,
    home: Path,
    *,
    bucket: str,
    storage_root: Credentials,
    on_ready: Callable[[str], None],
    base_env: Mapping[str, str],
    postgresql: bool = True,
    lasting: Lasting | None = None,
) -> Endpoints:
    """Start all four in the folder `home`, create `bucket`, and return when each has answered.

    The folder is new or empty, unless it is that of an earlier start with the same `lasting`.

    `on_ready` is told what is ready, a few words at a time. Without `postgresql`, or where it is not installed, the
    databases are SQLite's, Prefect's in memory. Of `base_env` only the search paths, the locale and the thread limits are
    passed on.
    Raises `EmbeddedError` or `StorageError`; the group still owns what had started.
    """
    home = home.resolve()
    for folder in (home, home / "tmp"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    env = {name: base_env[name] for name in _INHERITED if name in base_env}
    env |= {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PYTHONSAFEPATH": "1", **NO_TELEMETRY, **_NO_WAY_OUT}
    store_port, prefect_port, mlflow_port = lasting.ports if lasting else free_ports(3)

    store = _start_store(group, home, env, store_port, storage_root, lasts=lasting is not None)
    databases = lasting.databases if lasting else _choose_databases(group, env, on_ready, postgresql)
    group.wait_ready("ministack", lambda: answers(f"{store}/_ministack/health"), _STORE_TIMEOUT_S)
    create_bucket(store, storage_root, bucket)
    own = ("mlflow/",)
    artifacts = (lasting.user if lasting else create_user)(
        store, storage_root, "mlflow", bucket,
        read_prefixes=own, write_prefixes=own, list_prefixes=own, delete_prefixes=own,
    )  # fmt: skip
    on_ready("object store (ministack)")
    prefect = _start_prefect(group, home, env, prefect_port, databases)
    mlflow = _start_mlflow(group, home, env, mlflow_port, databases, f"s3://{bucket}/mlflow", store, artifacts)
    probes = {"prefect": f"{prefect}/api/health", "mlflow": f"{mlflow}/health"}
    labels = {"prefect": "Prefect", "mlflow": "MLflow"}
    group.wait_all_ready(
        {name: partial(answers, url) for name, url in probes.items()},
        _SERVER_TIMEOUT_S,
        on_ready=lambda name: on_ready(labels[name]),
    )
    return Endpoints(f"{prefect}/api", prefect, mlflow, store, databases.kind)


def answers(url: str) -> bool:
    """Whether a GET of this local `url` succeeds within two seconds; proxies are not asked."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):
        return False


def _start_store(
    group: ProcessGroup, home: Path, env: Mapping[str, str], port: int, root: Credentials, *, lasts: bool
) -> str:
    settings = {
        "BIND_HOST": _HOST,
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3,iam,sts",
        "AUTH": "true",
        "AWS_ACCESS_KEY_ID": root.access_key,
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(home / "s3"),
        "PERSIST_STATE": "1",  # users and their keys, too: written when it is asked to end
        "STATE_DIR": str(home / "s3-users"),
        "LOG_LEVEL": "WARNING",
        # Two listeners it opens besides SERVICES, on fixed ports and all interfaces.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        # When it starts and stops it removes containers it takes for its own: it finds no engine.
        "DOCKER_HOST": f"unix://{home}/no-container-engine",
    }
    # Objects are on disk when a put is answered; a clean end would wait seconds for connections kept alive.
    ends = signal.SIGTERM if lasts else signal.SIGKILL
    group.start(
        "ministack",
        [sys.executable, "-m", "ministack"],
        env={**env, **settings},
        cwd=home,
        stop_signal=ends,
        orphan_signal=ends,
    )
    return f"http://{_HOST}:{port}"


def _choose_databases(
    group: ProcessGroup, env: Mapping[str, str], on_ready: Callable[[str], None], postgresql: bool
) -> Databases:
    told = "SQLite"
    if postgresql:
        try:
            server = start_postgresql(group, env, databases=["prefect", "mlflow"])
        except EmbeddedError as error:
            told = f"SQLite, which is slower than PostgreSQL: {str(error).splitlines()[0]}"
        else:
            on_ready("PostgreSQL")
            return Databases("postgresql", server.url("asyncpg", "prefect"), server.url("psycopg2", "mlflow"))
    on_ready(told)
    return Databases("sqlite", _IN_MEMORY, "sqlite:///mlflow.db")


def _start_prefect(group: ProcessGroup, home: Path, env: Mapping[str, str], port: int, databases: Databases) -> str:
    url = f"http://{_HOST}:{port}"
    settings = {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_UI_API_URL": f"{url}/api",
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "prefect-ui"),  # else it writes into site-packages
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{url},http://localhost:{port}",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": databases.prefect,
    }
    # It may hang in its shutdown when the database goes at the same time, as it does when the demo is killed.
    group.start(
        "prefect",
        [sys.executable, "-m", "prefect", "server", "start", "--host", _HOST, "--port", str(port)],
        env={**env, **settings},
        cwd=home,
        orphan_signal=signal.SIGKILL,
    )
    return url


def _start_mlflow(
    group: ProcessGroup, home: Path, env: Mapping[str, str], port: int, databases: Databases,
    destination: str, store: str, artifacts: Credentials,
) -> str:  # fmt: skip
    folder = home / "mlflow"
    folder.mkdir(exist_ok=True)
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": databases.mlflow,  # not an argument: it may hold a password, and `ps` shows those
        "MLFLOW_S3_ENDPOINT_URL": store,
        "AWS_ACCESS_KEY_ID": artifacts.access_key,
        "AWS_SECRET_ACCESS_KEY": artifacts.secret_key,
        "AWS_DEFAULT_REGION": REGION,
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port), "--workers", "1"]
    command += ["--artifacts-destination", destination]
    group.start("mlflow", command, env={**env, **settings}, cwd=folder)
    return f"http://{_HOST}:{port}"
