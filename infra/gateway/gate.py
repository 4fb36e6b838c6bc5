"""Whether a request may pass: whose certificate, how often, what kind of head, which route, whose runs.

gate = Gate(upstream, {"5e0c...": "bank-a"}, {"bank-a": "mintmark-bank-a"})
found = gate.route(gate.bank(scope), scope, "GET")   # or RefusedError, with a status and one sentence
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import UUID

from starlette.datastructures import Headers
from starlette.types import Scope

from infra.gateway.asked import Asked
from infra.gateway.rate import Allowance
from infra.gateway.routes import Found, match
from infra.gateway.tls import Peer
from infra.gateway.upstream import Upstream

# Headers that make one request look like another; `upgrade` has its place in a websocket's handshake.
_TRICKS = {
    "x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url",
    "transfer-encoding", "content-encoding", "expect", "upgrade", "te", "trailer",
}  # fmt: skip
_METHODS = {"GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS", "WS"}

log = logging.getLogger(__name__)


class RefusedError(Exception):
    """Why a request does not pass: a status, and one sentence that names nothing of anybody else."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


def not_there() -> RefusedError:
    """The one answer to all that a bank has no part in: there or not, on the list or not, nobody can tell."""
    return RefusedError(404, "Nothing here for this bank.")


class Gate:
    """The checks. `bank_of` maps a certificate's SHA-256 to its bank, `pools` a bank to its work pool."""

    def __init__(
        self,
        upstream: Upstream,
        bank_of: Mapping[str, str],
        pools: Mapping[str, str],
        requests_per_s: float = 20.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.upstream, self.pools = upstream, pools
        self._bank_of, self._now = bank_of, now
        self._allowances = {bank: Allowance(requests_per_s) for bank in pools}

    def bank(self, scope: Scope) -> str:
        """The bank whose certificate this connection has shown. A certificate that ends, ends on open connections."""
        peer: Peer = scope["state"]["peer"]
        bank = self._bank_of.get(peer.fingerprint)
        if bank is None:
            raise RefusedError(403, "This certificate is no bank's here; send its SHA-256 to the coordinator.")
        if peer.not_after <= self._now():
            raise RefusedError(403, "This certificate has ended; ask the coordinator for a new one.")
        return bank

    def count(self, bank: str) -> None:
        """One request or message more."""
        if not self._allowances[bank].take():
            raise RefusedError(429, "Too many requests of this bank; wait a second.")

    def route(self, bank: str, scope: Scope, method: str) -> Found:
        """The route that a plain request of the bank's own pool asks for."""
        self.count(bank)
        _plain_head(Headers(scope=scope), websocket=method == "WS")
        found = match(method, scope["raw_path"], scope["query_string"])
        if found is None or found.pool not in {None, self.pools[bank]}:
            raise not_there()
        return found

    async def own(self, bank: str, asked: Asked | None, run: UUID | None = None) -> None:
        """Refuse what speaks of another bank's pool, worker or run."""
        pool = self.pools[bank]
        try:
            runs = {*(asked.runs() if asked else ()), *([run] if run else ())}
        except ValueError:
            raise RefusedError(422, "Expected the id of a flow run, got something else.") from None
        if asked is not None and asked.foreign(pool):
            raise not_there()
        for one in runs:
            if not await self.upstream.owns(pool, one):
                raise not_there()


def note(bank: str, method: str, found: Found | None, refused: RefusedError) -> None:
    """One line in the gateway's log, without a word of the caller's."""
    route = found.route.template if found else "-"
    method = method if method in _METHODS else "other"
    reason = refused.sentence
    log.warning("refused bank=%s method=%s route=%s status=%d reason=%s", bank, method, route, refused.status, reason)


def _plain_head(headers: Headers, *, websocket: bool) -> None:
    names = headers.keys()
    if len(set(names)) != len(names):
        raise RefusedError(400, "Expected each header once, got one twice.")
    if tricks := _TRICKS & set(names) - ({"upgrade"} if websocket else set()):
        raise RefusedError(400, f"Expected a plain request, got the header {sorted(tricks)[0]}.")
