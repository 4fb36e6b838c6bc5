"""The stage of the gateway's tests: a stub of Prefect that knows two banks, and requests put together by hand."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx

from infra.gateway.app import Gateway
from infra.gateway.gate import Gate
from infra.gateway.tls import Peer
from infra.gateway.upstream import Upstream

CREDENTIAL = "gateway:not-for-banks"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
BANKS = ("bank-a", "bank-b")
POOL = {bank: f"mintmark-{bank}" for bank in BANKS}
FINGERPRINT = {"bank-a": "aa" * 32, "bank-b": "bb" * 32, "stranger": "cc" * 32}
RUN = {bank: UUID(int=number) for number, bank in enumerate(BANKS, 1)}
DEPLOYMENT = {bank: UUID(int=number) for number, bank in enumerate(BANKS, 11)}
SECRET = "of another bank, or code"
CLIENT = UUID(int=99)


def state(kind: str = "SCHEDULED") -> dict[str, Any]:
    """A state as a server tells it, with data that a careless client would load."""
    return {
        "id": str(UUID(int=21)), "type": kind, "name": kind.title(), "timestamp": "2030-01-01T00:00:00Z",
        "message": None, "data": {"__class__": SECRET}, "state_details": {"flow_run_id": SECRET},
    }  # fmt: skip


def told_run(bank: str) -> dict[str, Any]:
    """A run as a server tells it."""
    return {
        "id": str(RUN[bank]), "name": "round 1", "flow_id": str(UUID(int=31)), "work_pool_name": POOL[bank],
        "parameters": {"plan_key": "public/plan"}, "context": {"x": SECRET}, "job_variables": {"command": SECRET},
        "created_by": {"display_value": SECRET}, "state": state(), "idempotency_key": SECRET,
    }  # fmt: skip


class Prefect:
    """A stub server: it answers as the real one does and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.trouble: httpx.Response | Exception | None = None

    def answer(self, request: httpx.Request) -> httpx.Response:
        """One answer; the set trouble first."""
        self.asked.append(request)
        if isinstance(self.trouble, Exception):
            raise self.trouble
        told = self.trouble or self._response(request)
        return httpx.Response(told.status_code, headers=told.headers, stream=httpx.ByteStream(told.content))

    def _response(self, request: httpx.Request) -> httpx.Response:
        status, body = self._tell(request.method, request.url.path.removeprefix("/api").split("/")[1:])
        return httpx.Response(status, json=body) if status != 204 else httpx.Response(204)

    def _tell(self, method: str, parts: list[str]) -> tuple[int, Any]:
        match method, parts:
            case "GET", ["flow_runs", run]:
                owner = next((bank for bank in BANKS if str(RUN[bank]) == run), None)
                return (200, told_run(owner)) if owner else (404, {"detail": SECRET})
            case "GET", ["deployments", one]:
                owner = next((bank for bank in BANKS if str(DEPLOYMENT[bank]) == one), None)
                told = {"id": one, "name": "bell", "flow_id": one, "pull_steps": SECRET}
                return (200, told | {"work_pool_name": POOL[owner]}) if owner else (404, {"detail": SECRET})
            case "POST", ["work_pools", pool, "get_scheduled_flow_runs"]:
                due = [told_run(bank) for bank in BANKS if POOL[bank] == pool]
                ids = {"work_pool_id": str(uuid4()), "work_queue_id": str(uuid4())}
                return 200, [ids | {"flow_run": run} for run in due]
            case "POST", ["work_pools", _, "queues", "filter"]:
                return 200, [{"id": str(uuid4()), "name": "default", "last_polled": SECRET}]
            case "GET", ["work_pools", pool]:
                return 200, {"id": str(uuid4()), "name": pool, "type": "mintmark-bank", "storage_configuration": SECRET}
            case "POST", ["flow_runs", "filter"]:
                return 200, [told_run(BANKS[0])]
            case "POST", ["flow_runs", _, "set_state"]:
                return 201, {"status": "ACCEPT", "state": state("RUNNING"), "details": {"type": "accept_details"}}
            case "GET", ["csrf-token"]:
                return 422, {"detail": "CSRF protection is disabled."}
            case "GET", ["admin", "version"]:
                return 200, "3.8.8"
        return 204, None

    def bodies(self) -> list[Any]:
        """The bodies that came through, parsed."""
        return [json.loads(request.content) for request in self.asked if request.content]


class Stage:
    """A gateway before the stub."""

    def __init__(self, requests_per_s: float = 10_000.0) -> None:
        self.prefect = Prefect()
        upstream = Upstream("http://prefect.test/api", CREDENTIAL, httpx.MockTransport(self.prefect.answer))
        bank_of = {FINGERPRINT[bank]: bank for bank in BANKS}
        self.gateway = Gateway(Gate(upstream, bank_of, POOL, requests_per_s, now=lambda: NOW))

    def ask(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        bank: str = "bank-a",
        headers: list[tuple[str, str]] | None = None,
        not_after: datetime = NOW + timedelta(days=1),
        sent: bytes | None = None,
    ) -> httpx.Response:
        """The answer to one request, its target as it is on the wire; `sent` stands for what `body` would be."""
        content = sent if sent is not None else b"" if body is None else json.dumps(body).encode()
        given = headers or []
        if content and headers is None:
            given = [("content-type", "application/json"), ("content-length", str(len(content)))]
        raw_path, _, query = target.encode().partition(b"?")
        scope = {
            "type": "http", "method": method, "raw_path": raw_path, "path": "/never/looked/at", "query_string": query,
            "headers": [(name.lower().encode(), value.encode()) for name, value in given],
            "state": {"peer": Peer(FINGERPRINT[bank], not_after)},
        }  # fmt: skip
        return asyncio.run(self._ask(scope, content))

    async def _ask(self, scope: dict[str, Any], content: bytes) -> httpx.Response:
        incoming = [{"type": "http.request", "body": content, "more_body": False}, {"type": "http.disconnect"}]
        outgoing: list[Any] = []

        async def receive() -> Any:
            return incoming.pop(0)

        async def send(message: Any) -> None:
            outgoing.append(message)

        await self.gateway(scope, receive, send)
        return httpx.Response(outgoing[0]["status"], headers=outgoing[0]["headers"], content=outgoing[1]["body"])


def event(bank: str, kind: str = "prefect.flow-run.heartbeat", resource: str | None = None) -> dict[str, Any]:
    """An event as a worker sends it, with what a gateway keeps for itself."""
    return {
        "id": str(UUID(int=41)), "occurred": "2030-01-01T00:00:00Z", "event": kind, "payload": {"x": SECRET},
        "resource": {"prefect.resource.id": resource or f"prefect.flow-run.{RUN[bank]}"}, "related": [],
    }  # fmt: skip


def log_line(bank: str) -> dict[str, Any]:
    """A line of a run's log."""
    line = {"name": "prefect.flow_runs", "level": 20, "message": "works", "timestamp": "2030-01-01T00:00:00Z"}
    return line | {"flow_run_id": str(RUN[bank])}


def proposal(kind: str = "RUNNING", **more: Any) -> dict[str, Any]:
    """A state that a worker offers."""
    return {"state": {"type": kind, "name": kind.title()} | more, "force": False}


def due_in(pool: str) -> dict[str, Any]:
    """The question for the due runs of a pool."""
    due = {"state": {"type": {"any_": ["SCHEDULED"]}}, "next_scheduled_start_time": {"before_": "2030-01-01T00:00:00Z"}}
    return {
        "work_pools": {"name": {"any_": [pool]}},
        "flow_runs": due,
        "sort": "NEXT_SCHEDULED_START_TIME_ASC",
        "limit": 10,
    }


def listed(bank: str) -> list[tuple[str, str, str, Any]]:
    """Method, route, target and body of one good request on every route of the list, all about this bank."""
    pool, run, deployment = POOL[bank], RUN[bank], DEPLOYMENT[bank]
    due = {"scheduled_before": "2030-01-01T00:00:00Z", "limit": 10}
    return [
        ("POST", "/work_pools/{pool}/workers/heartbeat", f"/work_pools/{pool}/workers/heartbeat", {"name": pool}),
        ("POST", "/work_pools/{pool}/get_scheduled_flow_runs", f"/work_pools/{pool}/get_scheduled_flow_runs", due),
        ("POST", "/flow_runs/filter", "/flow_runs/filter", due_in(pool)),
        ("POST", "/flow_runs/{run}/set_state", f"/flow_runs/{run}/set_state", proposal()),
        ("GET", "/flow_runs/{run}", f"/flow_runs/{run}", None),
        ("POST", "/events", "/events", [event(bank)]),
        ("GET", "/csrf-token", f"/csrf-token?client={CLIENT}", None),
        ("GET", "/admin/version", "/admin/version", None),
        ("GET", "/work_pools/{pool}", f"/work_pools/{pool}", None),
        ("POST", "/work_pools/{pool}/queues/filter", f"/work_pools/{pool}/queues/filter", {"limit": 5}),
        ("GET", "/deployments/{deployment}", f"/deployments/{deployment}", None),
        ("PATCH", "/flow_runs/{run}", f"/flow_runs/{run}", {"infrastructure_pid": "17"}),
        ("PATCH", "/flow_runs/{run}/labels", f"/flow_runs/{run}/labels", {"prefect.worker.name": "w"}),
        ("POST", "/logs/", "/logs/", [log_line(bank)]),
    ]
