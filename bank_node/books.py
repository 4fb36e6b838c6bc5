"""The ledger for people and auditors: a statement line by line, what is left of each budget, a file, a plot.

Everything here reads; what it says follows from the ledger and the bank's own policy.

    lines = statement(ledger, delta=1e-6)
    export(lines, Path("2026.csv"))
    spending_plot(days(ledger, budget), budget).savefig("spent.png")
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date
from pathlib import Path
from typing import TYPE_CHECKING

from bank_node.policy import Budget
from mintmark.errors import DataError
from mintmark.privacy.accountant import GaussianRelease, epsilon
from mintmark.privacy.ledger import EntryKind, Ledger, write_durably

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class StatementLine:
    """One charge: what was released, and what it cost at the statement's delta: alone (`epsilon`), with all of its
    campaign, and with all of its calendar year (UTC) up to then. `drawn` says whether noise was ever drawn for it."""

    number: int
    at: str
    campaign: str
    round: int
    attempt: int
    unit: str
    coordinates: int
    sensitivity: int
    noise_scale: float
    mu: float
    delta: float
    epsilon: float
    epsilon_campaign: float
    epsilon_year: float
    drawn: bool
    plan_digest: str
    release_digest: str


def statement(ledger: Ledger, *, delta: float) -> list[StatementLine]:
    """Every charge, oldest first."""
    drawn = {entry.release_digest for entry in ledger.entries if entry.kind is EntryKind.DRAWN}
    so_far: dict[str | int, list[GaussianRelease]] = {}
    lines = []
    for number, entry in enumerate(ledger.entries, 1):
        if entry.kind is not EntryKind.CHARGE:
            continue
        at = entry.at.astimezone(UTC)
        together = []
        for group in (entry.campaign, at.year):
            so_far.setdefault(group, []).append(entry.release)
            together.append(epsilon(so_far[group], delta=delta))
        lines.append(
            StatementLine(
                number=number,
                at=at.isoformat(timespec="seconds"),
                campaign=entry.campaign,
                round=entry.round,
                attempt=entry.attempt,
                unit=entry.unit,
                coordinates=entry.coordinates,
                sensitivity=entry.sensitivity,
                noise_scale=entry.noise_scale,
                mu=math.sqrt(entry.release.mu_squared),
                delta=delta,
                epsilon=epsilon([entry.release], delta=delta),
                epsilon_campaign=together[0],
                epsilon_year=together[1],
                drawn=entry.release_digest in drawn,
                plan_digest=entry.plan_digest,
                release_digest=entry.release_digest,
            )
        )
    return lines


def export(lines: Sequence[StatementLine], path: Path) -> None:
    """Write the statement as CSV or JSON, by the file's ending, whole or not at all. Raises `DataError` for another."""
    rows = [asdict(line) for line in lines]
    match path.suffix.lower():
        case ".json":
            text = json.dumps(rows, indent=1) + "\n"
        case ".csv":
            buffer = io.StringIO()
            writer = csv.DictWriter(buffer, [field.name for field in fields(StatementLine)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            text = buffer.getvalue()
        case other:
            raise DataError(f"{path.name}: expected a name that ends in .csv or .json, got {other or 'no ending'}")
    write_durably(path, text.encode())


@dataclass(frozen=True)
class Day:
    """Epsilon of the calendar year up to the end of a day on which something was charged."""

    day: date
    campaigns: tuple[str, ...]
    epsilon: float


def days(ledger: Ledger, *, delta: float) -> list[Day]:
    """The days with charges (UTC), oldest first; the sum begins anew each year."""
    charged = [entry for entry in ledger.entries if entry.kind is EntryKind.CHARGE]
    dates = [entry.at.astimezone(UTC).date() for entry in charged]
    found = []
    for day in sorted(set(dates)):
        year = [e.release for e, on in zip(charged, dates, strict=True) if on.year == day.year and on <= day]
        names = dict.fromkeys(entry.campaign for entry, on in zip(charged, dates, strict=True) if on == day)
        found.append(Day(day, tuple(names), epsilon(year, delta=delta)))
    return found


def spending_plot(spent: Sequence[Day], budget: Budget, bank: str) -> Figure:
    """Epsilon over time, a step line that begins at 0 each year, under the year's budget."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for year in sorted({point.day.year for point in spent}):
        points = [(date(year, 1, 1), 0.0), *((point.day, point.epsilon) for point in spent if point.day.year == year)]
        axes.step(*zip(*points, strict=True), where="post", marker="o", markersize=4, label=f"spent in {year}")
    axes.axhline(budget.epsilon_per_year, linestyle="--", color="firebrick", label="the year's budget")
    locator = AutoDateLocator(minticks=3)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set(ylim=(0, budget.epsilon_per_year * 1.3), ylabel=f"epsilon at delta {budget.delta:g}, for each customer")
    axes.set_title(f"{bank}: privacy spent over all campaigns", loc="left")
    axes.legend(loc="upper left", frameon=False, ncols=4)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
