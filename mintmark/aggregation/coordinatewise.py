r"""Rules that look at one coordinate at a time: trimmed mean, median, mean around the median.

They need no distances and no tuning, and keep to the honest range in every coordinate. They tear apart what belongs
together (a leaf's gradient and hessian), and each bank's share differs from coordinate to coordinate: `shares` is the
mean over coordinates.

Weighted forms lay the sorted values' weights (sum 1) end to end on [0, 1]. A rule that stands f liars must cut what the
f heaviest banks hold together: t below. With equal weights that is f / n and the rule is the textbook's.

>>> updates = np.array([[1.0, 10.0], [2.0, 20.0], [900.0, -900.0]])
>>> trimmed_mean(updates, np.ones(3), f=1).vector.tolist()
[2.0, 10.0]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mintmark.aggregation.mixture import Aggregate, Floats, Mixture, Updates, mixture_of, normalised
from mintmark.errors import AggregationError

_ROUNDING = 1e-9  # of the weight: a smaller part of a bank is a rounding error of the cut, and would let 1e300 in


def heaviest(weights: Floats, f: int) -> float:
    """The share of the weight (sum 1) that the f heaviest banks hold. Raises `AggregationError` from a half on.

    >>> heaviest(np.array([0.5, 0.25, 0.125, 0.125]), 2)
    Traceback (most recent call last):
    mintmark.errors.AggregationError: expected any 2 of 4 banks to hold less than half of the weight, got 0.75: cap it
    """
    share = float(np.sort(weights)[::-1][:f].sum())
    if share >= 0.5 - _ROUNDING:
        raise AggregationError(
            f"expected any {f} of {len(weights)} banks to hold less than half of the weight, got {share:.3g}: cap it"
        )
    return share


def trimmed_mean(updates: Updates | Mixture, weights: Floats | None, f: int, trim: float | None = None) -> Aggregate:
    r"""Per coordinate, the mean of what is left when the share t of the weight is cut from each side.

    $y_j = \sum_k \tilde w_{kj} x_{kj} / (1 - 2t)$, $\tilde w_{kj}$ being the part of bank k's stretch inside [t, 1 - t].
    t is what the f heaviest banks hold (f / n with equal weights), or `trim`, which may not be less. n > 2 f.
    Yin et al. 2018, "Byzantine-Robust Distributed Learning", Definition 2, in a weighted form.

    >>> trimmed_mean(np.array([[0.0], [1.0], [2.0], [99.0]]), np.ones(4), f=1).vector.tolist()
    [1.5]
    """
    mixture = mixture_of(updates)
    shares = normalised(weights, len(mixture))
    cut = heaviest(shares, f)
    if trim is not None:
        if not cut - _ROUNDING <= trim < 0.5:
            raise AggregationError(
                f"trimmed_mean: expected a trim from {cut:.3g}, what {f} of {len(shares)} banks hold, to below .5; "
                f"got {trim}"
            )
        cut = trim
    if _alike(shares):
        return _by_rank(mixture, _inside(shares[None], cut)[0])
    return _by_coordinate(mixture, shares, lambda values, stretch: _inside(stretch, cut))


def coordinate_median(updates: Updates | Mixture, weights: Floats | None, f: int) -> Aggregate:
    r"""Per coordinate, the value at half of the weight; between two values at just half, their middle. n > 2 f.

    $y_j \in \arg\min_y \sum_k w_k |x_{kj} - y|$. Yin et al. 2018, Definition 1.

    >>> coordinate_median(np.array([[0.0], [1.0], [5.0], [9.0]]), np.ones(4), f=1).vector.tolist()
    [3.0]
    """
    mixture = mixture_of(updates)
    shares = normalised(weights, len(mixture))
    heaviest(shares, f)
    if _alike(shares):
        return _by_rank(mixture, _middle(shares[None])[0])
    return _by_coordinate(mixture, shares, lambda values, stretch: _middle(stretch))


def meamed(updates: Updates | Mixture, weights: Floats | None, f: int) -> Aggregate:
    r"""Per coordinate, the mean of the values nearest to the median, as many as hold 1 - t of the weight (n - f of n).

    n > 2 f. Xie et al. 2018, "Generalized Byzantine-tolerant SGD", Definition 7, in a weighted form.

    >>> meamed(np.array([[0.0], [1.0], [5.0], [99.0], [7.0]]), np.ones(5), f=2).vector.round(3).tolist()  # median 5
    [4.333]
    """
    mixture = mixture_of(updates)
    shares = normalised(weights, len(mixture))
    cut = heaviest(shares, f)
    if _alike(shares):
        return mean_around_median(mixture, len(mixture) - f)
    return _by_coordinate(mixture, shares, _nearest_to_median(1 - cut))


Keep = Callable[[Floats, Floats], Floats]


def mean_around_median(mixture: Mixture, keep: int) -> Aggregate:
    """Per coordinate, the mean of the `keep` values that are nearest to their median; all rows weigh alike."""
    from mintmark.aggregation.kernels import add_nearest  # compiled: loaded where something is aggregated

    return _sorted(mixture, add_nearest, keep)


def _nearest_to_median(keep: float) -> Keep:
    """Keeps the share `keep` of the weight that is nearest to the median."""

    def kept(values: Floats, stretch: Floats) -> Floats:
        median = (_middle(stretch) * values).sum(axis=1)
        with np.errstate(over="ignore"):
            order = np.argsort(np.abs(values - median[:, None]), axis=1, kind="stable")
        ends = np.minimum(np.cumsum(np.take_along_axis(stretch, order, axis=1), axis=1), keep)
        inside = np.empty_like(stretch)
        np.put_along_axis(inside, order, _cleaned(np.diff(ends, axis=1, prepend=0.0)), axis=1)
        return inside

    return kept


def _by_coordinate(mixture: Mixture, shares: Floats, keep: Keep) -> Aggregate:
    """`keep` gets sorted values [c, m] and their weights, and says how much of each counts (sum 1 in each row).

    Ties keep the rows' order, so equal inputs give equal bytes.
    """
    vector = np.empty(mixture.source.updates.shape[1])
    counted = np.zeros(len(mixture))
    for at, block in mixture.blocks():
        columns = np.ascontiguousarray(block.T, dtype=np.float64)
        order = np.argsort(columns, axis=1, kind="stable")
        values = np.take_along_axis(columns, order, axis=1)
        kept = keep(values, shares[order])
        vector[at] = (kept * values).sum(axis=1)
        counted += np.bincount(order.ravel(), kept.ravel(), len(mixture))
    return mixture.aggregate(vector, mixture.shares_of(counted / len(vector)), {})


def _by_rank(mixture: Mixture, rank: Floats) -> Aggregate:
    """The same for equal weights, where values count by their `rank` [m] alone (sum 1) and sorting them will do. Banks that
    tie at the first or last rank that counts are alike for `shares`."""
    from mintmark.aggregation.kernels import add_ranked  # compiled: loaded where something is aggregated

    return _sorted(mixture, add_ranked, rank)


def _sorted(mixture: Mixture, add: Callable[..., None], what: Floats | int) -> Aggregate:
    """What a compiled loop makes of columns that it sorts itself."""
    from mintmark.aggregation.kernels import sorting_network

    network = sorting_network(len(mixture))
    vector = np.empty(mixture.source.updates.shape[1])
    inside = np.zeros(len(mixture), dtype=np.int64)
    for at, block in mixture.blocks():
        whole = np.int32 if block.dtype == np.float32 else np.int64
        add(block, block.view(whole), network, what, vector[at], inside)
    return mixture.aggregate(vector, mixture.shares_of(inside / inside.sum()), {})


def _alike(shares: Floats) -> bool:
    return bool((shares == shares[0]).all())


def _inside(stretch: Floats, cut: float) -> Floats:
    """How much of each weight of [c, m], laid end to end on [0, 1], lies in [cut, 1 - cut]; sums to 1 in each row."""
    ends = np.clip(np.cumsum(stretch, axis=1), cut, 1 - cut)
    return _cleaned(np.diff(ends, axis=1, prepend=cut))


def _middle(stretch: Floats) -> Floats:
    """Half on each of the two weights that meet at one half of [0, 1]; all on the one that covers it: [c, m]."""
    ends = np.cumsum(stretch, axis=1)
    kept = np.zeros_like(stretch)
    row = np.arange(len(stretch))
    kept[row, (ends >= 0.5 - _ROUNDING).argmax(axis=1)] += 0.5
    kept[row, (ends > 0.5 + _ROUNDING).argmax(axis=1)] += 0.5
    return kept


def _cleaned(kept: Floats) -> Floats:
    """Without rounding errors, sum 1 in each row."""
    kept[kept < _ROUNDING * kept.sum(axis=1, keepdims=True)] = 0
    return np.asarray(kept / kept.sum(axis=1, keepdims=True))
