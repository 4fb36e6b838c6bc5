"""The scoring service: POST /score, GET /model, GET /healthz. Nothing else, and nothing that changes it from outside.

The model in use is one reference, which the background check replaces as a whole: a request is answered by one model from
beginning to end, and a newer one that does not pass its checks changes nothing. No request, answer or error text is logged.

    app = make_app(served, schema, newer=lambda now: newer_model(site, now), every_s=60.0)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bank_node.serving.answer import MAX_REASONS, REASONS, answer, describe
from bank_node.serving.models import ServedModel
from bank_node.serving.transaction import MAX_BODY_BYTES, read_transaction
from mintmark.errors import DataError, MintmarkError
from mintmark.schema import FeatureSchema

READ_S = 5.0
"""How long a request's body may take to arrive."""

log = logging.getLogger(__name__)

Newer = Callable[[ServedModel], ServedModel | None]
"""From the model in use, the one that takes its place, or None. May take seconds; runs in a thread of its own."""


class _Refusal(Exception):  # noqa: N818  (an answer, not a fault)
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass
class _Service:
    served: ServedModel
    schema: FeatureSchema
    clip: bool
    since: datetime
    checked: datetime | None = None
    problem: str = ""

    async def score(self, request: Request) -> JSONResponse:
        try:
            reasons = _reasons(request)
            payment = read_transaction(self.schema, await _body(request), clip=self.clip)
            return JSONResponse(answer(self.served, self.schema, payment, reasons))
        except _Refusal as refusal:
            return _error(refusal.status, refusal.sentence)
        except DataError as error:
            return _error(422, str(error))
        except Exception as error:
            log.error("a payment could not be scored: %s", type(error).__name__)
            return _error(500, "the payment could not be scored: see the service's log")

    async def model(self, _: Request) -> JSONResponse:
        schema = {"name": self.schema.name, "digest": self.schema.digest(), "features": list(self.schema.names)}
        checked = self.checked.isoformat(timespec="seconds") if self.checked else None
        told = {"since": self.since.isoformat(timespec="seconds"), "checked": checked, "problem": self.problem or None}
        return JSONResponse(describe(self.served) | {"schema": schema} | told)

    async def healthz(self, _: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def check(self, newer: Newer) -> None:
        """Replace the model by the newer one there is, if there is a sound one."""
        try:
            found = await asyncio.to_thread(newer, self.served)
            self.problem = ""
        except Exception as error:
            sentence = str(error) if isinstance(error, MintmarkError | OSError) else type(error).__name__
            if sentence != self.problem:
                log.warning("the model in use stays: %s", sentence)
            found, self.problem = None, sentence
        self.checked = datetime.now(UTC)
        if found is not None:
            self.served, self.since = found, self.checked
            log.warning("now serving %s of campaign %s", found.alias, found.campaign)


def make_app(
    served: ServedModel, schema: FeatureSchema, *, newer: Newer, every_s: float, clip: bool = False
) -> Starlette:
    """The service as an ASGI application. `newer` is asked every `every_s` seconds while it runs."""
    service = _Service(served, schema, clip, since=datetime.now(UTC), problem=served.note)

    async def keep_current() -> None:
        while True:
            await asyncio.sleep(every_s)
            await service.check(newer)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(keep_current())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    routes = [
        Route("/score", service.score, methods=["POST"]),
        Route("/model", service.model, methods=["GET"]),
        Route("/healthz", service.healthz, methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _reasons(request: Request) -> int:
    asked = request.query_params.get("reasons", str(REASONS))
    if not asked.isascii() or not asked.isdigit() or len(asked) > 2 or int(asked) > MAX_REASONS:
        raise DataError(f"expected reasons from 0 to {MAX_REASONS}, got another value")
    if other := request.query_params.keys() - {"reasons"}:
        raise DataError(f"expected only the parameter reasons, got {len(other)} others")
    return int(asked)


async def _body(request: Request) -> bytes:
    """The body, of at most `MAX_BODY_BYTES`. Only JSON by its header: a web page cannot send that unasked."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _Refusal(415, "expected the header content-type: application/json")
    body = b""
    try:
        async with asyncio.timeout(READ_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise _Refusal(413, f"expected at most {MAX_BODY_BYTES} bytes, got more")
    except TimeoutError:
        raise _Refusal(408, f"expected the whole body within {READ_S:g} seconds") from None
    return body


def _error(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status_code=status)
