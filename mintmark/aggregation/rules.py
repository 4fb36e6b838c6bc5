r"""Aggregation rules: from n banks' updates to one vector.

X [n, d] holds one normalised update a row (its sums divided by the bank's size in the roster), w [n] the weights that
follow from the roster, never from an update. A rule returns the vector [d] and each bank's share in it [n]. Rules here:
the weighted mean (trusts everybody) and the weighted trimmed mean; more rules are one entry in `RULES` each.

>>> updates = np.array([[1.0, 10.0], [2.0, 20.0], [900.0, -900.0]])
>>> trimmed_mean(updates, np.ones(3), trim=0.34).vector.tolist()
[2.0, 10.0]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.errors import AggregationError

Floats = npt.NDArray[np.float64]

RULES = ("weighted_mean", "trimmed_mean")
_CHUNK = 4096  # coordinates sorted at once: n <= 200 rows of it stay in cache
_ROUNDING = 1e-9  # of what is kept: a smaller part of a bank is a rounding error of the cut, and would let 1e300 in


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What a rule made: `vector` [d] and `shares` [n] (>= 0, sum 1), the mean weight of each bank over coordinates."""

    vector: Floats
    shares: Floats


def check_feasible(rule: str, banks: int, byzantine: int, trim: float) -> None:
    """Raise `AggregationError` with both numbers when `rule` cannot stand `byzantine` liars of `banks`."""
    if rule not in RULES:
        raise AggregationError(f"aggregation terms: expected a rule of {', '.join(RULES)}, got {rule!r}")
    if rule != "trimmed_mean":
        if byzantine:
            raise AggregationError(f"{rule} stands no liar: expected f = 0, got f = {byzantine} of n = {banks}")
        return
    if banks <= 2 * byzantine:
        raise AggregationError(f"trimmed_mean: expected n > 2 f, got n = {banks}, f = {byzantine}")
    if trim < byzantine / banks:
        raise AggregationError(
            f"trimmed_mean: expected trim >= f / n, or {byzantine} of {banks} liars are not cut; got trim = {trim}"
        )


def aggregate(rule: str, updates: Floats, weights: Floats, trim: float = 0.0) -> Aggregate:
    """Apply a rule by name. `updates` [n, d] finite, `weights` [n] > 0. Inputs are never overwritten.

    Raises:
        AggregationError: another rule or trim, shapes that do not fit, a value not finite, a weight not positive.
    """
    if rule not in RULES or not 0 <= trim < 0.5:
        raise AggregationError(f"expected a rule of {', '.join(RULES)} and a trim in [0, .5), got {rule!r}, {trim}")
    if updates.ndim != 2 or weights.shape != updates.shape[:1] or not len(weights):
        raise AggregationError(f"expected updates [n, d] and weights [n], got {updates.shape} and {weights.shape}")
    if not (np.isfinite(updates).all() and np.isfinite(weights).all() and (weights > 0).all()):
        raise AggregationError("expected finite updates and positive weights, got others")
    if rule == "trimmed_mean":
        return trimmed_mean(updates, weights, trim)
    return weighted_mean(updates, weights)


def weighted_mean(updates: Floats, weights: Floats) -> Aggregate:
    r"""$y = \sum_k w_k x_k / \sum_k w_k$. Stands no liar: one bank moves it without bound.

    >>> weighted_mean(np.array([[1.0], [4.0]]), np.array([2.0, 1.0])).vector.tolist()
    [2.0]
    """
    shares = weights / weights.sum()
    # Not `shares @ updates`: BLAS adds in another order on another processor, and a rerun must give the same bytes.
    return Aggregate((shares[:, None] * updates).sum(axis=0), shares)


def trimmed_mean(updates: Floats, weights: Floats, trim: float) -> Aggregate:
    r"""Per coordinate, the mean of what is left when the share `trim` of the weight is cut from each side.

    With the values sorted and their weights $w$ (sum 1) stacked on [0, 1], each keeps the part of its stretch inside
    [trim, 1 - trim]; $y_j = \sum_k \tilde w_{kj} x_{kj} / (1 - 2\,\mathrm{trim})$. Ties are broken by the row's place, so
    equal inputs give equal bytes. Weighted form of Yin et al. 2018, "Byzantine-Robust Distributed Learning", Definition 2.

    >>> trimmed_mean(np.array([[0.0], [1.0], [2.0], [99.0]]), np.ones(4), trim=0.25).vector.tolist()
    [1.5]
    """
    shares = weights / weights.sum()
    vector, kept_sum = np.empty(updates.shape[1]), np.zeros(len(weights))
    for start in range(0, updates.shape[1], _CHUNK):
        block = updates[:, start : start + _CHUNK]
        order = np.argsort(block, axis=0, kind="stable")
        ends = np.clip(np.cumsum(shares[order], axis=0), trim, 1 - trim)
        kept = np.diff(ends, axis=0, prepend=trim)
        kept[kept < _ROUNDING * (1 - 2 * trim)] = 0
        kept /= kept.sum(axis=0)
        vector[start : start + _CHUNK] = (kept * np.take_along_axis(block, order, axis=0)).sum(axis=0)
        np.add.at(kept_sum, order, kept)
    return Aggregate(vector, kept_sum / updates.shape[1])
