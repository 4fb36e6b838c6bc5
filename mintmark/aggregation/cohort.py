r"""From a cohort's released sums to one total: sizes of the roster, capped weights, the rule, the noise that is left.

Sums grow with a bank's size, so a rule works on sums divided by the size band the roster states (never one that an
update claims), and its result is multiplied by the cohort's size again.

>>> total = combine("weighted_mean", 0, sizes=np.array([64.0, 256.0]), updates=np.array([[1.0], [4.0]]), noise=2.0)
>>> total.vector.tolist(), round(total.noise, 3)
([5.0], 2.828)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mintmark.aggregation.mixture import Aggregate, Floats, Mixture, Rows
from mintmark.aggregation.rules import Chain, chain

MAX_SHARE = 0.25  # of the weight, for any bank under a rule that stands liars: more of it in one hand breaks every rule
LIARS_SHARE = 0.35  # that the f largest banks may hold together, where f / n is not more already
_DRAWS = 16_384  # of noise, from which the noise that a coordinate-wise rule leaves is measured: to half a percent


@dataclass(frozen=True, eq=False)
class CohortTotal:
    """`vector` [d] estimates the sum over all banks' units; `noise` is the standard deviation of the banks' own noise
    left in each coordinate, exact where all coordinates mix banks alike (`left_noise`). `shares` [n] is each bank's part,
    `rate` [d] the vector over the cohort's size, `seen` what the rule saw (`Aggregate`)."""

    vector: Floats
    noise: float
    shares: Floats
    rate: Floats
    seen: Mapping[str, Floats]


def combine(rule: str, f: int, *, sizes: Floats, updates: Floats, noise: float) -> CohortTotal:
    """Aggregate `updates` [n, d] of banks of `sizes` [n], f of whom may lie; each update carries noise of standard
    deviation `noise`. Rows are taken in the order given: give them by bank, and a rerun makes the same bytes.

    Raises `AggregationError` as `aggregate` does.
    """
    parsed = chain(rule)
    parsed.check_feasible(len(sizes), f)
    rates = updates / sizes[:, None]
    mixture, weights = parsed.mixed(rates, weights_for(parsed, sizes, f), f)
    result = parsed.concluded(mixture, weights, f)
    size = float(sizes.sum())
    left = left_noise(parsed, mixture, weights, f, result, noise / sizes)
    return CohortTotal(result.vector * size, size * left, result.shares, result.vector, result.seen)


def left_noise(
    parsed: Chain, mixture: Mixture, weights: Floats, f: int, result: Aggregate, deviations: Floats
) -> float:
    r"""The standard deviation of the banks' noise, of `deviations` [n], in the vector of `result`.

    Of $\sum_k p_k x_k$ with one p for all coordinates it is $\sqrt{\sum_k p_k^2 s_k^2}$. A coordinate-wise rule picks other
    banks in each coordinate, and picks by the noise too; what it leaves is measured by applying it to drawn noise (always
    the same draws). That is right where banks agree but for noise; the more they differ, the more it leaves.
    """
    if not deviations.any():
        return 0.0
    if not parsed.by_coordinate:
        return float(result.mass * np.sqrt(np.square(result.shares * deviations).sum()))
    draws = np.random.Generator(np.random.Philox(key=0)).standard_normal((len(deviations), _DRAWS))
    noise = Mixture(Rows(draws * deviations[:, None], mixture.source.order), mixture.mix)
    return float(np.sqrt(np.square(parsed.concluded(noise, weights, f).vector).mean()))


def weights_for(parsed: Chain, sizes: Floats, f: int) -> Floats:
    """Weights [n], sum 1: by size, which makes the weighted mean the plain sum; under a rule that stands liars nobody has
    more than `MAX_SHARE`, and no f banks together more than `LIARS_SHARE` (or than a trim named in the chain): so many
    are cut whole, the largest too. Where that asks for less than f / n, all banks weigh alike.
    (By size squared, the inverse of the noise's variance, was worse where banks differ: docs/learning.md.)

    A rule that gives a row less the farther it lies gets equal weights: a bank's distance is its noise, which falls with
    its size, so that its part comes out near its size, and no bank pulls harder than another."""
    if parsed.name == "weighted_mean":
        return np.asarray(sizes / sizes.sum())
    if parsed.by_distance:
        return np.full(len(sizes), 1 / len(sizes))
    together = parsed.number or LIARS_SHARE
    return capped(sizes, min(MAX_SHARE, together / f) if f else MAX_SHARE)


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
