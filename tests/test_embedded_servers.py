"""The embedded servers, really started: they answer, keep banks apart, tell nobody, and leave nothing behind."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from infra.embedded import postgresql
from infra.embedded.object_storage import Credentials, create_user
from infra.embedded.processes import EmbeddedError, ProcessGroup
from infra.embedded.servers import Endpoints, start_servers
from mintmark.errors import StorageError

pytestmark = pytest.mark.servers

BUCKET = "mintmark"
PUBLIC, OWN, OTHERS = "public/plan", "from/bank-a/update", "from/bank-b/update"


@dataclass(frozen=True)
class Running:
    group: ProcessGroup
    endpoints: Endpoints
    root: Credentials
    said: list[str]
    home: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home, root, said = tmp_path_factory.mktemp("home"), Credentials.random(), list[str]()
    with ProcessGroup(home / "logs") as group:
        endpoints = start_servers(
            group, home, bucket=BUCKET, storage_root=root, on_ready=said.append, base_env=os.environ
        )
        yield Running(group, endpoints, root, said, home)


@pytest.fixture(scope="module")
def clients(running: Running) -> Mapping[str, Any]:
    """An S3 client of each party; bank-b has sent an update, and the coordinator has published."""
    banks = {
        bank: create_user(
            running.endpoints.s3,
            running.root,
            bank,
            BUCKET,
            read_prefixes=["public/", f"from/{bank}/"],
            write_prefixes=[f"from/{bank}/"],
            list_prefixes=["public/", f"from/{bank}/"],
        )
        for bank in ("bank-a", "bank-b")
    }
    coordinator = create_user(
        running.endpoints.s3,
        running.root,
        "coordinator",
        BUCKET,
        read_prefixes=[""],
        write_prefixes=["public/"],
        list_prefixes=[""],
    )
    parties = {name: s3(running, user) for name, user in (banks | {"coordinator": coordinator}).items()}
    parties["forger"] = s3(running, Credentials(banks["bank-a"].access_key, "not the secret"))
    parties["bank-a as admin"] = client("iam", running, banks["bank-a"])
    parties["coordinator"].put_object(Bucket=BUCKET, Key=PUBLIC, Body=b"plan")
    parties["bank-a"].put_object(Bucket=BUCKET, Key=OWN, Body=b"a")
    parties["bank-b"].put_object(Bucket=BUCKET, Key=OTHERS, Body=b"b")
    return parties


def client(service: str, running: Running, user: Credentials) -> Any:
    return boto3.client(
        service,
        endpoint_url=running.endpoints.s3,
        aws_access_key_id=user.access_key,
        aws_secret_access_key=user.secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, proxies={}),
    )


def s3(running: Running, user: Credentials) -> Any:
    return client("s3", running, user)


def ask(url: str, body: Any = None, method: str | None = None, **headers: str) -> tuple[int, str, Any]:
    """Status, text and headers of an answer, errors included."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def refused(call: Callable[[], Any]) -> int:
    """The status with which the store refuses."""
    with pytest.raises(ClientError) as caught:
        call()
    return int(caught.value.response["ResponseMetadata"]["HTTPStatusCode"])


def ours(group: ProcessGroup) -> list[psutil.Process]:
    """The group's processes and all below them."""
    roots = [psutil.Process(one.process.pid) for one in group._started]
    return roots + [child for root in roots for child in root.children(recursive=True)]


def left(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_all_are_told(running: Running) -> None:
    """Each server is reported once it answers, the database by its kind."""
    kind = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}[running.endpoints.database]
    assert running.said[0].startswith(kind)
    assert running.said[1] == "object store (ministack)"
    assert sorted(running.said[2:]) == ["MLflow", "Prefect"]
    running.group.check()


def test_prefect_keeps_records(running: Running) -> None:
    """Prefect's API writes and reads, and its pages are served."""
    api = running.endpoints.prefect_api
    status, text, _ = ask(f"{api}/flows/", {"name": "round"})
    assert status == 201
    assert json.loads(ask(f"{api}/flows/name/round")[1])["id"] == json.loads(text)["id"]
    assert "<html" in ask(running.endpoints.prefect_ui)[1]


def test_prefect_obeys_its_own_pages_only(running: Running) -> None:
    """A page of another origin may not use the API through a visitor's browser."""
    url = f"{running.endpoints.prefect_api}/health"
    assert "access-control-allow-origin" not in ask(url, Origin="http://example.org")[2]
    own = running.endpoints.prefect_ui
    assert ask(url, Origin=own)[2]["access-control-allow-origin"] == own


def test_mlflow_keeps_artifacts_in_the_bucket(running: Running) -> None:
    """Artifacts go through MLflow into its own prefix, so that its clients need no S3 key; they can be listed, deleted."""
    api = f"{running.endpoints.mlflow}/api/2.0"
    status, text, _ = ask(f"{api}/mlflow/experiments/create", {"name": "campaign"})
    assert status == 200
    identity = json.loads(text)["experiment_id"]
    experiment = json.loads(ask(f"{api}/mlflow/experiments/get?experiment_id={identity}")[1])["experiment"]
    assert experiment["artifact_location"].startswith("mlflow-artifacts:/")
    assert ask(f"{api}/mlflow-artifacts/artifacts/1/card.md", b"card", "PUT")[0] == 200
    assert ask(f"{api}/mlflow-artifacts/artifacts/1/card.md")[1] == "card"
    root = s3(running, running.root)
    assert root.get_object(Bucket=BUCKET, Key="mlflow/1/card.md")["Body"].read() == b"card"
    assert [file["path"] for file in json.loads(ask(f"{api}/mlflow-artifacts/artifacts?path=1")[1])["files"]] == [
        "card.md"
    ]
    assert ask(f"{api}/mlflow-artifacts/artifacts/1/card.md", method="DELETE")[0] in (200, 204)
    assert root.list_objects_v2(Bucket=BUCKET, Prefix="mlflow/")["KeyCount"] == 0


def test_nothing_is_sent_to_the_makers(running: Running) -> None:
    """Analytics are off in the servers and in the pages they serve, and there is no way out past that."""
    settings = json.loads(ask(f"{running.endpoints.prefect_api}/admin/settings")[1])["server"]
    assert settings["analytics_enabled"] is False
    assert settings["ui"]["show_promotional_content"] is False
    pages = json.loads(ask(f"{running.endpoints.mlflow}/ajax-api/3.0/mlflow/ui-telemetry")[1])
    assert pages["disable_ui_telemetry"] is True
    # Prefect would fetch this from the internet; it falls back to the file it brings along.
    assert "prefect" in json.loads(
        ask(f"{running.endpoints.prefect_api}/collections/views/aggregate-worker-metadata")[1]
    )
    for process in ours(running.group):
        if "python" in process.name():
            environment = process.environ()
            assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
            assert environment["HTTPS_PROXY"] == "http://127.0.0.1:9"


def test_everything_stays_in_its_folder(running: Running) -> None:
    """The servers know no other home, and strangers cannot enter it."""
    assert running.home.stat().st_mode & 0o077 == 0
    assert (running.home / "prefect-ui").is_dir()
    homes = {process.environ()["HOME"] for process in ours(running.group) if "python" in process.name()}
    assert homes == {str(running.home)}


def test_only_this_machine_is_listened_to(running: Running) -> None:
    """Three ports are open, all of them on 127.0.0.1."""
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in ours(running.group)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    urls = (running.endpoints.prefect_ui, running.endpoints.mlflow, running.endpoints.s3)
    assert listening == {("127.0.0.1", int(url.rpartition(":")[2])) for url in urls}


ALLOWED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a bank reads what is public": ("bank-a", lambda s3: s3.get_object(Bucket=BUCKET, Key=PUBLIC)),
    "a bank reads its own": ("bank-a", lambda s3: s3.get_object(Bucket=BUCKET, Key=OWN)),
    "a bank lists what is public": ("bank-a", lambda s3: s3.list_objects_v2(Bucket=BUCKET, Prefix="public/")),
    "a bank lists its own": ("bank-a", lambda s3: s3.list_objects_v2(Bucket=BUCKET, Prefix="from/bank-a/")),
    "the coordinator reads all": ("coordinator", lambda s3: s3.get_object(Bucket=BUCKET, Key=OTHERS)),
    "the coordinator lists all": ("coordinator", lambda s3: s3.list_objects_v2(Bucket=BUCKET)),
}
FORBIDDEN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "read another's": ("bank-a", lambda s3: s3.get_object(Bucket=BUCKET, Key=OTHERS)),
    "overwrite another's": ("bank-a", lambda s3: s3.put_object(Bucket=BUCKET, Key=OTHERS, Body=b"x")),
    "write in another's name": ("bank-a", lambda s3: s3.put_object(Bucket=BUCKET, Key="from/bank-b/new", Body=b"x")),
    "list another's": ("bank-a", lambda s3: s3.list_objects_v2(Bucket=BUCKET, Prefix="from/bank-b/")),
    "list all": ("bank-a", lambda s3: s3.list_objects_v2(Bucket=BUCKET)),
    "list the banks": ("bank-a", lambda s3: s3.list_objects_v2(Bucket=BUCKET, Prefix="from/", Delimiter="/")),
    "copy another's to its own": (
        "bank-a",
        lambda s3: s3.copy_object(Bucket=BUCKET, Key="from/bank-a/copy", CopySource=f"{BUCKET}/{OTHERS}"),
    ),
    "publish": ("bank-a", lambda s3: s3.put_object(Bucket=BUCKET, Key=PUBLIC, Body=b"x")),
    "delete its own": ("bank-a", lambda s3: s3.delete_object(Bucket=BUCKET, Key=OWN)),
    "delete the bucket": ("bank-a", lambda s3: s3.delete_bucket(Bucket=BUCKET)),
    "make a bucket": ("bank-a", lambda s3: s3.create_bucket(Bucket="evil")),
    "change the bucket's policy": ("bank-a", lambda s3: s3.put_bucket_policy(Bucket=BUCKET, Policy="{}")),
    "make a user": ("bank-a as admin", lambda iam: iam.create_user(UserName="evil")),
    "make itself a key": ("bank-a as admin", lambda iam: iam.create_access_key(UserName="bank-b")),
    "sign with a wrong secret": ("forger", lambda s3: s3.get_object(Bucket=BUCKET, Key=PUBLIC)),
    "answer as a bank": ("coordinator", lambda s3: s3.put_object(Bucket=BUCKET, Key=OTHERS, Body=b"x")),
}


@pytest.mark.parametrize("what", ALLOWED)
def test_users_may(clients: Mapping[str, Any], what: str) -> None:
    """Each party can do what the protocol asks of it."""
    who, call = ALLOWED[what]
    assert call(clients[who])["ResponseMetadata"]["HTTPStatusCode"] == 200


@pytest.mark.parametrize("what", FORBIDDEN)
def test_users_may_not(clients: Mapping[str, Any], what: str) -> None:
    """Whatever else a party tries is refused, and changes nothing."""
    who, call = FORBIDDEN[what]
    assert refused(lambda: call(clients[who])) == 403
    objects = clients["coordinator"].list_objects_v2(Bucket=BUCKET, Prefix="from/")["Contents"]
    assert {one["Key"] for one in objects} == {OWN, OTHERS}
    assert clients["coordinator"].get_object(Bucket=BUCKET, Key=OTHERS)["Body"].read() == b"b"
    assert clients["coordinator"].get_object(Bucket=BUCKET, Key=PUBLIC)["Body"].read() == b"plan"


def test_presigned_url_gives_no_further_right(clients: Mapping[str, Any]) -> None:
    """A URL a bank signs for another's prefix is refused, and so is a request nobody signed."""
    url = clients["bank-a"].generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": OTHERS})
    assert ask(url, b"x", "PUT", **{"Content-Type": ""})[0] == 403
    assert ask(url.partition("?")[0], b"x", "PUT")[0] == 403
    assert ask(url.partition("?")[0])[0] == 403


def test_objects_are_written_once(clients: Mapping[str, Any]) -> None:
    """The second conditional put of a key is answered 412, and the first stands."""
    bank = clients["bank-a"]
    assert refused(lambda: bank.put_object(Bucket=BUCKET, Key=OWN, Body=b"second", IfNoneMatch="*")) == 412
    assert bank.get_object(Bucket=BUCKET, Key=OWN)["Body"].read() == b"a"


def test_names_and_prefixes_are_checked(running: Running, clients: Mapping[str, Any]) -> None:
    """A user's name is given once, and a prefix that would reach a neighbour's is refused before anything is asked."""
    none: dict[str, Any] = {"read_prefixes": [], "list_prefixes": []}
    with pytest.raises(StorageError, match=r"expected .* to create user 'bank-a', got 409"):
        create_user(running.endpoints.s3, running.root, "bank-a", BUCKET, write_prefixes=["from/bank-a/"], **none)
    with pytest.raises(ValueError, match=r"ends with '/'.*, got 'from/bank-c'"):
        create_user(running.endpoints.s3, running.root, "bank-c", BUCKET, write_prefixes=["from/bank-c"], **none)


def test_secrets_are_not_shown() -> None:
    """Credentials can be logged without their secret."""
    user = Credentials.random()
    assert user.access_key in repr(user) and user.secret_key not in repr(user)


def test_stop_leaves_nothing(running: Running) -> None:
    """After `stop` no process, no open port and no database directory is left."""
    processes = ours(running.group)
    assert len(processes) >= 4
    databases = {Path(one.cwd()) for one in processes if one.name() == "postgres"}
    urls = (running.endpoints.prefect_ui, running.endpoints.mlflow, running.endpoints.s3)
    running.group.stop()
    assert left(processes) == []
    for url in urls:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0
    assert not any(path.exists() for path in databases)


def ring_at_once(prefect_api: str) -> set[int]:
    """The statuses of forty flow runs that are created eight at a time."""
    flow = json.loads(ask(f"{prefect_api}/flows/", {"name": "bell"})[1])["id"]
    deployment = json.loads(ask(f"{prefect_api}/deployments/", {"name": "bell", "flow_id": flow})[1])["id"]
    url = f"{prefect_api}/deployments/{deployment}/create_flow_run"
    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(lambda number: ask(url, {"name": str(number)})[0], range(40)))


def test_sqlite_when_postgresql_does_not_start(tmp_path: Path) -> None:
    """A PostgreSQL that does not start is left out with a word why; all else works on SQLite, where writers take turns
    and none is turned away, and stops."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("initdb", "postgres"):
        (programs / name).write_text("#!/bin/sh\necho no space left; exit 1\n")
        (programs / name).chmod(0o755)
    base_env = dict(os.environ) | {"PATH": f"{programs}:{os.environ['PATH']}"}
    said: list[str] = []
    home = tmp_path / "home"
    with ProcessGroup(home / "logs") as group:
        endpoints = start_servers(
            group, home, bucket=BUCKET, storage_root=Credentials.random(), on_ready=said.append, base_env=base_env
        )
        assert endpoints.database == "sqlite"
        assert said[0].startswith("SQLite, which is slower than PostgreSQL: expected ")
        assert ask(f"{endpoints.prefect_api}/flows/", {"name": "round"})[0] == 201
        assert ask(f"{endpoints.mlflow}/api/2.0/mlflow/experiments/create", {"name": "campaign"})[0] == 200
        assert ring_at_once(endpoints.prefect_api) == {201}
        group.check()
        processes = ours(group)
    assert left(processes) == []


def test_postgresql_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without programs on the search path or in Debian's folder there is an error that says so, and no process."""
    monkeypatch.setattr(postgresql, "_DEBIAN", tmp_path)
    with ProcessGroup(tmp_path / "logs") as group:
        with pytest.raises(EmbeddedError, match="expected PostgreSQL's initdb and postgres on PATH"):
            postgresql.start_postgresql(group, {"PATH": ""}, ["prefect"])
        assert ours(group) == []
