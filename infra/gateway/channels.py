"""The two websockets that a worker built on Prefect's own loops opens: its channel, and a stream of events.

Mintmark's own worker opens neither. Each message is parsed, checked and written anew like a request's body. A worker's
greeting loses what would change the pool (a template, its creation) and what would let the server give orders (clean-up);
of the server's frames pass those that show the bank's own pool. The credential in the first message is the gateway's.

    await relay(gate, scope, receive, send)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.typing import Subprotocol

from infra.gateway.asked import Asked, Event, Word
from infra.gateway.gate import Gate, RefusedError, not_there, note
from infra.gateway.routes import Found
from infra.gateway.told import Told
from infra.gateway.upstream import UnavailableError, UnsoundError

MAX_MESSAGE_BYTES = 64 * 1024
"""The longest message of a bank; uvicorn holds it (serving.py)."""
MAX_FRAME_BYTES = 1024 * 1024
HELLO_S = 10.0
"""How long the first message, and the server's answer to it, may take."""
POLICY, LATER = 1008, 1013
"""Why a websocket is closed: for what the bank did, or for what will pass."""
ENDINGS = {1000, 1001, 1002, POLICY, 1011, LATER}
"""The server's reasons that are passed on."""


class _Greeting(Asked):
    type: Literal["auth"]
    token: object = None


class _Hello(Asked):
    model_config = ConfigDict(extra="ignore", frozen=True)

    consumer_id: UUID
    worker_name: Word
    worker_type: Word
    heartbeat_interval_seconds: Annotated[int, Field(ge=1, le=3600)]
    supported_channel_versions: Annotated[list[Word], Field(max_length=10)]
    requested_capabilities: Annotated[list[Word], Field(max_length=10)]
    work_queue_names: Annotated[tuple[Word, ...], Field(max_length=20)] = ()


class _Beat(Asked):
    consumer_id: UUID
    worker_name: Word
    heartbeat_interval_seconds: Annotated[int, Field(ge=1, le=3600)]


class _HelloFrame(Asked):
    type: Literal["worker.hello.v1"]
    id: UUID
    sent_at: AwareDatetime
    payload: _Hello

    def wire(self) -> bytes:
        """Without the capability to be given orders."""
        kept = [one for one in self.payload.requested_capabilities if not one.startswith("cleanup")]
        payload = self.payload.model_copy(update={"requested_capabilities": kept})
        return self.model_copy(update={"payload": payload}).model_dump_json().encode()


class _BeatFrame(Asked):
    type: Literal["worker.heartbeat.v1"]
    id: UUID
    sent_at: AwareDatetime
    payload: _Beat


class _Shown(Told):
    name: str


class _Snapshot(Told):
    work_pool: _Shown


class _Payload(Told):
    work_pool: _Shown | None = None
    initial_snapshot: _Snapshot | None = None


class _ServerFrame(Told):
    type: Literal["worker.ready.v1", "work_pool.snapshot.v1"]
    payload: _Payload

    def pools(self) -> Iterable[str]:
        """The work pools that it shows."""
        shown = self.payload.initial_snapshot.work_pool if self.payload.initial_snapshot else self.payload.work_pool
        return [shown.name] if shown else []


_SAID: dict[str, TypeAdapter[Any]] = {
    "/events/in": TypeAdapter(Event),
    "/work_pools/{pool}/workers/connect": TypeAdapter(Annotated[_HelloFrame | _BeatFrame, Field(discriminator="type")]),
}


async def relay(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """Attend one websocket of a bank until either side ends it. Refusals close it with 1008, passing trouble with 1013."""
    bank, found, bank_side = "-", None, WebSocket(scope, receive, send)
    try:
        bank = gate.bank(scope)
        found = gate.route(bank, scope, "WS")
        if "prefect" not in scope.get("subprotocols", []):
            raise RefusedError(400, "Expected the subprotocol prefect.")
        await bank_side.accept(subprotocol="prefect")
        await _Conversation(gate, bank, found, bank_side).run()
    except* RefusedError as group:
        refused = next(_leaves(group))
        note(bank, "WS", found, refused)
        await _close(bank_side, LATER if refused.status == 429 else POLICY, refused.sentence)
    except* (UnavailableError, UnsoundError, WebSocketException, OSError, ValueError):
        await _close(bank_side, LATER, "Prefect does not answer now; try again.")
    except* WebSocketDisconnect:
        pass


class _Conversation:
    def __init__(self, gate: Gate, bank: str, found: Found, bank_side: WebSocket) -> None:
        self._gate, self._bank, self._found, self._bank_side = gate, bank, found, bank_side
        self._said = _SAID[found.route.template]

    async def run(self) -> None:
        """Introduce both sides, then carry what each says until one ends."""
        async with asyncio.timeout(HELLO_S):
            self._parse(TypeAdapter(_Greeting), await self._bank_side.receive_text())
        url = self._gate.upstream.api_url.replace("http", "ws", 1) + self._found.path
        async with connect(
            url,
            subprotocols=[Subprotocol("prefect")],
            max_size=MAX_FRAME_BYTES,
            open_timeout=HELLO_S,
            proxy=None,
        ) as server:
            await self._introduce(server)
            async with asyncio.TaskGroup() as ways:
                up = ways.create_task(self._up(server))
                ways.create_task(self._down(server, up))

    async def _introduce(self, server: ClientConnection) -> None:
        await server.send(json.dumps({"type": "auth", "token": self._gate.upstream.credential}))
        async with asyncio.timeout(HELLO_S):
            answer = await server.recv()
        if json.loads(answer) != {"type": "auth_success"}:
            raise InvalidHandshake("expected auth_success")
        await self._bank_side.send_json({"type": "auth_success"})

    async def _up(self, server: ClientConnection) -> None:
        while True:
            asked = self._parse(self._said, await self._bank_side.receive_text())
            self._gate.bank(self._bank_side.scope)
            self._gate.count(self._bank)
            await self._gate.own(self._bank, asked)
            await server.send(asked.wire().decode())

    async def _down(self, server: ClientConnection, up: asyncio.Task[None]) -> None:
        async for frame in server:
            self._gate.bank(self._bank_side.scope)
            try:
                shown = _ServerFrame.model_validate_json(frame).pools()
            except ValidationError:
                continue  # an order, or a frame of a later version: not for a bank
            if shown != [self._gate.pools[self._bank]]:
                raise not_there()
            await self._bank_side.send_text(frame if isinstance(frame, str) else frame.decode())
        up.cancel()
        code = server.close_code if server.close_code in ENDINGS else LATER
        await _close(self._bank_side, code, "Prefect has ended the conversation.")

    def _parse(self, kind: TypeAdapter[Any], said: str) -> Any:
        try:
            return kind.validate_json(said)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            raise RefusedError(422, f"A bank may not say this here: {first['type']}.") from None


def _leaves(group: BaseExceptionGroup[RefusedError]) -> Iterator[RefusedError]:
    for error in group.exceptions:
        yield from _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]


async def _close(bank_side: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(RuntimeError):  # it is closed already
        await bank_side.close(code, reason)
