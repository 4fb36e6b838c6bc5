"""Why a score is what it is: what each feature adds to it, exactly and fast enough for one payment at a time.

The values are those of path-dependent TreeSHAP (Lundberg and others, 2020), which LightGBM's `pred_contrib` computes as
well, here by an algorithm that passes once down and once up each tree (`shapley_kernel.py`). Trees are read from LightGBM
texts: only from such as this machine wrote, or whose digest it has signed.

>>> from mintmark.models.lightgbm_text import write
>>> from mintmark.models.tree import Tree
>>> stump = Tree(np.array([0]), np.array([1.5]), np.array([True]), np.array([-1]), np.array([-2]), np.array([0.25, -0.25]))
>>> forest = read_forest([write([stump], names=("amount", "hour"), base_score=-2.0)])
>>> forest.contributions(np.array([[1.0, 3.0]])).tolist()  # amount, hour, base: together the raw score
[[0.25, 0.0, -2.0]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mintmark.models.shapley_kernel import LEFT_WHEN_MISSING, MOST_POINTS, WORDS, ZERO_WHEN_MISSING, add_contributions

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

_POINTS, _WEIGHTS = np.zeros((MOST_POINTS + 1, MOST_POINTS)), np.zeros((MOST_POINTS + 1, MOST_POINTS))
for _count in range(1, MOST_POINTS + 1):  # of Gauss and Legendre, on [0, 1]
    _found, _weight = np.polynomial.legendre.leggauss(_count)
    _POINTS[_count, :_count], _WEIGHTS[_count, :_count] = (_found + 1) / 2, _weight / 2


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees of F features as arrays over their nodes (see `add_contributions`), and the mean score `base` over covers."""

    features: int
    base: float
    starts: Ints
    orders: Ints
    parent: Ints
    above: Ints
    split: Ints
    threshold: Floats
    kind: npt.NDArray[np.uint8]
    words_at: Ints
    words: npt.NDArray[np.uint8]
    share: Floats
    value: Floats

    def contributions(self, features: Floats) -> Floats:
        """What each feature adds to the raw scores of `features` [n, F]: [n, F + 1], the last column the base."""
        total = np.zeros((len(features), self.features + 1))
        add_contributions(
            np.ascontiguousarray(features, dtype=np.float64), self.starts, self.orders, self.parent, self.above, self.split,
            self.threshold, self.kind, self.words_at, self.words, self.share, self.value, _POINTS, _WEIGHTS, total,
        )  # fmt: skip
        total[:, -1] = self.base
        return total


def read_forest(texts: Sequence[str]) -> Forest:
    """The mean of the models of LightGBM `texts` over the same features. Raises `ValueError` for what is no such text."""
    nodes: list[_Node] = []
    starts, orders, base, features = [0], [], 0.0, 0
    for text in texts:
        header, *trees = [_fields(block) for block in text.partition("\nend of trees")[0].split("\n\n")]
        if header.get("num_class") != "1" or "max_feature_idx" not in header:
            raise ValueError("expected a LightGBM text of one class, got another text")
        features = int(header["max_feature_idx"]) + 1
        for tree in trees:
            if "leaf_value" in tree:
                base += _append(nodes, tree, 1 / len(texts))
                longest = max(node.distinct for node in nodes[starts[-1] :])
                orders.append(min(max(1, (longest + 1) // 2), MOST_POINTS))
                starts.append(len(nodes))
    words = {node.words: 0 for node in nodes}
    table = np.zeros((len(words), max(map(_length, words))), np.uint8)
    for place, codes in enumerate(words):
        words[codes] = place
        table[place, list(codes)] = 1
    return Forest(
        features,
        base,
        np.array(starts, np.int32),
        np.array(orders, np.int32),
        np.array([node.parent for node in nodes], np.int32),
        np.array([node.above for node in nodes], np.int32),
        np.array([node.split for node in nodes], np.int32),
        np.array([node.threshold for node in nodes]),
        np.array([node.kind for node in nodes], np.uint8),
        np.array([words[node.words] for node in nodes], np.int32),
        table,
        np.array([node.share for node in nodes]),
        np.array([node.value for node in nodes]),
    )


class _Node(NamedTuple):
    """One node, with what leads into it: `distinct` features. `words` are the codes that go left."""

    parent: int
    above: int
    distinct: int
    share: float
    split: int = -1
    threshold: float = 0.0
    kind: int = 0
    words: tuple[int, ...] = ()
    value: float = 0.0


def _append(nodes: list[_Node], tree: dict[str, str], scale: float) -> float:
    """Append a tree's nodes in preorder, left child first; returns its mean over covers, times `scale`."""
    values = [scale * float(value) for value in tree["leaf_value"].split()]
    if len(values) == 1:
        nodes.append(_Node(-1, -1, 0, 1.0, value=values[0]))
        return values[0]
    split, left, right, covers, leaf_covers, kinds = (
        [int(word) for word in tree[key].split()]
        for key in ("split_feature", "left_child", "right_child", "internal_count", "leaf_count", "decision_type")
    )
    if min(leaf_covers) < 1:
        raise ValueError("expected every leaf to cover a row, got one that covers none")
    thresholds = [float(word) for word in tree["threshold"].split()]
    codes = _code_sets(tree)

    def visit(child: int, parent: int, ratio: float, path: dict[int, int]) -> float:
        node, above = len(nodes), -1
        if parent >= 0:
            feature = nodes[parent].split
            above = path.get(feature, -1)
            path = path | {feature: node}
        share = ratio * (nodes[above].share if above >= 0 else 1.0)
        if child < 0:
            nodes.append(_Node(parent, above, len(path), share, value=values[~child]))
            return values[~child]
        words = codes[int(thresholds[child])] if kinds[child] & 1 else ()
        nodes.append(
            _Node(parent, above, len(path), share, split[child], thresholds[child], _kind(kinds[child]), words)
        )
        mean = 0.0
        for side in (left[child], right[child]):
            part = (covers[side] if side >= 0 else leaf_covers[~side]) / covers[child]
            mean += part * visit(side, node, part, path)
        return mean

    return visit(0, -1, 1.0, {})


def _kind(decision_type: int) -> int:
    """What a split does with words and missing values, from LightGBM's bits (its `tree.h`)."""
    if decision_type & 1:
        return WORDS
    missing = decision_type >> 2 & 3
    if missing == 1:
        raise ValueError("expected splits that take NaN or nothing for missing, got one that takes zero")
    return (LEFT_WHEN_MISSING if decision_type & 2 else 0) | (0 if missing == 2 else ZERO_WHEN_MISSING)


def _code_sets(tree: dict[str, str]) -> list[tuple[int, ...]]:
    """The codes that go left at each split on words, from bits in words of 32."""
    if "cat_boundaries" not in tree:
        return []
    bounds = [int(word) for word in tree["cat_boundaries"].split()]
    bits = [int(word) for word in tree["cat_threshold"].split()]
    return [
        tuple(32 * place + bit for place, word in enumerate(bits[low:high]) for bit in range(32) if word >> bit & 1)
        for low, high in pairwise(bounds)
    ]


def _fields(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.split("\n") if "=" in line)


def _length(codes: tuple[int, ...]) -> int:
    return max(codes, default=0) + 1
