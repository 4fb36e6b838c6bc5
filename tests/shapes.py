"""Shapes of trees for tests of what is computed on them."""

from __future__ import annotations

import numpy as np

from mintmark.models.splits import Splits


def complete(trees: int, depth: int) -> Splits:
    """Complete trees: the children of split i are the nodes 2 i + 1 and 2 i + 2, leaves from the left."""
    splits = np.arange(2**depth - 1)
    children = np.stack([2 * splits + 1, 2 * splits + 2], axis=1)
    depths = np.floor(np.log2(splits + 1)).astype(np.int64)
    zeros = np.zeros((trees, len(splits)), dtype=np.int64)
    return Splits(zeros, zeros, zeros == 0, np.tile(depths, (trees, 1)), np.tile(children, (trees, 1, 1)))


def chain(trees: int, splits: int) -> Splits:
    """The other extreme: every split's right child is the next one, its left a leaf."""
    number = np.arange(splits)
    children = np.stack([splits + number, np.where(number < splits - 1, number + 1, 2 * splits)], axis=1)
    zeros = np.zeros((trees, splits), dtype=np.int64)
    return Splits(zeros, zeros, zeros == 0, np.tile(number, (trees, 1)), np.tile(children, (trees, 1, 1)))


def leaves_below(splits: Splits, node: int) -> list[int]:
    """The leaves of the first tree under a node, numbered from 0."""
    count = splits.feature.shape[1]
    if node >= count:
        return [node - count]
    return [leaf for child in splits.children[0, node].tolist() for leaf in leaves_below(splits, child)]
