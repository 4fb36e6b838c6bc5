"""Step 2, round 1: one tree a feature with a leaf for every bin, and the order of categories that its sums show.

Leaf b of feature f's tree is its bin b, so that the sums are G and H of every bin. Trees cut numbers by size; categories
have no order until this round's noised sums give them one, by the values that their bins support: along it the best cut
of a category is the best of all its two-part partitions (Fisher 1958; LightGBM sorts by the same ratio).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mintmark.models.bins import Bins, CategoryBins, NumberBins
from mintmark.models.tree import Tree

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def feature_trees(bins: Sequence[Bins]) -> tuple[Tree, ...]:
    """One tree of full bins a feature, without values."""
    return tuple(
        _number_tree(column, own) if isinstance(own, NumberBins) else _category_tree(column, own)
        for column, own in enumerate(bins)
    )


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
