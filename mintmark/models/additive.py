r"""Step 2: the additive rounds. One tree of full bins a feature, asked for again where the model then stands.

They give what one coefficient a bin can: base rate and main effects, by the steps of `logistic_step.py`, which forget no
released sum. And they guide the random trees: the sums of several rounds, each taken back to a model without main
effects by $G - H w$ and averaged by its precision, show where splits pay better than any one round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mintmark.models.bins import Bins
from mintmark.models.feature_trees import FIRST_RATE, base_rate
from mintmark.models.logistic_step import Coefficients, Slope, next_coefficients, present
from mintmark.models.monotone import isotonic

Floats = npt.NDArray[np.float64]


def log_odds(rate: float) -> float:
    """
    >>> log_odds(0.5)
    0.0
    """
    return math.log(rate / (1 - rate))


def before_round_0(bins: Sequence[Bins]) -> Coefficients:
    """Nothing is known: the public first rate, and no effects."""
    width = max(own.splits for own in bins) + 2
    return Coefficients(log_odds(FIRST_RATE), np.zeros((len(bins), width)))


def slope_of(bins: Sequence[Bins], at: Coefficients, sums: Floats, noise: float, *, first: bool) -> Slope:
    """What a round's `sums` [F, W, 2] of gradient and hessian, asked for `at` a model, say of it.

    Of the `first` round, asked at the public rate, they also say what the sums had been at the rows' own rate.
    """
    sums = sums * present(bins, sums.shape[1])[..., None]
    if first:
        base = base_rate(sums, noise)
        at, sums, noise = replace(at, intercept=log_odds(base.rate)), base.sums, base.noise
    return Slope(at, sums[..., 0], sums[..., 1], noise)


def next_monotone(bins: Sequence[Bins], slopes: Sequence[Slope], direction: npt.NDArray[np.integer]) -> Coefficients:
    """`next_coefficients`, and the nearest monotone weights where `direction` [F] is 1 (increasing) or -1."""
    found = next_coefficients(bins, slopes)
    weights = found.weights.copy()
    for column in np.flatnonzero(direction).tolist():
        own, sign = slice(1, bins[column].splits + 2), direction[column]
        weight = np.maximum(slopes[-1].hessian[column, own], 0.0) + 1.0
        weights[column, own] = sign * isotonic(sign * weights[column, own], weight)
    return replace(found, weights=weights)


def pooled_sums(slopes: Sequence[Slope]) -> tuple[Floats, float]:
    """Gradient and hessian sums [F, W, 2] without main effects, the mean of all rounds' by precision; their noise.

    >>> at = Coefficients(0.0, np.array([[0.0, 0.5]]))
    >>> one = Slope(replace(at, weights=0 * at.weights), np.array([[0.0, -4.0]]), np.array([[0.0, 8.0]]), noise=2.0)
    >>> two = Slope(at, np.array([[0.0, 0.0]]), np.array([[0.0, 8.0]]), noise=2.0)
    >>> sums, noise = pooled_sums([one, two])
    >>> sums.tolist(), round(noise, 3)
    ([[[0.0, 0.0], [-4.0, 8.0]]], 1.414)
    """
    precision = np.array([1 / max(slope.noise, 1e-9) ** 2 for slope in slopes])
    share = precision / precision.sum()
    alone = [
        np.stack([slope.gradient - np.maximum(slope.hessian, 0.0) * slope.at.weights, slope.hessian], axis=2)
        for slope in slopes
    ]
    noise = math.sqrt(sum((part * slope.noise) ** 2 for part, slope in zip(share, slopes, strict=True)))
    return np.tensordot(share, np.array(alone), axes=1), noise
