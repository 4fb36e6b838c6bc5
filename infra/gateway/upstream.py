"""The Prefect server behind the gateway: the only place that holds its credential, and what is known of its runs.

Every answer is bounded in bytes and seconds; redirects are not followed. What a bank did wrong and what ails the server
are told apart: the second is `UnavailableError`, and Prefect's client tries again.

    async with Upstream("http://127.0.0.1:4200/api", "user:password") as upstream:
        status, body = await upstream.ask("GET", "/admin/version")
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from uuid import UUID

import httpx
from pydantic import ValidationError

from infra.gateway.told import ToldRun

MAX_ANSWER_BYTES = 4 * 2**20
ANSWER_S = 20.0
MAX_KNOWN_RUNS = 10_000
"""How many runs' pools are remembered; each was asked for once."""
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)
_PASSING = {401, 408, 425, 429}

log = logging.getLogger(__name__)


class UnavailableError(Exception):
    """The server is away, slow, or in trouble: try again."""


class UnsoundError(Exception):
    """The server's answer is none of Prefect's; trying again will not help."""


class Upstream:
    """One connection pool to one Prefect server."""

    def __init__(self, api_url: str, credential: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`credential` is the server's PREFECT_SERVER_API_AUTH_STRING, `user:password`. `transport` is for tests."""
        user, _, password = credential.partition(":")
        self.api_url, self.credential = api_url.rstrip("/"), credential
        self._http = httpx.AsyncClient(
            auth=httpx.BasicAuth(user, password),
            timeout=ANSWER_S,
            follow_redirects=False,
            transport=transport or httpx.AsyncHTTPTransport(verify=ssl.create_default_context(), limits=_LIMITS),
        )
        self._pools: OrderedDict[UUID, str] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of one answer, never one of passing trouble: that raises `UnavailableError`."""
        sent = {"accept": "application/json", "accept-encoding": "identity", **(headers or {})}
        if body is not None:
            sent["content-type"] = "application/json"
        request = self._http.build_request(method, self.api_url + path, params=query, content=body, headers=sent)
        try:
            async with asyncio.timeout(ANSWER_S):
                status, answer = await self._read(request)
        except (httpx.TransportError, TimeoutError) as error:
            raise UnavailableError(type(error).__name__) from None
        if status == httpx.codes.UNAUTHORIZED:
            log.error("Prefect refuses the gateway's credential: compare it with PREFECT_SERVER_API_AUTH_STRING")
        if status in _PASSING or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise UnavailableError(f"status {status}")
        return status, answer

    async def _read(self, request: httpx.Request) -> tuple[int, bytes]:
        response = await self._http.send(request, stream=True)
        try:
            answer = bytearray()
            async for chunk in response.aiter_raw():
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    raise UnsoundError(f"expected at most {MAX_ANSWER_BYTES} bytes, got more")
            return response.status_code, bytes(answer)
        finally:
            await response.aclose()

    def remember(self, run: UUID, pool: str) -> None:
        """Note whose run it is; the longest unused is forgotten."""
        self._pools[run] = pool
        self._pools.move_to_end(run)
        if len(self._pools) > MAX_KNOWN_RUNS:
            self._pools.popitem(last=False)

    async def owns(self, pool: str, run: UUID) -> bool:
        """Whether the run is this pool's. The server is asked once; that a run is not there is not remembered."""
        if run not in self._pools:
            status, answer = await self.ask("GET", f"/flow_runs/{run}")
            if status != httpx.codes.OK:
                return False
            try:
                told = ToldRun.model_validate_json(answer)
            except ValidationError:
                raise UnsoundError("expected a flow run") from None
            self.remember(run, told.work_pool_name or "")
        else:
            self._pools.move_to_end(run)
        return self._pools[run] == pool
