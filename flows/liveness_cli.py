"""`mintmark reconcile`: what the reconciler does on its schedule, now."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def reconcile(
        api_url: Annotated[str, typer.Option(envvar="PREFECT_API_URL", help="URL of the Prefect API.")],
    ) -> None:
        """End runs that are dead, start crashed campaigns again. Prefect does this by itself every five minutes."""
        from datetime import UTC, datetime

        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from flows.liveness import reconcile_runs

        with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
            print(reconcile_runs(client, datetime.now(UTC)))
