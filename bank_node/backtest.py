"""How well the bank's deployed model and every past champion would have caught the frauds of its own held-out rows, week by
week. All of it stays in the bank.

Held-out rows (the schema's test flag) are scored by every model; a week's figures come with the 95 % interval of a
bootstrap by customer. With a time column in the schema rows are told by ISO week, else all are one. Labels come late:
`labels_after` leaves out rows that are younger than so many days, counted back from the file's newest row.

    weeks = divide(table, labels_after=30)
    result = backtest({"champion 1": scorer}, table.schema, weeks)   # {"champion 1": {"2021-w14": WeekFigures, ...}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from bank_node.personal.gain import average_precision
from bank_node.personal.scorer import Scores
from mintmark.errors import DataError
from mintmark.evaluation import FALSE_POSITIVE_RATE
from mintmark.evaluation_record import Figure
from mintmark.table import Table

ALL_ROWS = "all rows"
REPLICATES = 200
MAX_WEEKS = 520
NOT_DEFINED = Figure(value=None, low=None, high=None)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WeekFigures:
    """Of one model on one week's rows. `recall` is of the threshold that flags .5 % of the honest rows, `alerts` how many
    rows it flags, frauds included."""

    rows: int
    frauds: int
    auprc: Figure
    recall: Figure
    alerts: int


Backtest = Mapping[str, Mapping[str, WeekFigures]]
"""Model -> week -> figures."""


def divide(table: Table, labels_after: int = 0) -> dict[str, Table]:
    """The held-out rows by week, oldest first. Raises `DataError` when none are left, or days are asked for without a time
    column."""
    held_out = table.test_part()
    if not len(table.days):
        if labels_after:
            raise DataError("expected a time column in schema.toml (time = ...) to know how old rows are, got none")
        parts = {ALL_ROWS: held_out} if len(held_out) else {}
    else:
        old = held_out.part(held_out.days <= int(table.days.max()) - labels_after)
        monday = old.days - (old.days + 3) % 7  # 1970-01-01 was a Thursday
        parts = {_week(int(first)): old.part(monday == first) for first in np.unique(monday)}
    if not parts:
        raise DataError(f"expected held-out rows that are {labels_after} days old, got none")
    if len(parts) > MAX_WEEKS:
        raise DataError(f"expected rows of at most {MAX_WEEKS} weeks, got {len(parts)}")
    return parts


def _week(monday: int) -> str:
    """ISO 8601's name.

    >>> _week((date(2021, 4, 5) - date(1970, 1, 1)).days)
    '2021-w14'
    """
    day = date(1970, 1, 1) + timedelta(days=monday)
    return f"{day:%G}-w{day:%V}"


def backtest(
    models: Mapping[str, Scores], weeks: Mapping[str, Table], tell: Callable[[str], None] = lambda _: None
) -> Backtest:
    """Every model's figures of every week. The same customers are drawn for all models of a week."""
    found: dict[str, dict[str, WeekFigures]] = {}
    for name, model in models.items():
        tell(name)
        found[name] = {week: figures_of(rows, model.raw(rows.features)) for week, rows in weeks.items()}
    return found


def figures_of(rows: Table, scores: Floats, *, seed: int = 0) -> WeekFigures:
    """The figures of raw scores [n] on rows, of which none need be fraud."""
    judges = (average_precision(rows.labels, scores), recall_at_false_positives(rows.labels, scores))
    frauds = int(rows.labels.sum())
    auprc, recall = _intervals(judges, rows, seed) if 0 < frauds < len(rows) else 2 * (NOT_DEFINED,)
    return WeekFigures(len(rows), frauds, auprc, recall, int((scores >= _threshold(rows.labels, scores)).sum()))


def recall_at_false_positives(
    labels: npt.NDArray[np.integer], scores: Floats, rate: float = FALSE_POSITIVE_RATE
) -> Callable[[Floats], float]:
    """The share of frauds above the lowest threshold that flags at most `rate` of the honest rows, as a function of the
    rows' weights [n]; tied rows are flagged together.

    >>> recall_at_false_positives(np.array([1, 0, 1, 0]), np.array([4.0, 3.0, 2.0, 1.0]), 0.5)(np.ones(4))
    1.0
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    positive = labels[order].astype(bool)

    def weighted(weights: Floats) -> float:
        drawn = weights[order]
        true, false = np.cumsum(drawn * positive)[last], np.cumsum(drawn * ~positive)[last]
        allowed = np.flatnonzero(false <= rate * false[-1])
        if not true[-1]:
            return float("nan")
        return float(true[allowed[-1]] / true[-1]) if len(allowed) else 0.0

    return weighted


def as_json(result: Backtest) -> dict[str, Any]:
    """Figures only, no row's score."""
    return {model: {week: _plain(figures) for week, figures in weeks.items()} for model, weeks in result.items()}


def _plain(figures: WeekFigures) -> dict[str, Any]:
    intervals = {"auprc": figures.auprc.model_dump(), "recall": figures.recall.model_dump()}
    return {"rows": figures.rows, "frauds": figures.frauds, "alerts": figures.alerts} | intervals


def _threshold(labels: npt.NDArray[np.integer], scores: Floats) -> float:
    """The lowest score from which at most .5 % of the honest rows are flagged."""
    honest = np.sort(scores[labels == 0])
    allowed = int(FALSE_POSITIVE_RATE * len(honest))
    if allowed >= len(honest):
        return -np.inf
    return float(np.nextafter(honest[len(honest) - allowed - 1], np.inf))


def _intervals(judges: tuple[Callable[[Floats], float], ...], rows: Table, seed: int) -> tuple[Figure, ...]:
    """Percentile intervals of a bootstrap by customer; draws without a fraud say nothing and are left out."""
    rng, units = np.random.default_rng([seed, 4]), int(rows.customers.max()) + 1
    draws = np.empty((REPLICATES, len(judges)))
    for draw in draws:
        weights = np.bincount(rng.integers(0, units, units), minlength=units).astype(np.float64)[rows.customers]
        draw[:] = [judge(weights) for judge in judges]
    ones, found = np.ones(len(rows)), []
    for judge, column in zip(judges, draws.T, strict=True):
        value, known = judge(ones), column[~np.isnan(column)]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (value, value)
        found.append(Figure(value=value, low=min(float(low), value), high=max(float(high), value)))
    return tuple(found)
