"""The gateway: an ASGI application between the banks and Prefect, which gives each bank its own work pool only.

A request passes when, in this order: its certificate is a bank's, the bank asks no more often than it may, the head is
plain, the route is on the list, the pool in it is the bank's, the body is one the route takes, and every run that path
or body names is in the bank's pool. What passes is written anew; so is the answer. Everything else gets one sentence:
404 for what the bank has no part in, another 4xx for what it did wrong, 503 for what will pass, so that Prefect's client
tries again.

A refusal is logged as bank, method, route and reason; bodies, paths and the server's words are not.
"""

from __future__ import annotations

import asyncio
import logging
from uuid import NAMESPACE_URL, uuid5

from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from infra.gateway.asked import Asked
from infra.gateway.channels import relay
from infra.gateway.gate import Gate, RefusedError, not_there, note
from infra.gateway.routes import Found
from infra.gateway.told import DueRun, ToldRun
from infra.gateway.upstream import UnavailableError, UnsoundError

MAX_BODY_BYTES = 256 * 1024
BODY_S = 10.0
"""How long a body may take to arrive."""
_CSRF_CLIENT, _CSRF_TOKEN = "prefect-csrf-client", "prefect-csrf-token"
_CSRF_OFF, _CSRF_WRONG = "CSRF protection is disabled.", "Invalid CSRF token or client identifier."

log = logging.getLogger(__name__)


class Gateway:
    """The application behind one gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or attend one websocket."""
        if scope["type"] == "websocket":
            await relay(self._gate, scope, receive, send)
        else:
            response = await self._respond(scope, receive)
            await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        bank, found = "-", None
        try:
            bank = self._gate.bank(scope)
            found = self._gate.route(bank, scope, scope["method"])
            return await self._pass_on(bank, found, scope, receive)
        except RefusedError as refused:
            note(bank, scope["method"], found, refused)
            return _sentence(refused.status, refused.sentence, retry=refused.status == 429)
        except UnavailableError as error:
            log.warning("Prefect is away: bank=%s reason=%s", bank, error)
            return _sentence(503, "Prefect does not answer now; try again.", retry=True)
        except UnsoundError as error:
            log.error("Prefect answers what the gateway does not know: bank=%s reason=%s", bank, error)
            return _sentence(500, "Prefect's answer was not understood; tell the coordinator.")

    async def _pass_on(self, bank: str, found: Found, scope: Scope, receive: Receive) -> Response:
        headers = Headers(scope=scope)
        body = await _body(headers, receive, needed=found.route.asks is not None)
        asked = _parse(found, body)
        await self._gate.own(bank, asked, found.run)
        query = {"client": _csrf_client(bank, found.ids["client"])} if "client" in found.ids else None
        status, answer = await self._gate.upstream.ask(
            found.route.method, found.path, asked.wire() if asked else None, query, _csrf_headers(bank, headers)
        )
        return self._answer(bank, found, status, answer)

    def _answer(self, bank: str, found: Found, status: int, answer: bytes) -> Response:
        if status >= 300:
            return _upstream_refusal(status, answer)
        if found.route.tells is None:
            return Response(status_code=204)
        try:
            told = found.route.tells.validate_json(answer)
        except ValidationError as error:
            raise UnsoundError(f"{found.route.template}: {error.error_count()} faults") from None
        pool = self._gate.pools[bank]
        if "deployment" in found.ids and told.work_pool_name != pool:
            raise not_there()
        for one in told if isinstance(told, list) else ():
            if isinstance(one, DueRun):
                self._gate.upstream.remember(one.flow_run.id, pool)
            elif isinstance(one, ToldRun):
                if one.work_pool_name != pool:
                    raise not_there()
                self._gate.upstream.remember(one.id, pool)
        return Response(found.route.tells.dump_json(told), media_type="application/json")


async def _body(headers: Headers, receive: Receive, *, needed: bool) -> bytes:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) < 10) or int(length) > MAX_BODY_BYTES:
        raise RefusedError(413, f"Expected a body of at most {MAX_BODY_BYTES} bytes.")
    if needed == (int(length) == 0):
        raise RefusedError(400, "Expected a body of JSON, got none." if needed else "Expected no body, got one.")
    if needed and headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise RefusedError(415, "Expected a body of application/json.")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while len(body) < int(length):
                message: Message = await receive()
                if message["type"] != "http.request":
                    raise RefusedError(400, "Expected the whole body, got a part.")
                body += message.get("body", b"")
    except TimeoutError:
        raise RefusedError(408, f"Expected the whole body within {BODY_S:.0f} s.") from None
    return bytes(body)


def _parse(found: Found, body: bytes) -> Asked | None:
    if found.route.asks is None:
        return None
    try:
        return found.route.asks.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        # Only the kind of fault: names of fields may be the caller's own words.
        raise RefusedError(422, f"A bank may not say this on this route: {first['type']}.") from None


def _csrf_client(bank: str, client: str) -> str:
    """A bank's clients live in a space of their own, so that none can void another's token."""
    return str(uuid5(NAMESPACE_URL, f"{bank}/{client}"))


def _csrf_headers(bank: str, headers: Headers) -> dict[str, str]:
    client, token = headers.get(_CSRF_CLIENT, ""), headers.get(_CSRF_TOKEN, "")
    if not client or not (token.isascii() and token.isalnum()) or len(token) > 128:
        return {}
    return {_CSRF_CLIENT: _csrf_client(bank, client), _CSRF_TOKEN: token}


def _upstream_refusal(status: int, answer: bytes) -> Response:
    """The server's own words stay here, but for the two sentences that Prefect's client waits for."""
    for sentence in (_CSRF_OFF, _CSRF_WRONG):
        if sentence.encode() in answer:
            return _sentence(status, sentence)
    if status == 404:
        raise not_there()
    raise RefusedError(status if 400 <= status < 500 else 500, "Prefect refuses this.")


def _sentence(status: int, sentence: str, *, retry: bool = False) -> Response:
    return JSONResponse({"detail": sentence}, status, headers={"Retry-After": "1"} if retry else None)
