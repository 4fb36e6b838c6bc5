"""The stage of the worker's tests: one Prefect server a session, real workers, and a stub for the bank's round.

The stub writes down how it was called and then does what the last two digits of the plan's key say. The server is
spoken to in plain HTTP, as a coordinator would, or whoever took its place.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import psutil
import pytest

import bank_node
from bank_node import bell
from infra.embedded.postgresql import start_postgresql
from infra.embedded.processes import EmbeddedError, ProcessGroup, free_ports
from infra.embedded.servers import answers

Seen = TypeVar("Seen")

PATIENCE_S = 180.0
"""How long a busy machine may take for whatever a test waits for: no figure of the product's."""

ROOT = Path(bank_node.__file__).resolve().parents[1]
DIGEST = "5e" * 32
SECRET = "row 17 belongs to Anna"
SENT, REFUSES, RAISES, HANGS, PRINTS, DIES = ("00", "01", "02", "03", "04", "05")

STUB = f"""
import json, os, sys, time, types
from pathlib import Path
from types import SimpleNamespace

def answer_plan(home, plan_key, plan_digest, now):
    call = dict(pid=os.getpid(), home=str(home), key=plan_key, digest=plan_digest, now=now.isoformat(),
                variables=sorted(os.environ), prefect="prefect" in sys.modules)
    with open(home / "calls.jsonl", "a") as calls:
        calls.write(json.dumps(call) + "\\n")
    what = plan_key[-2:]
    if what == "{RAISES}":
        raise ValueError("{SECRET}")
    if what == "{HANGS}":
        time.sleep(3600)
    if what == "{PRINTS}":
        print("a library's chatter", flush=True)
    if what == "{DIES}":
        os._exit(3)
    refused = what == "{REFUSES}"
    return SimpleNamespace(status="refused" if refused else "sent", reason="over_budget" if refused else "")

import bank_node
stub = types.ModuleType("bank_node.local_round")
stub.answer_plan, stub.warm = answer_plan, lambda: print("warming")
bank_node.local_round = sys.modules[stub.__name__] = stub
from bank_node.child import main
sys.exit(main())
"""

WORK = """
import sys
from pathlib import Path
from bank_node.worker import run_worker
home, pool, api_url, *command = sys.argv[1:]
run_worker(Path(home), pool, api_url, poll_s=0.2, command=command)
"""


def plan_key(what: str) -> str:
    """The key of a plan that makes the stub do `what`."""
    return f"public/campaigns/cards-7/plans/0001-{what}"


def honest(what: str = SENT) -> dict[str, Any]:
    """The parameters of an honest run."""
    return {"plan_key": plan_key(what), "plan_digest": DIGEST}


def eventually(look: Callable[[], Seen], what: str, within_s: float = PATIENCE_S) -> Seen:
    """The first true value that `look` gives; fails when it gives none for so long."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"expected {what} within {within_s} s"
        time.sleep(0.1)
    return seen


def answered(ask: Callable[[], httpx.Response], what: str) -> httpx.Response:
    """The answer to a request; whoever says "try again later" (503) is asked again."""

    def answer() -> httpx.Response | None:
        response = ask()
        return response if response.status_code != httpx.codes.SERVICE_UNAVAILABLE else None

    response = eventually(answer, f"an answer to {what}")
    assert response is not None
    return response


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@dataclass(frozen=True)
class PrefectServer:
    """A Prefect server, spoken to in plain HTTP as a coordinator (or whoever took its place) would."""

    url: str
    home: Path

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The parsed answer to one request."""
        response = answered(
            lambda: httpx.request(method, self.url + path, json=body, timeout=PATIENCE_S), f"{method} {path}"
        )
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text[:500]}"
        return response.json() if response.content else None

    def create_pool(self, name: str, template: dict[str, Any] | None = None, kind: str = "mintmark-bank") -> None:
        """Create a work pool, by default with the one inert field that the server insists on."""
        inert = {"job_configuration": {"name": "{{ name }}"}, "variables": {"properties": {"name": {"type": "string"}}}}
        self.call("POST", "/work_pools/", {"name": name, "type": kind, "base_job_template": template or inert})

    def ring(
        self,
        pool: str,
        parameters: dict[str, Any],
        deployment: dict[str, Any] | None = None,
        run: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
    ) -> str:
        """Deploy something to the pool and start a run of it, whose scheduled state holds `data`; the run's id."""
        flow = self.call("POST", "/flows/", {"name": "answer-plan"})
        body = {"name": f"to-{uuid4()}", "flow_id": flow["id"], "work_pool_name": pool, "entrypoint": "nowhere:nothing"}
        lax = {"enforce_parameter_schema": False}
        deployed = self.call("POST", "/deployments/", body | lax | (deployment or {}))
        begun = {"parameters": parameters, "state": {"type": "SCHEDULED" if data is None else "PENDING"}}
        made = self.call("POST", f"/deployments/{deployed['id']}/create_flow_run", begun | (run or {}))
        if data is not None:
            due = {"scheduled_time": datetime.now(UTC).isoformat()}
            state = {"type": "SCHEDULED", "data": data, "state_details": due}
            self.call("POST", f"/flow_runs/{made['id']}/set_state", {"state": state, "force": True})
        return str(made["id"])

    def state(self, run_id: str) -> dict[str, Any]:
        """The run's state."""
        state: dict[str, Any] = self.call("GET", f"/flow_runs/{run_id}")["state"]
        return state

    def final(self, run_id: str) -> tuple[str, str, str]:
        """Type, name and message of the state in which the run ends."""

        def ended() -> dict[str, Any] | None:
            state = self.state(run_id)
            return state if state["type"] in {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"} else None

        state = eventually(ended, f"an end of run {run_id}")
        assert state is not None
        return state["type"], state["name"], state["message"]


@dataclass(frozen=True)
class BankProcess:
    """A worker in a process of its own, as a bank starts it."""

    process: subprocess.Popen[bytes]
    home: Path

    def log(self) -> str:
        """The bank's own log so far."""
        return (self.home / "log").read_text()

    def calls(self) -> list[dict[str, Any]]:
        """How the stub was called so far."""
        calls = self.home / "calls.jsonl"
        return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    def children(self) -> list[int]:
        """The process ids of the worker's children."""
        return [child.pid for child in psutil.Process(self.process.pid).children()]


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without its Prefect settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return kept | {"PREFECT_HOME": str(home / "prefect"), "DO_NOT_TRACK": "1"} | more


SERVER = pytest.StashKey[PrefectServer]()


def the_server(config: pytest.Config, home: Path) -> PrefectServer:
    """The session's Prefect server; started when it is first asked for."""
    if SERVER not in config.stash:
        group = ProcessGroup(home / "logs")
        config.add_cleanup(group.stop)
        config.stash[SERVER] = PrefectServer(start_prefect(group, home), home)
    return config.stash[SERVER]


def start_prefect(group: ProcessGroup, home: Path, **settings: str) -> str:
    """Start a Prefect server in the folder `home`, on PostgreSQL where its programs are, else on SQLite, whose single
    writer makes everybody wait; the URL of its API, once that answers."""
    try:
        database = start_postgresql(group, os.environ, ["prefect"]).url("asyncpg", "prefect")
    except EmbeddedError:
        database = f"sqlite+aiosqlite:///{home}/prefect.db"
    environment = clean_environment(
        home,
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_SERVER_UI_ENABLED="false",
        PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL="0.5",  # else events can be read after five seconds
        PREFECT_SERVER_DATABASE_CONNECTION_URL=database,
        **settings,
    )
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    group.start("prefect", command, env=environment, stop_signal=signal.SIGKILL, orphan_signal=signal.SIGKILL)
    url = f"http://127.0.0.1:{port}/api"
    group.wait_ready("prefect", lambda: answers(f"{url}/health"), PATIENCE_S)
    return url


def start_bank(server: PrefectServer, pool: str, home: Path, **more: str) -> BankProcess:
    """Start a worker for the pool, with the stub as its child."""
    home.mkdir(exist_ok=True)
    (home / "stub.py").write_text(STUB)
    environment = clean_environment(home, PYTHONPATH=str(ROOT)) | more
    child = [sys.executable, str(home / "stub.py"), "--home", str(home)]
    command = [sys.executable, "-c", WORK, str(home), pool, server.url, *child]
    with open(home / "log", "wb") as log:
        return BankProcess(subprocess.Popen(command, env=environment, stderr=log, stdout=log), home)


def end_bank(bank: BankProcess) -> None:
    """Kill what is left of a worker."""
    if bank.process.poll() is None:
        bank.process.kill()
    bank.process.wait()


class Answers:
    """A client whose server gives the listed answers, one a request, and notes what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.asked = list(answers), list[httpx.Request]()
        self._http = httpx.AsyncClient(
            transport=httpx.MockTransport(self._answer), base_url="http://127.0.0.1/api", **bell.bounded_http()
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def request(self, method: Any, path: Any, *, path_params: Any, json: Any) -> httpx.Response:
        """As Prefect's client does."""
        response = await self._http.request(method, path.format(**path_params), json=json)
        return response.raise_for_status()
