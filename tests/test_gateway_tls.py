"""Real handshakes and a real Prefect server behind the gateway: who gets in, and what a bank's worker gets done."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import websockets
from consortium import SCHEMA
from worker_stage import (
    PATIENCE_S,
    SENT,
    STUB,
    answered,
    clean_environment,
    eventually,
    honest,
    start_prefect,
)

from bank_node.enrol import create_home
from bank_node.settings import BankSettings, Home
from infra.embedded.processes import ProcessGroup, free_ports
from infra.gateway.authority import Issued, issue_bank, issue_gateway, open_authority
from infra.gateway.channels import LATER
from mintmark.settings import StorageKey

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parent.parent
BANKS = ("bank-a", "bank-b")
CREDENTIAL = "gateway:not-for-banks"
CSRF_CLIENT = str(uuid4())

WORK = """
import sys
from pathlib import Path
from bank_node.settings import Home
from bank_node.worker import run_worker
home, *command = sys.argv[1:]
opened = Home(Path(home))
run_worker(opened.path, opened.pool, opened.settings.prefect_api, 0.2, command=command, tls=opened.gateway_tls())
"""


@dataclass(frozen=True)
class Site:
    """Prefect with its credential on, the gateway before it, and certificates good and bad."""

    prefect: str
    gateway: str
    folder: Path
    gateway_log: Path
    banks: dict[str, Issued]
    bad: dict[str, Issued]

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """What the coordinator does, at the server itself."""
        user, _, password = CREDENTIAL.partition(":")
        with httpx.Client(auth=(user, password), timeout=PATIENCE_S) as client:
            response = self._asked(client, self.prefect, method, path, body)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def tls(self, issued: Issued | None) -> ssl.SSLContext:
        """How a holder of this certificate calls."""
        context = ssl.create_default_context(cafile=str(self.folder / "authority.pem"))
        if issued is not None:
            context.load_cert_chain(issued.certificate, issued.key)
        return context

    def ask(self, bank: str, method: str, path: str, body: Any = None) -> httpx.Response:
        """What a bank asks through the gateway."""
        with httpx.Client(verify=self.tls(self.banks[bank]), trust_env=False, timeout=PATIENCE_S) as client:
            return self._asked(client, self.gateway, method, path, body)

    def _asked(self, client: httpx.Client, api: str, method: str, path: str, body: Any) -> httpx.Response:
        """One request, with the token against cross-site requests that Prefect gives out."""
        asks = f"/csrf-token?client={CSRF_CLIENT}"
        token = answered(lambda: client.get(api + asks), asks).json()["token"]
        csrf = {"Prefect-Csrf-Client": CSRF_CLIENT, "Prefect-Csrf-Token": token}
        return answered(lambda: client.request(method, api + path, json=body, headers=csrf), f"{method} {path}")

    def log(self) -> str:
        """The gateway's log so far."""
        return self.gateway_log.read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    now, elsewhere = datetime.now(UTC), tmp_path_factory.mktemp("elsewhere")
    authority = open_authority(folder, "127.0.0.1", now)
    issue_gateway(authority)
    banks = {bank: issue_bank(authority, bank) for bank in BANKS}
    bad = {
        "ended": issue_bank(open_authority(folder, "127.0.0.1", now - timedelta(days=2)), "ended", timedelta(days=1)),
        "of another authority": issue_bank(open_authority(elsewhere, "127.0.0.1", now), "bank-a"),
        "not pinned": issue_bank(authority, "bank-x"),
    }
    (folder / "prefect-credential").touch(0o600)
    (folder / "prefect-credential").write_text(CREDENTIAL + "\n")
    # Auth and protection against cross-site requests on, as a real consortium has them.
    settings = {"PREFECT_SERVER_API_AUTH_STRING": CREDENTIAL, "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true"}
    with ProcessGroup(folder / "logs") as group:
        prefect = start_prefect(group, folder, **settings)
        (port,) = free_ports(1)
        table = [f'{bank} = ["{issued.fingerprint}"]' for bank, issued in banks.items()]
        lines = [f"port = {port}", f'prefect_api = "{prefect}"', "[banks]", *table]
        (folder / "gateway.toml").write_text("\n".join(lines))
        command = [sys.executable, "-m", "flows.cli", "gateway", "--config", str(folder / "gateway.toml")]
        environment = clean_environment(folder, PYTHONPATH=str(ROOT))
        group.start("gateway", command, env=environment, stop_signal=signal.SIGKILL)
        group.wait_ready("gateway", lambda: listens(port), PATIENCE_S)
        yield Site(prefect, f"https://127.0.0.1:{port}/api", folder, group.log("gateway"), banks, bad)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def runs(site: Site) -> dict[str, str]:
    """A pool for each bank, and a due run in each that no worker has answered yet."""
    made = {}
    flow = site.admin("POST", "/flows/", {"name": "answer-plan"})
    template = {"job_configuration": {"name": "{{ name }}"}, "variables": {"properties": {"name": {"type": "string"}}}}
    for bank in BANKS:
        pool = {"name": f"mintmark-{bank}", "type": "mintmark-bank", "base_job_template": template}
        site.admin("POST", "/work_pools/", pool)
        bell = {"name": bank, "flow_id": flow["id"], "work_pool_name": pool["name"], "enforce_parameter_schema": False}
        deployed = site.admin("POST", "/deployments/", bell)
        begun = {"parameters": honest(SENT), "state": {"type": "SCHEDULED"}}
        made[bank] = site.admin("POST", f"/deployments/{deployed['id']}/create_flow_run", begun)["id"]
    return made


@pytest.mark.parametrize("which", ["ended", "of another authority", None])
def test_handshake_ends_without_a_sound_certificate(site: Site, which: str | None) -> None:
    """An ended certificate, another authority's and none get no answer to any request."""
    with (
        httpx.Client(verify=site.tls(site.bad[which] if which else None), trust_env=False) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.get(f"{site.gateway}/admin/version")


def test_signed_but_unpinned_certificate_is_told_so(site: Site) -> None:
    """A certificate of the authority that no bank is pinned to gets one sentence and nothing else."""
    with httpx.Client(verify=site.tls(site.bad["not pinned"]), trust_env=False, timeout=PATIENCE_S) as client:
        answer = client.get(f"{site.gateway}/admin/version")
    assert answer.status_code == 403
    assert "no bank's here" in answer.text


def test_a_bank_does_not_take_another_server_for_the_gateway(site: Site) -> None:
    """A bank's certificate cannot pose as the gateway's: it has another use and another name."""
    listener = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener.load_cert_chain(site.banks["bank-b"].certificate, site.banks["bank-b"].key)

    async def call() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=listener)
        async with server:
            port = server.sockets[0].getsockname()[1]
            await asyncio.open_connection("127.0.0.1", port, ssl=site.tls(site.banks["bank-a"]))

    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(call())


def test_chunked_bodies_and_doubled_lengths_are_refused_on_the_wire(site: Site) -> None:
    """What a proxy and a server could read differently does not pass, whatever the HTTP parser makes of it."""
    port = int(site.gateway.split(":")[2].split("/")[0])
    for head in (
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\n[]",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ):
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            site.tls(site.banks["bank-a"]).wrap_socket(plain, server_hostname="127.0.0.1") as wire,
        ):
            wire.sendall(f"POST /api/logs/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{head}".encode())
            assert wire.recv(100).split()[1] == b"400", head


@pytest.mark.usefixtures("runs")
def test_a_foreign_run_is_neither_seen_nor_touched(site: Site, runs: dict[str, str]) -> None:
    """Bank-b asks for bank-a's run, pool and due runs in every way it has; all is as if it were not there."""
    before = site.admin("GET", f"/flow_runs/{runs['bank-a']}")
    offered = {"state": {"type": "COMPLETED", "name": "Completed"}, "force": False}
    count = {
        "work_pools": {"name": {"any_": ["mintmark-bank-a"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    asked = [
        site.ask("bank-b", "GET", f"/flow_runs/{runs['bank-a']}"),
        site.ask("bank-b", "GET", f"/flow_runs/{uuid4()}"),
        site.ask("bank-b", "GET", f"/deployments/{before['deployment_id']}"),
        site.ask("bank-b", "POST", f"/flow_runs/{runs['bank-a']}/set_state", offered),
        site.ask("bank-b", "PATCH", f"/flow_runs/{runs['bank-a']}", {"infrastructure_pid": "1"}),
        site.ask("bank-b", "POST", "/work_pools/mintmark-bank-a/get_scheduled_flow_runs", {"limit": 10}),
        site.ask("bank-b", "POST", "/flow_runs/count", count),
        site.ask("bank-b", "POST", "/flow_runs/filter", {}),
        site.ask("bank-b", "POST", f"/deployments/{before['deployment_id']}/create_flow_run", {}),
        site.ask("bank-b", "DELETE", f"/flow_runs/{runs['bank-b']}"),
    ]
    assert {(answer.status_code, answer.text) for answer in asked} == {
        (404, '{"detail":"Nothing here for this bank."}')
    }
    timing = ("estimated_start_time_delta", "estimated_run_time")
    after = site.admin("GET", f"/flow_runs/{runs['bank-a']}")
    assert {k: v for k, v in after.items() if k not in timing} == {k: v for k, v in before.items() if k not in timing}


def test_banks_work_through_it_and_need_no_credential(site: Site, runs: dict[str, str], tmp_path: Path) -> None:
    """The bell of each of two banks rings through the gateway, its update is told, and no call of theirs is refused."""
    refused_before = site.log().count("refused bank=")
    workers = [start_bank(site, bank, tmp_path / bank) for bank in BANKS]
    try:
        for bank in BANKS:
            state = eventually(lambda run=runs[bank]: ended(site, run), f"an end of {bank}'s run")
            assert (state["type"], state["message"]) == ("COMPLETED", "Update sent")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    for bank in BANKS:
        calls = [json.loads(line) for line in (tmp_path / bank / "calls.jsonl").read_text().splitlines()]
        assert [call["key"] for call in calls] == [honest(SENT)["plan_key"]]
        assert CREDENTIAL not in (tmp_path / bank / "log").read_text()
    assert site.log().count("refused bank=") == refused_before, site.log()


def start_bank(site: Site, bank: str, home: Path) -> subprocess.Popen[bytes]:
    """The bank's own worker, configured by its bank.toml; only the round itself is a stub."""
    settings = BankSettings(
        bank=bank, coordinator_key="ab" * 32, storage_endpoint="http://127.0.0.1:9", storage_bucket="b",
        prefect_api=site.gateway, certificate=site.banks[bank].certificate, certificate_key=site.banks[bank].key,
        gateway_ca=site.folder / "authority.pem",
    )  # fmt: skip
    create_home(home, settings, SCHEMA, StorageKey(access_key="a", secret_key="s"))
    assert Home(home).settings == settings
    (home / "stub.py").write_text(STUB)
    child = [sys.executable, str(home / "stub.py"), "--home", str(home)]
    environment = clean_environment(home, PYTHONPATH=str(ROOT))
    with open(home / "log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", WORK, str(home), *child], env=environment, stdout=log, stderr=log
        )


def ended(site: Site, run: str) -> dict[str, Any] | None:
    """The run's final state, once there is one."""
    state: dict[str, Any] = site.admin("GET", f"/flow_runs/{run}")["state"]
    return state if state["type"] in {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"} else None


def frame(kind: str, **payload: Any) -> str:
    """A frame of a worker's channel."""
    return json.dumps({"type": kind, "id": str(uuid4()), "sent_at": datetime.now(UTC).isoformat(), "payload": payload})


def converse(site: Site, bank: str, path: str, *said: str, hear: int = 99) -> tuple[list[Any], int | None]:
    """What a bank hears on a websocket, at most so much, and the code with which the gateway closes it. Told to try again
    later (1013), it does."""

    async def talk() -> tuple[list[Any], int | None]:
        url = site.gateway.replace("https", "wss") + path
        heard: list[Any] = []
        async with (
            asyncio.timeout(PATIENCE_S),
            websockets.connect(
                url,
                ssl=site.tls(site.banks[bank]),
                subprotocols=["prefect"],
                proxy=None,
                open_timeout=None,
                ping_interval=None,
            ) as channel,
        ):
            try:
                for one in said:
                    await channel.send(one)
                while len(heard) < hear:
                    heard.append(json.loads(await channel.recv()))
            except websockets.ConnectionClosed:
                return heard, channel.close_code
            return heard, None

    def conversation() -> tuple[list[Any], int | None] | None:
        heard, closed = asyncio.run(talk())
        return (heard, closed) if closed != LATER else None

    held = eventually(conversation, f"a conversation on {path}")
    assert held is not None
    return held


HELLO = {
    "consumer_id": str(uuid4()), "worker_name": "w", "worker_type": "mintmark-bank", "heartbeat_interval_seconds": 30,
    "supported_channel_versions": ["work_pool_worker_channel.v1"], "work_queue_names": [],
    "requested_capabilities": ["worker_heartbeat.v1", "work_pool_snapshot.v1", "cleanup_delivery.v1"],
    "handled_cleanup_kinds": ["pending_claim_teardown.v1"], "max_cleanup_concurrency": 1,
    "create_pool_if_not_found": True, "default_base_job_template": {"job_configuration": {"command": "mine"}},
}  # fmt: skip
AUTH = json.dumps({"type": "auth", "token": "whatever"})


def test_a_workers_channel_shows_its_pool_and_takes_no_orders(site: Site, runs: dict[str, str]) -> None:
    """The greeting gets through without a template for the pool and without the capability to be ordered about."""
    channel, hello = "/work_pools/mintmark-bank-a/workers/connect", frame("worker.hello.v1", **HELLO)
    heard, closed = converse(site, "bank-a", channel, AUTH, hello, hear=2)
    assert closed is None
    assert heard[0] == {"type": "auth_success"}
    assert heard[1]["type"] == "worker.ready.v1"
    assert heard[1]["payload"]["accepted_capabilities"] == ["worker_heartbeat.v1", "work_pool_snapshot.v1"]
    pool = site.admin("GET", "/work_pools/mintmark-bank-a")
    assert "mine" not in json.dumps(pool)
    assert runs


def test_websockets_are_closed_for_what_is_not_the_banks(site: Site, runs: dict[str, str]) -> None:
    """Another pool's channel does not open; another bank's event, an order or nonsense closes the connection."""
    for path in ("/work_pools/mintmark-bank-b/workers/connect", "/events/out", "/logs/out", "/events/in?x=1"):
        with pytest.raises(websockets.InvalidStatus) as caught:
            converse(site, "bank-a", path)
        assert caught.value.response.status_code == 403

    def beat(run: str) -> str:
        resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
        said = {"id": str(uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": "prefect.flow-run.heartbeat"}
        return json.dumps(said | {"resource": resource})

    own = converse(site, "bank-a", "/events/in", AUTH, beat(runs["bank-a"]), hear=1)
    assert own == ([{"type": "auth_success"}], None)
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{runs['bank-a']}"]},
    }
    asked = {"filter": wanted, "limit": 50}
    eventually(lambda: site.admin("POST", "/events/filter", asked)["events"], "the event at the server")
    for said in (beat(runs["bank-b"]), "nonsense", frame("cleanup.ack.v1", message_id=str(uuid4()))):
        assert converse(site, "bank-a", "/events/in", AUTH, said)[1] == 1008
    assert converse(site, "bank-a", "/events/in", beat(runs["bank-a"])) == ([], 1008)
