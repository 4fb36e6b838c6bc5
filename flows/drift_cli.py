"""`mintmark drift` and `mintmark backtest`: how scores and figures moved between campaigns, from signed records only.

No bank is asked anything and nobody's budget is spent: both read the evaluations that the mailbox already holds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

if TYPE_CHECKING:
    from mintmark.evaluation_record import EvaluationRecord
    from tasks.coordinator import Coordinator

HomeOption = Annotated[Path, typer.Option(envvar="MINTMARK_COORDINATOR_HOME", help="The coordinator's folder.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file as JSON.")]
ALL_WEEKS = "all weeks"


def drift(
    before: Annotated[str, typer.Argument(help="The earlier campaign.")],
    after: Annotated[str, typer.Argument(help="The later one.")],
    home: HomeOption,
    json_file: JsonOption = None,
) -> None:
    """Compare scores and features of two campaigns: stability index with its interval, and what noise and chance make."""
    from mintmark.drift import drifts_between
    from tasks.coordinator import open_coordinator

    coordinator = open_coordinator(home)
    told = drifts_between(record_of(coordinator, before), record_of(coordinator, after))
    grid = Grid(title=f"Scores and features of {after} beside those of {before}: population stability index")
    for heading in ("", "index, 95 % interval", "by noise and chance", "drift"):
        grid.add_column(heading)
    for name, found in (told["scores"] | {f"feature {name}": own for name, own in told["features"].items()}).items():
        value, low, high, chance = (float(found[end] or 0.0) for end in ("value", "low", "high", "by_chance"))
        grid.add_row(name, f"{value:.3f} ({low:.3f} to {high:.3f})", f"{chance:.3f}", str(found["drift"]))
    Console().print(grid)
    if json_file:
        json_file.write_text(json.dumps({"before": before, "after": after, "drift": told}, indent=2) + "\n")


def backtest(
    home: HomeOption,
    plot: Annotated[Path | None, typer.Option(help="Draw the weeks into this PNG file.")] = None,
    json_file: JsonOption = None,
) -> None:
    """How every past champion did on its held-out rows, by week, as its signed evaluation says."""
    from mintmark.week_plot import draw_weeks
    from tasks.coordinator import open_coordinator

    records = champion_records(open_coordinator(home))
    found = {name: {ALL_WEEKS: record.pooled} | record.weeks for name, record in records.items()}
    grid = Grid(title="Past champions on their held-out rows, 95 % intervals")
    for heading in ("champion", "week", "rows", "frauds", "AUPRC", f"recall at {_percent(records)} false positives"):
        grid.add_column(heading)
    for name, weeks in found.items():
        for week, own in weeks.items():
            counts = (f"{figure.value or 0:,.0f}" for figure in (own.rows, own.positives))
            grid.add_row(name, week, *counts, own.auprc.told(), own.recall_at_false_positives.told())
    Console().print(grid)
    if plot:
        auprc = {name: {week: own.auprc for week, own in weeks.items()} for name, weeks in found.items()}
        recall = {
            name: {week: own.recall_at_false_positives for week, own in weeks.items()} for name, weeks in found.items()
        }
        plot.write_bytes(draw_weeks(auprc, recall, "Past champions on their held-out rows"))
    if json_file:
        told = {name: {week: own.model_dump() for week, own in weeks.items()} for name, weeks in found.items()}
        json_file.write_text(json.dumps({"champions": told}, indent=2) + "\n")


def record_of(coordinator: Coordinator, campaign: str) -> EvaluationRecord:
    """The signed evaluation of a campaign. Raises `ProtocolError` when there is none, or it is another's."""
    from mintmark.errors import ProtocolError
    from mintmark.evaluation_record import MAX_EVALUATION_BYTES, EvaluationRecord
    from mintmark.mailbox import evaluation_key, get_required

    message = get_required(coordinator.store, evaluation_key(campaign), max_bytes=MAX_EVALUATION_BYTES)
    record = EvaluationRecord.read(message, coordinator.signer.public_key)
    if record.campaign != campaign:
        raise ProtocolError(f"expected the evaluation of campaign {campaign}, got that of {record.campaign}")
    return record


def champion_records(coordinator: Coordinator) -> dict[str, EvaluationRecord]:
    """The evaluations of all models that were ever champion, by name, oldest first. Raises `ProtocolError` when a record
    is missing, or of another model than the champion's."""
    from mintmark.champion import all_champions
    from mintmark.errors import DataError, ProtocolError

    found: dict[str, EvaluationRecord] = {}
    for champion in all_champions(coordinator.store, coordinator.signer.public_key):
        if champion.campaign in {record.campaign for record in found.values()}:
            continue  # a rollback names an older model again
        record = record_of(coordinator, champion.campaign)
        if record.model_digest != champion.model_digest:
            raise ProtocolError(
                f"champion {champion.number}: expected its model to be evaluated, got another one's record"
            )
        found[f"{champion.number}: {champion.campaign}"] = record
    if not found:
        raise DataError("expected a champion in the mailbox, got none: promote a model first")
    return found


def _percent(records: dict[str, EvaluationRecord]) -> str:
    return " or ".join(sorted({f"{100 * record.false_positive_rate:g} %" for record in records.values()}))


def register(app: typer.Typer) -> None:
    """Add both commands to `mintmark`."""
    for command in (drift, backtest):
        app.command()(command)
