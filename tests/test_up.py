"""`mintmark up`, really started on a PostgreSQL that is not its own: what it keeps, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flows.deployments import deploy
from infra.embedded.postgresql import PostgreSQL, start_postgresql
from infra.embedded.processes import EmbeddedError, ProcessGroup, free_ports
from infra.embedded.up import databases_at
from mintmark.errors import DataError, StorageError
from mintmark.s3 import S3Location, S3Store
from mintmark.settings import StorageKey, read_toml


@pytest.fixture
def database(tmp_path: Path) -> Iterator[PostgreSQL]:
    with ProcessGroup(tmp_path / "logs") as group:
        yield start_postgresql(group, dict(os.environ), databases=[])


def started(database: PostgreSQL, home: Path, ports: list[int], *banks: str) -> subprocess.Popen[str]:
    """The command, once it says that everything stays up."""
    options = [f"--{name}-port={port}" for name, port in zip(("storage", "prefect", "mlflow"), ports, strict=True)]
    command = [sys.executable, "-m", "flows.cli", "up", "--home", str(home), *options, *(f"--bank={b}" for b in banks)]
    process = subprocess.Popen(
        command,
        env=os.environ | {"MINTMARK_DATABASE": f"postgresql://mintmark@/postgres?host={database.directory}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if "Everything stays up" in line:
            assert all(f"http://127.0.0.1:{port}" in told for port in ports)
            return process
    raise AssertionError(f"mintmark up ended early:\n{told}")


def ended(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    return process.returncode


def tables(database: PostgreSQL, name: str) -> set[str]:
    connection = database.connect(name)
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {table for (table,) in cursor.fetchall()}
    finally:
        connection.close()


@pytest.mark.servers
def test_what_is_kept_is_there_again(database: PostgreSQL, tmp_path: Path) -> None:
    """Both databases are made in the server that was named; started again, flows, experiments, objects and keys are there,
    a bank that is new has a key, and nobody's key reaches further than its own."""
    home, ports = tmp_path / "servers", free_ports(3)
    s3, prefect, mlflow = (f"http://127.0.0.1:{port}" for port in ports)

    def store(user: str) -> S3Store:
        key = read_toml(home / "storage" / f"{user}.toml", StorageKey)
        return S3Store(S3Location(s3, "mintmark", key.access_key, key.secret_key))

    first = started(database, home, ports, "bank-a")
    assert "flow_run" in tables(database, "mintmark_prefect") and "experiments" in tables(database, "mintmark_mlflow")
    with httpx.Client(trust_env=False) as client:
        client.post(f"{prefect}/api/flows/", json={"name": "kept"}).raise_for_status()
        client.post(f"{mlflow}/api/2.0/mlflow/experiments/create", json={"name": "kept"}).raise_for_status()
    _deploys_twice(f"{prefect}/api")
    assert store("bank-a").put_once("from/bank-a/one", b"one") and store("coordinator").put_once("public/two", b"two")
    assert ended(first) == 130

    again = started(database, home, ports, "bank-a", "bank-b")
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"{prefect}/api/flows/name/kept").status_code == 200
        experiments = f"{mlflow}/api/2.0/mlflow/experiments"
        assert client.get(f"{experiments}/get-by-name", params={"experiment_name": "kept"}).status_code == 200
    assert store("coordinator").get("from/bank-a/one", max_bytes=9) == b"one"
    assert store("bank-b").get("public/two", max_bytes=9) == b"two"
    with pytest.raises(StorageError):
        store("bank-b").get("from/bank-a/one", max_bytes=9)
    assert ended(again) == 130
    for secret in [home / "storage-root.toml", *(home / "storage").iterdir()]:
        assert secret.stat().st_mode & 0o077 == 0


def _deploys_twice(api: str) -> None:
    """Deploying again changes the timetable that was deployed and nothing that people made: their schedule stays."""
    with httpx.Client(base_url=api, trust_env=False) as client:
        deploy(api, ("bank-a",), "0 6 * * MON")
        found = client.get("/deployments/name/campaign/mintmark").json()
        by_hand = {"active": False, "schedule": {"cron": "0 9 1 * *", "timezone": "UTC"}}
        client.post(f"/deployments/{found['id']}/schedules", json=[by_hand]).raise_for_status()
        deploy(api, ("bank-a", "bank-b"), "0 7 * * MON")
        deploy(api, ("bank-a", "bank-b"))
        schedules = client.get(f"/deployments/{found['id']}/schedules").json()
        assert sorted(one["schedule"]["cron"] for one in schedules) == ["0 7 * * MON", "0 9 1 * *"]
        names = [one["name"] for one in client.post("/automations/filter", json={}).json()]
        assert names.count("Mintmark: go on after a crash") == 1
        refused = client.post(f"/deployments/{found['id']}/create_flow_run", json={"parameters": {"epsilon": 12}})
        assert refused.status_code == 409 and "12 is greater than the maximum of 10" in refused.text
        pools = {one["name"]: one["type"] for one in client.post("/work_pools/filter", json={}).json()}
        assert pools["mintmark-bank-b"] == "mintmark-bank" and pools["mintmark-coordinator"] == "process"


def test_what_is_no_postgresql_is_refused(tmp_path: Path) -> None:
    """SQLite, nonsense, and a server that is away: one sentence each, and never the password."""
    with pytest.raises(DataError, match="SQLite is for `mintmark demo` only"):
        databases_at("sqlite:///prefect.db")
    with pytest.raises(DataError, match="expected a URL such as postgresql"):
        databases_at("not a url")
    with pytest.raises(EmbeddedError) as away:
        databases_at(f"postgresql://mintmark:very-secret@127.0.0.1:{free_ports(1)[0]}")
    assert "very-secret" not in str(away.value)
