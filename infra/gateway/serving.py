"""The gateway as a process: TLS, the application, and uvicorn with everything off that nobody needs."""

from __future__ import annotations

import asyncio
import logging
import stat

import uvicorn

from infra.gateway.app import Gateway
from infra.gateway.channels import MAX_MESSAGE_BYTES
from infra.gateway.gate import Gate
from infra.gateway.settings import GatewaySettings, guarded, read_credential
from infra.gateway.tls import PeerProtocol, server_context
from infra.gateway.upstream import Upstream

GOODBYE_S = 5


def serve(settings: GatewaySettings) -> None:
    """Answer until SIGTERM or SIGINT. Raises `DataError` for files that are not as they must be."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes down addresses, and so run ids
    asyncio.run(_serve(settings))


async def _serve(settings: GatewaySettings) -> None:
    guarded(settings.certificate_key, stat.S_IRWXG | stat.S_IRWXO, "read or written")
    context = server_context(settings.certificate, settings.certificate_key, settings.bank_authority)
    async with Upstream(settings.prefect_api, read_credential(settings.credential_file)) as upstream:
        gate = Gate(upstream, settings.bank_of(), settings.pools(), settings.requests_per_s)
        config = uvicorn.Config(
            Gateway(gate),
            host=settings.host,
            port=settings.port,
            http=PeerProtocol,
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE_BYTES,
            lifespan="off",
            ssl_context_factory=lambda *_: context,
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=30,  # Prefect's client keeps a connection for 25 s
            timeout_graceful_shutdown=GOODBYE_S,
        )
        await uvicorn.Server(config).serve()
