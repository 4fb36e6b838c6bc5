"""`mintmark status`: how campaigns stand, read from the mailbox alone. Prefect may be away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table as Grid

if TYPE_CHECKING:
    from tasks.status import CampaignStatus

RIGHT = {"round", "attempt", "seconds", "in", "out", "late", "share", "suspicion", "spent", "left", "of the year"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(
    home: Annotated[Path, typer.Option(envvar="MINTMARK_COORDINATOR_HOME", help="The coordinator's folder.")],
    campaign: Annotated[str | None, typer.Argument(help="One campaign; without it, all are listed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as JSON, for programs.")] = False,
) -> None:
    """Show how a campaign stands: its rounds, who was in them, what each bank spent and says it has left."""
    from mintmark.errors import ProtocolError
    from tasks import status as figures
    from tasks.coordinator import open_coordinator

    coordinator = open_coordinator(home)
    names = [campaign] if campaign else list(figures.campaign_names(coordinator))
    told = [read for name in names if (read := figures.StatusReader(coordinator, name).read())]
    if campaign and not told:
        raise ProtocolError(f"expected a campaign {campaign} with a plan in the mailbox, got none; see mintmark status")
    if as_json:
        found = [figures.as_json(one) for one in told]
        print(json.dumps(found[0] if campaign else found, indent=2))
    elif campaign:
        _tell(Console(), told[0])
    else:
        _list(Console(), told)


def _list(console: Console, told: list[CampaignStatus]) -> None:
    grid = Grid()
    for heading in ("campaign", "stage", "rounds settled", "banks", "epsilon", "opened (UTC)"):
        grid.add_column(heading)
    for one in sorted(told, key=lambda status: status.rounds[0].plan.opens_at):
        settled = f"{one.closed} of {one.campaign.rounds + 1}"
        opened = f"{one.rounds[0].plan.opens_at:%Y-%m-%d %H:%M}"
        epsilon = f"{one.campaign.privacy.epsilon:g}"
        grid.add_row(one.campaign.name, one.stage, settled, str(len(one.campaign.cohort)), epsilon, opened)
    console.print(grid if told else "No campaign yet. Start one: prefect deployment run campaign/mintmark")


def _tell(console: Console, status: CampaignStatus) -> None:
    from tasks.artifacts import BANKS, bank_row, round_row, sentence, summary

    console.print(Markdown(summary(status)))
    for title, note, rows in (
        ("Rounds", None, [round_row(progress) for progress in status.rounds]),
        ("Banks", BANKS, [bank_row(bank) for bank in status.banks]),
    ):
        grid = Grid(title=title, title_justify="left", caption=note, caption_justify="left")
        for heading in rows[0]:
            grid.add_column(heading, justify="right" if heading in RIGHT else "left")
        for row in rows:
            grid.add_row(*map(str, row.values()))
        console.print(grid)
    if status.model is not None:
        console.print(f"The model in MLflow: {status.model.page}", highlight=False, soft_wrap=True)
    if status.stage == "open":
        console.print(sentence(status.rounds[-1]), highlight=False)
