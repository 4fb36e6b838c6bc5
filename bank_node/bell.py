"""The bell: all that a bank ever says to a Prefect server, and all of the server's answers that it reads.

A bank polls its work pool, offers states for its runs and says that it lives. From the answers it takes a run's id,
its parameters (as JSON, validated elsewhere), and the type of its state. No Prefect model touches an answer: parsing a
Prefect `State` imports modules that the server names, and reading its `data` may unpickle what the server wrote.
Answers are bounded in bytes and seconds; redirects and compression are refused.

Nothing here raises for what a server does to a single run: that is told by a word (`DELETED`, `UNKNOWN`). `due` and
`beat` raise, for their callers repeat them.

Left out: a connection (it comes in as a client), websockets (none is opened), log lines (none is sent).

    bell = Bell(client, pool="bank-alpine")
    for run in await bell.due():
        await bell.propose(run.id, refused("over_budget"))
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
from pydantic import BaseModel, Field, TypeAdapter

from mintmark.errors import ProtocolError

MAX_RUNS = 10
"""How many due runs one poll asks for."""
MAX_ANSWER_BYTES = 8 * 2**20
"""The longest answer that is read, in bytes; a Prefect server takes at most half a MiB of parameters a run."""
REQUEST_S = 60.0
"""How long one request may take, whatever the server asks us to wait."""
CLOCK_SKEW_S = 10
"""How far the bank's clock may lag behind the server's before its runs start late."""
HEARTBEAT_S = 30.0
"""How often the worker and its run say that they live."""
OFFER_FOR_S = 120.0
"""How long a state is offered to a server that does not answer."""
MAX_PAUSE_S = 5.0
"""The longest pause between two attempts."""


class State(BaseModel, frozen=True):
    """What a bank may tell about a run. Only the reason in `refused` is not fixed."""

    type: Literal["RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED"]
    name: str
    message: str


RUNNING = State(type="RUNNING", name="Running", message="The bank works on the plan")
SENT = State(type="COMPLETED", name="Completed", message="Update sent")
FAILED = State(type="FAILED", name="Failed", message="Local job failed; details are in the bank's own log")
CANCELLED = State(type="CANCELLED", name="Cancelled", message="Cancelled at the bank")
STOPPED = State(type="CRASHED", name="Stopped", message="The bank's worker was stopped")

# What a server may hold besides the types of states.
ABORTED, DELETED, UNKNOWN = "ABORTED", "DELETED", "UNKNOWN"


def refused(reason: str) -> State:
    """The bank does not answer this plan; `reason` is one snake_case word."""
    return State(type="FAILED", name="Refused", message=f"Refused: {reason}")


class Run(BaseModel):
    """A run of the pool whose time has come."""

    id: UUID
    parameters: Any


class _Type(BaseModel):
    type: str = Field(pattern="^[A-Z]{1,20}$")


class _Stated(BaseModel):
    state: _Type


class _Ruling(BaseModel):
    status: Literal["ACCEPT", "REJECT", "ABORT", "WAIT"]
    state: _Type | None = None


_RUNS = TypeAdapter(list[Run])


class Client(Protocol):
    """What of Prefect's client is used: it knows the address, the credential and the CSRF token."""

    async def request(self, method: Any, path: Any, *, path_params: Any, json: Any) -> httpx.Response:
        """Send one request; raises `httpx.HTTPStatusError` for an answer of 400 and above."""


class Bell:
    """The conversation about one work pool."""

    def __init__(self, client: Client, pool: str) -> None:
        self._client, self._pool = client, pool

    async def due(self) -> list[Run]:
        """The runs whose time has come, at most `MAX_RUNS`. Raises for a server that is away or talks nonsense."""
        # Only read: asking for the pool's scheduled runs costs the server six times as much, and writes.
        wanted = {
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "next_scheduled_start_time": {"before_": _soon()},
        }
        body = {
            "work_pools": {"name": {"any_": [self._pool]}},
            "flow_runs": wanted,
            "sort": "NEXT_SCHEDULED_START_TIME_ASC",
            "limit": MAX_RUNS,
        }
        return _RUNS.validate_json(await self._ask("POST", "/flow_runs/filter", {}, body))

    async def beat(self) -> None:
        """Say that the worker lives and its queue is served. Raises like `due`."""
        ids = {"work_pool_name": quote(self._pool, safe="")}
        body = {"name": self._pool, "heartbeat_interval_seconds": int(HEARTBEAT_S)}
        await self._ask("POST", "/work_pools/{work_pool_name}/workers/heartbeat", ids, body)
        asked = {"scheduled_before": _soon(), "limit": 1}  # by this Prefect knows that the queue is served
        await self._ask("POST", "/work_pools/{work_pool_name}/get_scheduled_flow_runs", ids, asked)

    async def beat_run(self, run_id: UUID) -> None:
        """Say that the run lives; a lost beat is no trouble."""
        event = {
            "id": str(uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run_id}"},
        }
        with contextlib.suppress(Exception):
            await self._ask("POST", "/events", {}, [event])

    async def state_of(self, run_id: UUID) -> str:
        """The type of the run's state; `DELETED`, or `UNKNOWN` where the server does not say."""
        try:
            answer = await self._ask("GET", "/flow_runs/{id}", {"id": run_id})
            return _Stated.model_validate_json(answer).state.type
        except Exception as error:
            return _absence(error)

    async def propose(self, run_id: UUID, state: State) -> str:
        """Offer a state until the server rules on it, for at most `OFFER_FOR_S`.

        Returns the type of the state that the server then holds; `ABORTED`, `DELETED`, or `UNKNOWN` if it never ruled.
        """
        clock = asyncio.get_running_loop().time
        deadline, pause_s = clock() + OFFER_FOR_S, 0.5
        while True:
            held = await self._propose_once(run_id, state)
            if held != UNKNOWN or clock() + pause_s > deadline:
                return held
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _propose_once(self, run_id: UUID, state: State) -> str:
        body = {"state": state.model_dump(), "force": False}
        try:
            answer = await self._ask("POST", "/flow_runs/{id}/set_state", {"id": run_id}, body)
            ruling = _Ruling.model_validate_json(answer)
        except Exception as error:
            return _absence(error)
        if ruling.status == "REJECT" and ruling.state is not None:
            return ruling.state.type
        return {"ACCEPT": state.type, "ABORT": ABORTED}.get(ruling.status, UNKNOWN)

    async def _ask(self, method: str, path: str, ids: dict[str, Any], body: Any = None) -> bytes:
        async with asyncio.timeout(REQUEST_S):
            response = await self._client.request(method, path, path_params=ids, json=body)
        return response.content


def bounded_http(tls: ssl.SSLContext | None = None) -> dict[str, Any]:
    """Settings for an `httpx.AsyncClient` that follows no redirect and reads only short, plain answers.

    `tls` holds the bank's certificate for a gateway; without it the client trusts the usual authorities.
    """
    return {
        **({} if tls is None else {"verify": tls}),
        "follow_redirects": False,
        "headers": {"Accept-Encoding": "identity"},
        "event_hooks": {"response": [_bound]},
    }


async def _bound(response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ProtocolError("expected an answer as it is, got a compressed one; ask the coordinator to switch it off")
    assert isinstance(response.stream, httpx.AsyncByteStream)  # of an asynchronous client
    response.stream = _Bounded(response.stream)


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise ProtocolError(f"expected at most {MAX_ANSWER_BYTES} bytes, got more; ask the coordinator why")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def _soon() -> str:
    return (datetime.now(UTC) + timedelta(seconds=CLOCK_SKEW_S)).isoformat()


def _absence(error: Exception) -> str:
    return DELETED if status_of(error) == httpx.codes.NOT_FOUND else UNKNOWN


def status_of(error: Exception) -> int | None:
    """The status of the answer that the error is about, if there was one."""
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
