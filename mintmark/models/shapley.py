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

from mintmark.models.shapley_kernel import (
    FEW_POINTS,
    LEFT_WHEN_MISSING,
    MOST_POINTS,
    WORDS,
    ZERO_WHEN_MISSING,
    add_contributions,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

_POINTS, _WEIGHTS = np.zeros((2, MOST_POINTS)), np.zeros((2, MOST_POINTS))
for _place, _count in enumerate((FEW_POINTS, MOST_POINTS)):  # of Gauss and Legendre, on [0, 1]
    _found, _weight = np.polynomial.legendre.leggauss(_count)
    _POINTS[_place, :_count], _WEIGHTS[_place, :_count] = (_found + 1) / 2, _weight / 2


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees of F features as arrays over their splits (see `add_contributions`), and the mean score `base` over covers."""

    features: int
    base: float
    starts: Ints
    long: npt.NDArray[np.uint8]
    branches: Ints
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
            np.ascontiguousarray(features, dtype=np.float64), self.starts, self.long, self.branches, self.above, self.split,
            self.threshold, self.kind, self.words_at, self.words, self.share, self.value, _POINTS, _WEIGHTS, total,
        )  # fmt: skip
        total[:, -1] = self.base
        return total


def read_forest(texts: Sequence[str]) -> Forest:
    """The mean of the models of LightGBM `texts` over the same features. Raises `ValueError` for what is no such text."""
    splits: list[_Split] = []
    starts, long, base, features = [0], [], 0.0, 0
    for text in texts:
        header, *trees = [_fields(block) for block in text.partition("\nend of trees")[0].split("\n\n")]
        if header.get("num_class") != "1" or "max_feature_idx" not in header:
            raise ValueError("expected a LightGBM text of one class, got another text")
        features = int(header["max_feature_idx"]) + 1
        for tree in trees:
            if "leaf_value" in tree:
                mean, distinct = _append(splits, tree, 1 / len(texts))
                base += mean
                long.append(distinct > 2 * FEW_POINTS)  # n points are exact for 2 n different features
                starts.append(len(splits))
    words = {split.words: 0 for split in splits} or {(): 0}
    table = np.zeros((len(words), max(map(_length, words))), np.uint8)
    for place, codes in enumerate(words):
        words[codes] = place
        table[place, list(codes)] = 1
    return Forest(
        features,
        base,
        np.array(starts, np.int32),
        np.array(long, np.uint8),
        np.array([split.branches for split in splits], np.int32).reshape(-1, 2),
        np.array([split.above for split in splits], np.int32),
        np.array([split.feature for split in splits], np.int32),
        np.array([split.threshold for split in splits], np.float64),
        np.array([split.kind for split in splits], np.uint8),
        np.array([words[split.words] for split in splits], np.int32),
        table,
        np.array([split.share for split in splits], np.float64).reshape(-1, 2),
        np.array([split.value for split in splits], np.float64).reshape(-1, 2),
    )


class _Split(NamedTuple):
    """One split as `add_contributions` takes it; `words` are the codes that go left."""

    feature: int
    threshold: float
    kind: int
    words: tuple[int, ...]
    above: int
    branches: tuple[int, int]
    share: tuple[float, float]
    value: tuple[float, float]


def _append(splits: list[_Split], tree: dict[str, str], scale: float) -> tuple[float, int]:
    """Append a tree's splits; returns its mean over covers, times `scale`, and the most different features on a path."""
    values = [scale * float(value) for value in tree["leaf_value"].split()]
    if len(values) == 1:
        return values[0], 0
    feature, left, right, covers, leaf_covers, kinds = (
        [int(word) for word in tree[key].split()]
        for key in ("split_feature", "left_child", "right_child", "internal_count", "leaf_count", "decision_type")
    )
    if min(leaf_covers) < 1:
        raise ValueError("expected every leaf to cover a row, got one that covers none")
    thresholds, codes = [float(word) for word in tree["threshold"].split()], _code_sets(tree)
    count, mean, distinct = len(feature), 0.0, 0
    reached, shares = [1.0] * count, {0: 1.0}
    paths: list[dict[int, int]] = [{} for _ in range(count)]  # of every split: feature -> the last place it leads into
    for here, branches in enumerate(zip(left, right, strict=True)):
        above = paths[here].get(feature[here], 0)
        places = [1 + side if side >= 0 else count - side for side in branches]  # a leaf j is the side -1 - j
        for side, place in zip(branches, places, strict=True):
            if 0 <= side <= here:
                raise ValueError(f"expected parents before children, got split {side} below split {here}")
            ratio = (covers[side] if side >= 0 else leaf_covers[~side]) / covers[here]
            shares[place] = ratio * shares[above]
            path = paths[here] | {feature[here]: place}
            distinct = max(distinct, len(path))
            if side >= 0:
                paths[side], reached[side] = path, reached[here] * ratio
            else:
                mean += reached[here] * ratio * values[~side]
        splits.append(
            _Split(
                feature[here],
                thresholds[here],
                _kind(kinds[here]),
                codes[int(thresholds[here])] if kinds[here] & 1 else (),
                above,
                (places[0], places[1]),
                (shares[places[0]], shares[places[1]]),
                (_leaf(values, branches[0]), _leaf(values, branches[1])),
            )
        )
    return mean, distinct


def _leaf(values: list[float], side: int) -> float:
    return values[~side] if side < 0 else 0.0


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
