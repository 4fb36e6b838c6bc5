"""A PostgreSQL of the demo's own, if its programs are on this machine: Prefect is four times faster on it than on SQLite.

It listens on a Unix socket in a private directory only, where anyone who can enter is trusted. The directory is
temporary (the socket's path may not exceed 107 bytes) and goes with the process group, so nothing is synced to
disk; what is committed outlives the server's own death, not the machine's.
Left out: persistence, passwords, TCP. The infrastructure files show a PostgreSQL to keep.

    database = start_postgresql(group, env, databases=["prefect"])
    database.url("asyncpg", "prefect")  # postgresql+asyncpg://mintmark@/prefect?host=...
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from infra.embedded.processes import EmbeddedError, ProcessGroup

OWNER = "mintmark"
_DEBIAN = Path("/usr/lib/postgresql")
_INIT_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 30.0
_THROWAWAY = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
}


@dataclass(frozen=True)
class PostgreSQL:
    """A running server, reached through the socket in `directory`."""

    directory: Path

    def url(self, driver: str, database: str) -> str:
        """The SQLAlchemy URL of a database for `driver` (`asyncpg`, `psycopg2`)."""
        return f"postgresql+{driver}://{OWNER}@/{database}?host={quote(str(self.directory))}"

    def connect(self, database: str) -> Any:
        """A psycopg2 connection in autocommit mode."""
        import psycopg2  # type: ignore[import-untyped,unused-ignore]

        connection = psycopg2.connect(host=str(self.directory), user=OWNER, dbname=database, connect_timeout=2)
        connection.autocommit = True
        return connection


def start_postgresql(group: ProcessGroup, env: Mapping[str, str], databases: Sequence[str]) -> PostgreSQL:
    """Make a cluster with these databases, pg_trgm in each, and wait until it answers.

    Root may not run PostgreSQL: then it runs as `postgres`, or `nobody`. Raises `EmbeddedError`, with no process
    left, if the programs, the driver psycopg2 or the extension pg_trgm are missing or PostgreSQL does not start.
    """
    try:
        import psycopg2  # noqa: F401
    except ImportError as error:
        raise EmbeddedError(f"expected the driver psycopg2, got: {error}; install mintmark[demo]") from error
    programs = _find_programs(env.get("PATH", ""))
    server = PostgreSQL(group.scratch())
    user = _other_user() if os.geteuid() == 0 else None
    if user:
        shutil.chown(server.directory, user)
    data = str(server.directory / "data")
    make = ["--pgdata", data, "--username", OWNER, "--auth-local=trust", "--auth-host=reject"]
    serve = ["-D", data, "-k", str(server.directory)]
    serve += [word for name, value in _THROWAWAY.items() for word in ("-c", f"{name}={value}")]
    common: dict[str, Any] = {"env": dict(env) | {"LC_ALL": "C"}, "cwd": server.directory, "user": user}
    try:
        make += ["--encoding=UTF8", "--no-locale", "--no-sync"]
        group.start("postgresql-init", [str(programs / "initdb"), *make], job=True, **common)
        group.finish("postgresql-init", _INIT_TIMEOUT_S)
        interrupt: dict[str, Any] = {"stop_signal": signal.SIGINT, "orphan_signal": signal.SIGINT}  # fast shutdown
        group.start("postgresql", [str(programs / "postgres"), *serve], **common, **interrupt)
        group.wait_ready("postgresql", lambda: _answers(server), _START_TIMEOUT_S)
        create_databases(server.connect, databases)
    except EmbeddedError:
        group.stop("postgresql-init", "postgresql")
        raise
    return server


def _find_programs(search_path: str) -> Path:
    """The directory that holds both programs: behind a link on the search path, or the newest of Debian's."""
    on_path = shutil.which("initdb", path=search_path)
    candidates = [Path(on_path).resolve().parent] if on_path else []
    versions = [path for path in _DEBIAN.glob("*/bin") if path.parent.name.isdigit()]
    candidates += sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    for directory in candidates:
        if all((directory / program).is_file() for program in ("initdb", "postgres")):
            return directory
    raise EmbeddedError(f"expected PostgreSQL's initdb and postgres on PATH or in {_DEBIAN}, got none; install them")


def _other_user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in names:
            return name
    raise EmbeddedError("expected a user postgres or nobody to run PostgreSQL, got none; do not run as root")


def _answers(server: PostgreSQL) -> bool:
    import psycopg2

    try:
        server.connect("postgres").close()
    except psycopg2.OperationalError:
        return False
    return True


def create_databases(connect: Callable[[str], Any], databases: Sequence[str], admin: str = "postgres") -> None:
    """Create those that are missing, each with the extension pg_trgm. `connect` gives a connection in autocommit mode.

    Raises `EmbeddedError` when the server refuses.
    """
    import psycopg2

    try:
        known = {name for (name,) in _execute(connect, admin, "SELECT datname FROM pg_database")}
        for database in databases:
            if database not in known:
                _execute(connect, admin, f'CREATE DATABASE "{database}"')
            _execute(connect, database, "CREATE EXTENSION IF NOT EXISTS pg_trgm")
    except psycopg2.Error as error:
        raise EmbeddedError(f"expected databases {list(databases)} with pg_trgm, got: {error}".rstrip()) from error


def _execute(connect: Callable[[str], Any], database: str, statement: str) -> list[tuple[Any, ...]]:
    connection = connect(database)
    try:
        cursor = connection.cursor()
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()
