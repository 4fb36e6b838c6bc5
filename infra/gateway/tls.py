"""Who is calling: mutual TLS, and the certificate of each connection handed to the application.

uvicorn does not tell an ASGI application who its client is. It does copy a protocol's `app_state` into every scope, of
requests and of websockets; this protocol puts the verified certificate there once a connection stands.

    config = uvicorn.Config(app, http=PeerProtocol, ssl_context_factory=lambda *_: server_context(...))
    scope["state"]["peer"].fingerprint
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from mintmark.errors import DataError

MAX_CONNECTIONS = 32
"""How many connections one certificate may hold; Prefect's client opens at most 16."""


@dataclass(frozen=True)
class Peer:
    """A client whose certificate the consortium's authority has signed, and when that certificate ends."""

    fingerprint: str
    not_after: datetime


class PeerProtocol(H11Protocol):
    """HTTP/1.1 that knows its peer."""

    _held: ClassVar[defaultdict[str, set[asyncio.Transport]]] = defaultdict(set)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note the peer, and hang up on one that holds too many connections."""
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        peer = _peer(tls)
        self.app_state = {**self.app_state, "peer": peer}
        super().connection_made(transport)
        held = self._held[peer.fingerprint] = {one for one in self._held[peer.fingerprint] if not one.is_closing()}
        held.add(transport)
        if len(held) > MAX_CONNECTIONS:
            transport.abort()


def _peer(tls: ssl.SSLObject) -> Peer:
    encoded, told = tls.getpeercert(binary_form=True), tls.getpeercert()
    assert encoded and told  # CERT_REQUIRED: no handshake ends without one
    ends: Any = told["notAfter"]
    return Peer(hashlib.sha256(encoded).hexdigest(), datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC))


def server_context(certificate: Path, key: Path, bank_authority: Path) -> ssl.SSLContext:
    """TLS 1.3 that ends the handshake of whoever shows no certificate of the authority.

    No session tickets: a resumed session would not look at the certificate again. Raises `DataError` for a bad file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(cafile=bank_authority)
    except OSError as error:
        raise DataError(
            f"expected certificates in PEM at {certificate}, {key} and {bank_authority}, got {type(error).__name__}: "
            "make them with `mintmark gateway-certificates`"
        ) from None
    return context
