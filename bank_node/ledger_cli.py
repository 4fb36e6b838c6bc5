"""`mintmark-bank ledger`: what this bank has spent, from its own books, for people and auditors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from bank_node.options import HomeOption

app = typer.Typer(no_args_is_help=True, help="What this bank has spent, from its own books.")
BAR = 30


@app.command()
def show(
    home: HomeOption,
    plot: Annotated[
        Path | None, typer.Option(help="Write a plot of epsilon over time to this PNG or SVG file.")
    ] = None,
) -> None:
    """Verify the ledger, and tell what every campaign and year has cost each customer so far."""
    from bank_node.books import days, spending_plot
    from bank_node.policy import read_policy
    from bank_node.settings import Home
    from mintmark.privacy.accountant import epsilon
    from mintmark.privacy.ledger import Ledger

    opened, console = Home(home), Console()
    budget = read_policy(opened.policy).budget
    now = datetime.now(UTC)
    grid = Grid(title=f"{opened.settings.bank}: epsilon at delta {budget.delta:g}, for each customer")
    for heading in ("", "releases", "epsilon", "budget", "reserved for others"):
        grid.add_column(heading)
    with Ledger.open(opened.ledger, opened.anchor) as ledger:
        for campaign in dict.fromkeys(entry.campaign for entry in ledger.entries):
            releases, spent = ledger.releases(campaign=campaign), ledger.epsilon(delta=budget.delta, campaign=campaign)
            grid.add_row(f"campaign {campaign}", str(len(releases)), f"{spent:.3f}", f"{budget.epsilon_per_campaign:g}")
        for year in sorted({entry.at.astimezone(UTC).year for entry in ledger.entries}):
            releases, spent = ledger.releases(year=year), ledger.epsilon(delta=budget.delta, year=year)
            held = ledger.reserved(since=now - timedelta(days=budget.reservation_days)) if year == now.year else []
            kept = f"{epsilon(held, delta=budget.delta):.3f}" if held else ""
            grid.add_row(f"year {year}", str(len(releases)), f"{spent:.3f}", f"{budget.epsilon_per_year:g}", kept)
        history = days(ledger, delta=budget.delta)
    console.print(grid)
    for day in history[-20:]:
        bar = "█" * min(BAR, round(BAR * day.epsilon / budget.epsilon_per_year))
        console.print(f"  {day.day}  {bar:<{BAR}}▏ {day.epsilon:.3f}  {', '.join(day.campaigns)}", highlight=False)
    if plot is not None:
        spending_plot(history, budget, opened.settings.bank).savefig(plot, dpi=150)
        console.print(f"The plot is in {plot}.", highlight=False)


@app.command()
def verify(home: HomeOption) -> None:
    """Check the chain from the first entry to the last, the anchor, and that nothing drawn was lost. Exit code 1 if not."""
    from bank_node.settings import Home
    from mintmark.errors import PrivacyError
    from mintmark.privacy.ledger import EntryKind, Ledger

    opened = Home(home)
    with Ledger.open(opened.ledger, opened.anchor) as ledger:
        drawn = {entry.release_digest for entry in ledger.entries if entry.kind is EntryKind.DRAWN}
        lost = sum(not opened.sums(name).exists() for name in drawn)
        print(f"Sound: {len(ledger.entries)} entries, {len(ledger.releases())} charges, {len(drawn)} drawn.")
        if ledger.entries:
            print(f"From {ledger.entries[0].at} to {ledger.entries[-1].at}; the last link, to be kept elsewhere:")
            print(f"  {ledger.head}")
    if lost:
        raise PrivacyError(
            f"the outbox {opened.outbox} lost {lost} of {len(drawn)} drawn releases: they are never drawn again, and the "
            "bank sits out those rounds"
        )


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to: a name that ends in .csv or .json.")], home: HomeOption
) -> None:
    """Write every charge with its cost, alone and summed by campaign and year, for auditors and spreadsheets."""
    from bank_node import books
    from bank_node.policy import read_policy
    from bank_node.settings import Home
    from mintmark.privacy.ledger import Ledger

    opened = Home(home)
    delta = read_policy(opened.policy).budget.delta
    with Console(stderr=True).status("pricing"), Ledger.open(opened.ledger, opened.anchor) as ledger:
        lines = books.statement(ledger, delta=delta)
    books.export(lines, file)
    print(f"Wrote {len(lines)} charges to {file}.")
