r"""Curves and figures from score histograms: how good a model is, without anybody's scores.

`counts` [2, m] holds, for each of m score cells from the lowest to the highest, how many negatives and positives fell
there; sums of noised counts are clipped at 0 and used alike. Rows of one cell are taken as tied, so figures are exact
up to the cells' width. Error bars and calibration are left to a later version.

>>> summary = evaluate(np.array([[8.0, 1.0, 0.0], [0.0, 1.0, 2.0]]))
>>> round(summary.auprc, 4), round(summary.auroc, 4)
(0.9167, 0.9815)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """`recall`, `precision` and `false_positive_rate` [m] when everything from a cell upward is flagged, from the
    strictest threshold to the loosest; `auprc` is average precision (scikit-learn's definition), `auroc` the area under
    the receiver operating characteristic. Both are NaN without positives, `auroc` without negatives, too."""

    positives: float
    negatives: float
    recall: Floats
    precision: Floats
    false_positive_rate: Floats
    auprc: float
    auroc: float


def evaluate(counts: Floats) -> EvaluationReport:
    """The report of a score histogram [2, m]. Raises `ValueError` for another shape or a count below 0 or NaN."""
    if counts.ndim != 2 or counts.shape[0] != 2 or not counts.size or not (counts >= 0).all():
        raise ValueError(f"expected counts [2, m] of at least 0, got shape {counts.shape}")
    false, true = np.cumsum(counts[:, ::-1], axis=1)
    negatives, positives = float(false[-1]), float(true[-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, false_rate = true / positives, false / negatives
        precision = np.where(true + false > 0, true / (true + false), 1.0)
    steps = np.diff(recall, prepend=0.0)
    widths = np.diff(false_rate, prepend=0.0)
    middle = recall - steps / 2
    return EvaluationReport(
        positives, negatives, recall, precision, false_rate, float(steps @ precision), float(widths @ middle)
    )
