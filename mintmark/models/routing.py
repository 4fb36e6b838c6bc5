"""Trees as tables over codes: for every level and node, which node of the next level each of the 256 codes leads to.

On the public grid a row is one byte a feature (`rows.py`), and every threshold is an edge of that grid, so a table says
exactly what the tree says: for numbers, categories, missing and infinite values, as LightGBM does on the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mintmark.models.tree import Tree
from mintmark.schema import FeatureKind, FeatureSchema, public_edges

MAX_LEAVES = 256
_CODES = np.arange(256)


@dataclass(frozen=True, eq=False)
class Routing:
    """T trees of at most L levels, at most W nodes wide: `feature` [T, L, W] and `following` [T, L, W, 256], where the
    last level's values are leaves. Levels beyond a tree's own keep every leaf where it is."""

    feature: npt.NDArray[np.uint16]
    following: npt.NDArray[np.uint8]


def route(schema: FeatureSchema, trees: Sequence[Tree]) -> Routing:
    """The tables of `trees`. Raises `ValueError` for a threshold off the public grid, or more than 256 leaves.

    The last few are kept: in a simulation hundreds of banks ask for the same trees.
    """
    return _route(schema, tuple(trees))


@lru_cache(maxsize=2)
def _route(schema: FeatureSchema, trees: tuple[Tree, ...]) -> Routing:
    tables = [_levels(schema, tree) for tree in trees]
    depth = max((len(table) for table in tables), default=0)
    width = max((len(feature) for table in tables for feature, _ in table), default=0)
    width = max([width, *(tree.leaves for tree in trees)])
    feature = np.zeros((len(trees), depth, width), dtype=np.uint16)
    following = np.empty((len(trees), depth, width, 256), dtype=np.uint8)
    following[:] = np.arange(width, dtype=np.uint8)[:, None]
    for number, table in enumerate(tables):
        for level, (own_feature, own_following) in enumerate(table):
            feature[number, level, : len(own_feature)] = own_feature
            following[number, level, : len(own_feature)] = own_following
    return Routing(feature, following)


def _levels(schema: FeatureSchema, tree: Tree) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Each level's nodes from the left: their features [N], and where each code goes [N, 256]."""
    if tree.leaves > MAX_LEAVES:
        raise ValueError(f"expected trees of at most {MAX_LEAVES} leaves, got {tree.leaves}")
    go_left = _go_left(schema, tree)
    feature, left, right = (np.asarray(part, dtype=np.int64) for part in (tree.feature, tree.left, tree.right))
    levels, nodes = [], np.zeros(min(1, len(feature)), dtype=np.int64)
    while (nodes >= 0).any():
        split = nodes >= 0
        at = np.where(split, nodes, 0)
        first = np.cumsum(1 + split) - (1 + split)  # a leaf keeps one place in the next level, a split has two
        below = np.where(go_left[at] | ~split[:, None], first[:, None], first[:, None] + 1)
        children = np.stack([np.where(split, left[at], nodes), right[at]], axis=1)
        nodes = children[np.stack([np.ones_like(split), split], axis=1)]
        levels.append((np.where(split, feature[at], feature[0]), below))
    if levels:
        levels[-1] = (levels[-1][0], ~nodes[levels[-1][1]])
    return _merged(levels)


def _merged(
    levels: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """A tree over one feature in a single level: the code alone decides."""
    if len(levels) < 2 or len(used := np.unique(np.concatenate([feature for feature, _ in levels]))) > 1:
        return levels
    at = np.zeros(256, dtype=np.int64)
    for _, below in levels:
        at = below[at, _CODES]
    return [(used, at[None])]


def _go_left(schema: FeatureSchema, tree: Tree) -> npt.NDArray[np.bool_]:
    """[m, 256]: whether a code goes left at a split."""
    edges, splits = public_edges(schema)[tree.feature], np.arange(len(tree.feature))
    listed = np.isin(splits, list(tree.categories))
    kinds = np.array([schema.features[column].kind for column in tree.feature], dtype=object)
    if ((kinds == FeatureKind.CATEGORY) != listed).any():
        raise ValueError("expected lists of codes at splits on categories, and there only")
    cut = (edges < tree.threshold[:, None]).sum(axis=1)
    if (off := ~listed & (edges[splits, cut] != tree.threshold)).any():
        raise ValueError(f"expected thresholds on the public grid, got {tree.threshold[off][:3].tolist()}")
    go_left = np.asarray(cut[:, None] + 1 >= _CODES)
    go_left[:, 0] = tree.missing_left
    for split, codes in tree.categories.items():
        go_left[split] = np.isin(_CODES - 1, codes)
    return go_left
