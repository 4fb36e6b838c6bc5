"""Step 2, round 0: one tree a feature with a leaf for every bin: base rate, main effects and the order of categories.

Leaf b of feature f's tree is its bin b, so that the sums are G and H of every bin. The round is asked at a public first
rate, where H counts rows and G their positives: from both follow the base rate and what G and H would have been at it.
Trees cut numbers by size; categories have no order until this round's noised sums give them one, by the values that
their bins support: along it the best cut of a category is the best of all its two-part partitions (Fisher 1958;
LightGBM sorts by the same ratio).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.models.bins import Bins, CategoryBins, NumberBins
from mintmark.models.leaf_values import HESSIAN
from mintmark.models.tree import Tree

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FIRST_RATE = 0.02
"""Of positives, before anything is known: rare enough that honest rows do not fill a customer's norm."""


def feature_trees(bins: Sequence[Bins]) -> tuple[Tree, ...]:
    """One tree of full bins a feature, without values."""
    return tuple(
        _number_tree(column, own) if isinstance(own, NumberBins) else _category_tree(column, own)
        for column, own in enumerate(bins)
    )


@dataclass(frozen=True, eq=False)
class BaseRate:
    """What round 0 says of all rows: `rate` of `positives`, and its `sums` [F, W, 2] and their `noise` at that rate."""

    rate: float
    positives: float
    sums: Floats
    noise: float


def base_rate(sums: Floats, noise: float) -> BaseRate:
    r"""From sums at the rate $p_0$ = `FIRST_RATE` to those at the rows' own rate p, kept within [1e-4, .5].

    A bin of N rows, Y of them positive, has $H = p_0 (1 - p_0) N$ and $G = p_0 N - Y$; at p it has
    $G + (p - p_0) N$ and $p (1 - p) N$. `noise` is the standard deviation in G. Bins of noise alone may sum to no rows.

    >>> found = base_rate(np.array([[[0.0, 0.0], [2.0 - 10.0, 100 * 0.0196]]]), noise=0.0)
    >>> round(found.rate, 12), found.sums[0, 1].round(12).tolist()
    (0.1, [0.0, 9.0])
    """
    first = FIRST_RATE * (1 - FIRST_RATE)
    rows = sums[..., 1] / first
    total, positives = (float(own.sum(axis=1).mean()) for own in (rows, FIRST_RATE * rows - sums[..., 0]))
    rate = float(np.clip(positives / max(total, 1e-9), 1e-4, 0.5))
    moved = np.stack([sums[..., 0] + (rate - FIRST_RATE) * rows, rate * (1 - rate) * rows], axis=2)
    return BaseRate(rate, positives, moved, noise * math.hypot(1, (rate - FIRST_RATE) / (first * HESSIAN)))


def row_counts(sums: Floats, noise: float) -> tuple[Floats, float]:
    """From round 0's released sums [F, W, 2] of g and C h, and their noise, to rows in each bin [F, W] and their noise.

    >>> counts, noise = row_counts(np.array([[[0.0, 0.0], [-8.0, 100 * 0.0196 * HESSIAN]]]), 0.01372)
    >>> counts.round(9).tolist(), round(noise, 9)
    ([[0.0, 100.0]], 1.0)
    """
    of_a_row = HESSIAN * FIRST_RATE * (1 - FIRST_RATE)
    return sums[..., 1] / of_a_row, noise / of_a_row


def category_order(bins: Sequence[Bins], values: Floats) -> Ints:
    """The places of bins in the order that trees are to cut, [F, W]: by value for categories, as they are for numbers.

    `values` [F, W] are the bins' leaf values; equal ones keep their order, and missing, bin 0, stays first.

    >>> category_order([CategoryBins(((0,), (1,), (2,)))], np.array([[0.0, 0.3, -0.2, 0.1]])).tolist()
    [[0, 2, 3, 1]]
    """
    order = np.broadcast_to(np.arange(values.shape[1]), values.shape).copy()
    for row, own, value in zip(order, bins, values, strict=True):
        if isinstance(own, CategoryBins):
            last = len(own.groups)
            row[1 : last + 1] = 1 + np.argsort(value[1 : last + 1], kind="stable")
    return order


def in_order(bins: Sequence[Bins], order: Ints) -> tuple[Bins, ...]:
    """The same bins in `order`."""
    return tuple(
        CategoryBins(tuple(own.groups[place - 1] for place in row[1 : len(own.groups) + 1]))
        if isinstance(own, CategoryBins)
        else own
        for own, row in zip(bins, order, strict=True)
    )


def _number_tree(column: int, bins: NumberBins) -> Tree:
    """The root cuts at the last edge and sends missing values right, where the same cut once more, with missing left,
    parts them from the top bin: left of it only missing values are left over."""
    edges, last = bins.edges, bins.splits - 1
    threshold, missing_left, left, right = [edges[-1], edges[-1]], [False, True], [0, ~0], [1, ~(last + 2)]

    def split(low: int, high: int, middle: int) -> None:
        threshold.append(edges[middle - 1])
        missing_left.append(True)

    left[0] = _grow(1, last + 1, left, right, split)
    return _tree(column, threshold, missing_left, left, right, {})


def _category_tree(column: int, bins: CategoryBins) -> Tree:
    """The root sends every listed code left; what goes right is missing or unknown."""
    left, right = [0], [~0]
    categories = {0: bins.left_codes(len(bins.groups) - 1)}

    def split(low: int, high: int, middle: int) -> None:
        codes = (code for group in bins.groups[low - 1 : middle] for code in group)
        categories[len(categories)] = tuple(sorted(codes))

    left[0] = _grow(1, len(bins.groups), left, right, split)
    return _tree(column, [0.0] * len(left), [False] * len(left), left, right, categories)


def _grow(low: int, high: int, left: list[int], right: list[int], split: Callable[[int, int, int], None]) -> int:
    """Append the balanced subtree over bins low..high, which no missing value reaches; returns its root."""
    if low == high:
        return ~low
    node, middle = len(left), (low + high) // 2
    split(low, high, middle)
    left.append(0)
    right.append(0)
    left[node] = _grow(low, middle, left, right, split)
    right[node] = _grow(middle + 1, high, left, right, split)
    return node


def _tree(
    column: int,
    threshold: list[float],
    missing_left: list[bool],
    left: list[int],
    right: list[int],
    categories: dict[int, tuple[int, ...]],
) -> Tree:
    arrays = np.array(threshold), np.array(missing_left), np.array(left), np.array(right)
    return Tree(np.full(len(left), column), *arrays, np.zeros(len(left) + 1), categories)
