r"""What one model's ranking gains over another's, with an interval: average precision under a bootstrap by customer.

A customer's rows go together, so customers are drawn, not rows: a replicate weighs each row by how often its customer was
drawn (Efron and Tibshirani, 1993, percentile interval). Both models are judged on the same draws: what they share cancels.

>>> labels, customers = np.array([1, 0, 1, 0]), np.array([0, 1, 2, 3])
>>> gain = paired_gain(labels, customers, np.array([1.0, 4.0, 3.0, 2.0]), np.array([4.0, 2.0, 3.0, 1.0]), seed=0)
>>> round(gain.baseline, 3), gain.model, round(gain.point, 3)
(0.5, 1.0, 0.5)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

REPLICATES = 500
_TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Gain:
    """AUPRC of a `baseline` and of a `model` on the same rows; `low` and `high` are the ends of the 95 % interval of
    their difference, `ahead` is the share of the replicates in which the model is ahead."""

    baseline: float
    model: float
    low: float
    high: float
    ahead: float

    @property
    def point(self) -> float:
        return self.model - self.baseline


def average_precision(labels: npt.NDArray[np.integer], scores: Floats) -> Callable[[Floats], float]:
    r"""Average precision of scores [n] as a function of the rows' weights [n]; NaN where no positive has weight.

    $\sum_k (R_k - R_{k-1}) P_k$ over the distinct scores from the highest: tied rows count together, as in scikit-learn.

    >>> average_precision(np.array([1, 0, 1]), np.array([3.0, 2.0, 1.0]))(np.array([1.0, 2.0, 1.0]))
    0.75
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # row of each group of ties
    positive = labels[order].astype(bool)

    def weighted(weights: Floats) -> float:
        drawn = weights[order]
        flagged, found = np.cumsum(drawn)[last], np.cumsum(drawn * positive)[last]
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(flagged > 0, found / flagged, 0.0)
            return float(np.diff(found, prepend=0.0) @ precision / found[-1])

    return weighted


def paired_gain(
    labels: npt.NDArray[np.integer],
    customers: npt.NDArray[np.integer],
    baseline: Floats,
    model: Floats,
    *,
    seed: int,
    replicates: int = REPLICATES,
) -> Gain:
    """The gain of `model` over `baseline` (scores [n] each) on rows of `customers` [n], numbered from 0.

    Replicates without a positive say nothing and are left out. Raises `ValueError` when no row is positive.
    """
    if not labels.any():
        raise ValueError("expected a positive row, got none")
    judges = [average_precision(labels, scores) for scores in (baseline, model)]
    before, after = (judge(np.ones(len(labels))) for judge in judges)
    rng, units = np.random.default_rng([seed, 2]), int(customers.max()) + 1
    differences = np.empty(replicates)
    for replicate in range(replicates):
        drawn = np.bincount(rng.integers(0, units, units), minlength=units).astype(np.float64)[customers]
        first, second = (judge(drawn) for judge in judges)
        differences[replicate] = second - first
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        differences = np.zeros(1)
    low, high = np.quantile(differences, _TAILS)
    return Gain(before, after, float(low), float(high), float((differences > 0).mean()))
