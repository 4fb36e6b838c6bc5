"""The pictures of a campaign's run in MLflow: curves with their intervals, figures by bank, group and week."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mintmark.evaluation import Curves
from mintmark.evaluation_record import EvaluationRecord, Figure, Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

BAND = "95 % interval: noise and sample"


def curves_figure(record: EvaluationRecord, curves: Curves) -> Picture:
    """ROC and precision-recall curve of all banks' held-out rows."""
    picture, ((left, right),) = _picture(2)
    pooled, rate = record.pooled, record.false_positive_rate
    _draw(left, curves.false_positive_rate, curves.recall)
    _draw(right, curves.recall_of_precision, curves.precision)
    left.legend(loc="lower right", fontsize=8)
    right.legend(loc="upper right", fontsize=8)
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    left.set(xlabel="honest payments flagged", ylabel="frauds caught", title=f"ROC: AUROC {spoken(pooled.auroc)}")
    right.set(xlabel="frauds caught (recall)", ylabel="alerts that are frauds (precision)")
    right.set_title(f"Precision and recall: AUPRC {spoken(pooled.auprc)}")
    caught = spoken(pooled.recall_at_false_positives)
    picture.suptitle(f"{record.campaign}: of the frauds {caught} are caught when {rate:.1%} of the honest are flagged")
    return picture


def bank_curves_figure(record: EvaluationRecord, banks: Mapping[str, Curves]) -> Picture:
    """ROC and precision-recall curves of every bank's own held-out rows, a row of pictures a bank."""
    picture, rows = _picture(2, len(banks))
    for (bank, found), (left, right) in zip(banks.items(), rows, strict=True):
        own = record.banks[bank]
        if own.auroc.value is None:  # noise hides whether the bank has any frauds
            left.set_title(f"{bank}: not defined")
            right.set_title(f"{bank}: not defined")
            continue
        _draw(left, found.false_positive_rate, found.recall)
        _draw(right, found.recall_of_precision, found.precision)
        left.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
        left.set(xlabel="honest payments flagged", ylabel="frauds caught", title=f"{bank}: AUROC {spoken(own.auroc)}")
        right.set(xlabel="frauds caught (recall)", ylabel="precision", title=f"{bank}: AUPRC {spoken(own.auprc)}")
    picture.suptitle(f"{record.campaign} by bank; {BAND}")
    return picture


def parts_figure(record: EvaluationRecord, parts: Mapping[str, Figures], what: str) -> Picture:
    """AUPRC, and recall at the record's rate of false positives, of each part beside all rows."""
    picture, ((left, right),) = _picture(2)
    names = ["all rows", *parts]
    every = [record.pooled, *parts.values()]
    _bars(left, names, [figures.auprc for figures in every], "AUPRC")
    title = f"frauds caught at {record.false_positive_rate:.1%} false alarms"
    _bars(right, names, [figures.recall_at_false_positives for figures in every], title)
    picture.suptitle(f"{record.campaign} by {what}; bars: {BAND}")
    return picture


def spoken(figure: Figure) -> str:
    """A figure with its interval, or a dash.

    >>> spoken(Figure(value=0.5, low=0.42, high=0.57)), spoken(Figure(value=None, low=None, high=None))
    ('.500 (.420 to .570)', '-')
    """
    if figure.value is None or figure.low is None or figure.high is None:
        return "-"
    value, low, high = (f"{number:.3f}".removeprefix("0") for number in (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})"


def _bars(axes: Axes, names: Sequence[str], figures: Sequence[Figure], title: str) -> None:
    """A point with its interval for each name, first on top; what is not defined is left out."""
    for place, figure in enumerate(figures):
        if figure.value is not None and figure.low is not None and figure.high is not None:
            reach = [[figure.value - figure.low], [figure.high - figure.value]]
            axes.errorbar(figure.value, place, xerr=reach, fmt="o", capsize=3, color="C0" if place else "black")
    axes.set_yticks(np.arange(len(names)), names)
    axes.set(title=title, xlim=(0, 1.02), ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)


def _draw(axes: Axes, x: npt.NDArray[np.float64], band: npt.NDArray[np.float64]) -> None:
    """A curve within its interval: `band` [3, k] over `x` [k]."""
    low, middle, high = band
    axes.fill_between(x, low, high, alpha=0.25, linewidth=0, label=BAND)
    axes.plot(x, middle)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))


def _picture(columns: int, rows: int = 1) -> tuple[Picture, Sequence[Sequence[Axes]]]:
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(4.6 * columns + 0.6, 4.2 if rows == 1 else 2.9 * rows + 0.4), layout="constrained")
    return picture, picture.subplots(rows, columns, squeeze=False).tolist()
