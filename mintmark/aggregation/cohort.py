r"""From a cohort's released sums to one total: sizes of the roster, capped weights, the rule, the noise that is left.

Sums grow with a bank's size, so a rule works on sums divided by the size band the roster states (never one that an
update claims), and its result is multiplied by the cohort's size again.

>>> total = combine("weighted_mean", 0.0, sizes=np.array([64.0, 256.0]), updates=np.array([[1.0], [4.0]]), noise=2.0)
>>> total.vector.tolist(), round(total.noise, 3)
([5.0], 2.828)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.aggregation.rules import aggregate

Floats = npt.NDArray[np.float64]

MAX_SHARE = 0.25  # of the weight, for any bank under a rule that stands liars: more of it in one hand breaks every rule


@dataclass(frozen=True, eq=False)
class CohortTotal:
    """`vector` [d] estimates the sum over all banks' units, `noise` is the standard deviation of the banks' own noise
    left in each coordinate (exact for the means, an approximation for the trimmed mean), `shares` [n] each bank's part."""

    vector: Floats
    noise: float
    shares: Floats


def combine(rule: str, trim: float, *, sizes: Floats, updates: Floats, noise: float) -> CohortTotal:
    """Aggregate `updates` [n, d] of banks of `sizes` [n]; each update carries noise of standard deviation `noise`.

    Raises `AggregationError` as `aggregate` does.
    """
    result = aggregate(rule, updates / sizes[:, None], weights_for(rule, sizes, trim), trim)
    size = float(sizes.sum())
    left = size * noise * float(np.sqrt(np.square(result.shares / sizes).sum()))
    return CohortTotal(result.vector * size, left, result.shares)


def weights_for(rule: str, sizes: Floats, trim: float) -> Floats:
    """Weights [n], sum 1: by size, which makes the weighted mean the plain sum; under a rule that stands liars nobody has
    more than `MAX_SHARE`, and no trim * n banks together more than `trim`: so many liars are cut whole, the largest too.
    (By size squared, the inverse of the noise's variance, was worse where banks differ: docs/learning.md.)"""
    if rule != "trimmed_mean":
        return np.asarray(sizes / sizes.sum())
    liars = math.floor(trim * len(sizes) + 1e-9)
    return capped(sizes, min(MAX_SHARE, trim / liars) if liars else MAX_SHARE)


def capped(weights: Floats, cap: float) -> Floats:
    """Weights [n] of sum 1 in which nobody holds more than `cap`, the excess shared out in proportion.

    A cap of 1 / n or less leaves everybody alike.

    >>> capped(np.array([8.0, 1.0, 1.0]), 0.5).tolist()
    [0.5, 0.25, 0.25]
    """
    shares = weights / weights.sum()
    if cap * len(shares) <= 1:
        return np.full(len(shares), 1 / len(shares))
    over = np.zeros(len(shares), dtype=bool)
    while (above := shares > cap * (1 + 1e-12)).any():
        over |= above
        shares = np.where(over, cap, shares * (1 - cap * over.sum()) / shares[~over].sum())
    return np.asarray(shares)
