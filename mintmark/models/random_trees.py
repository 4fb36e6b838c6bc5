"""Step 4: random trees drawn from the guidance; the same public key gives the same trees everywhere.

A tree grows where positives are thought to be: the next leaf to be split is drawn in proportion to the square of its
share of them, taken as the product of its features' shares. Complete trees spend most of their leaves on rows that no model
doubts: these are better on two sets of three and no worse on the third (docs/learning.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.models.bins import Bins, CategoryBins
from mintmark.models.guidance import Guidance
from mintmark.models.splits import Splits
from mintmark.models.tree import Tree

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FEATURES_OF_NARROW_TREES = 4
_SHARE_POWER, _LEAST_SHARE = 2, 1e-9


def draw_trees(guidance: Guidance, trees: int, leaves: int, depth: int, key: bytes) -> Splits:
    """`trees` random trees of so many leaves, none deeper than `depth`; the same `key` (at least 16 bytes, public) gives
    the same trees everywhere.

    Every other tree uses at most four features, so that some trees go deep into few. A split's threshold stays within
    its ancestors' cuts while any is left. Raises `ValueError` when no tree of that depth has so many leaves.
    """
    if leaves > 2**depth:
        raise ValueError(f"expected at most {2**depth} leaves at depth {depth}, got {leaves}")
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    wide = guidance.feature_probabilities()
    probability = _features_of_trees(wide, trees, rng)
    splits, every = leaves - 1, np.arange(trees)
    uniform = rng.random((trees, splits, 4))
    weights, shares = guidance.threshold_weights(), guidance.positive_shares()
    below = np.concatenate([np.zeros((len(wide), 1)), np.cumsum(shares, axis=1)], axis=1)  # [F, W + 2]
    places = np.arange(weights.shape[1])
    feature, threshold, at_depth = (np.zeros((trees, splits), dtype=np.int64) for _ in range(3))
    children = np.zeros((trees, splits, 2), dtype=np.int64)
    growing = _Leaves.of_roots(trees, leaves, guidance.edges)
    for split in range(splits):
        leaf = _draw(growing.appeal(split + 1, depth), uniform[:, split, 0])
        low, high = growing.low[every, leaf], growing.high[every, leaf]  # [T, F]
        open_ = np.where(high > low, 1.0, 0.0)
        chosen = _draw(_first_usable(open_ * probability, open_ * wide, probability), uniform[:, split, 1])
        first, last = low[every, chosen, None], high[every, chosen, None]
        inside = (places >= first) & (places < last)
        cut = _draw(_first_usable(np.where(inside, weights[chosen], 0.0), weights[chosen]), uniform[:, split, 2])
        feature[:, split], threshold[:, split], at_depth[:, split] = chosen, cut, growing.depth[every, leaf]
        if split:
            hung = growing.hangs[every, leaf]
            children[every, hung[:, 0], hung[:, 1]] = split
        growing.cut(split, leaf, chosen, cut, below)
    children[every[:, None], growing.hangs[..., 0], growing.hangs[..., 1]] = splits + np.arange(leaves)
    return Splits(feature, threshold, uniform[..., 3] < 0.5, at_depth, children)


@dataclass(frozen=True, eq=False)
class _Leaves:
    """The leaves that T trees have so far, up to L each. Of every leaf: its thresholds low <= t < high are still open
    [T, L, F]; its `depth` and its share of the positives [T, L]; and among the children of which split it `hangs`, on
    which side [T, L, 2]."""

    low: Ints
    high: Ints
    depth: Ints
    positives: Floats
    hangs: Ints

    @classmethod
    def of_roots(cls, trees: int, leaves: int, edges: Ints) -> _Leaves:
        """T trees of one leaf, which holds everything; `edges` [F] thresholds."""
        shape = trees, leaves
        none = np.zeros((*shape, len(edges)), dtype=np.int64)
        hangs = np.zeros((*shape, 2), dtype=np.int64)
        return cls(none, none + edges, np.zeros(shape, dtype=np.int64), np.ones(shape), hangs)

    def appeal(self, count: int, depth: int) -> Floats:
        """How much each of the first `count` leaves [T, count] asks to be split; those at `depth` do not."""
        share = np.maximum(self.positives[:, :count], _LEAST_SHARE)
        return np.where(self.depth[:, :count] < depth, share**_SHARE_POWER, 0.0)

    def cut(self, split: int, leaf: Ints, feature: Ints, threshold: Ints, below: Floats) -> None:
        """Cut the `leaf` [T] of each tree at the `threshold` [T] of its `feature` [T]: the left part takes its place, the
        right one the place after those there are. `below` [F, W + 2] are the shares of positives in the bins before."""
        new, every = split + 1, np.arange(len(leaf))
        first = below[feature, self.low[every, leaf, feature]]
        whole = below[feature, self.high[every, leaf, feature] + 1] - first
        left = np.clip((below[feature, threshold + 1] - first) / np.maximum(whole, 1e-300), 0.0, 1.0)
        self.low[:, new], self.high[:, new] = self.low[every, leaf], self.high[every, leaf]
        self.low[every, new, feature], self.high[every, leaf, feature] = threshold + 1, threshold
        self.positives[:, new], self.positives[every, leaf] = (
            self.positives[every, leaf] * (1 - left),
            self.positives[every, leaf] * left,
        )
        self.depth[every, leaf] += 1
        self.depth[:, new] = self.depth[every, leaf]
        self.hangs[every, leaf], self.hangs[:, new] = (split, 0), (split, 1)


def _features_of_trees(wide: Floats, trees: int, rng: np.random.Generator) -> Floats:
    """Each tree's probabilities of features, [T, F]: `wide` [F], and in every other tree 0 but for a few."""
    probability = np.broadcast_to(wide, (trees, len(wide))).copy()
    # The smallest k of these times are a weighted draw without replacement.
    race = -np.log1p(-rng.random(probability.shape)) / probability
    losers = np.argsort(race, axis=1, kind="stable")[:, _FEATURES_OF_NARROW_TREES:]
    np.put_along_axis(probability[1::2], losers[1::2], 0.0, axis=1)
    return probability


def build_trees(splits: Splits, bins: Sequence[Bins]) -> tuple[Tree, ...]:
    """The splits as trees without values; leaf i is node M + i."""
    count = splits.feature.shape[1]
    child = np.where(splits.children < count, splits.children, ~(splits.children - count))
    edges = np.zeros((len(bins), max(own.splits for own in bins)))
    for row, own in zip(edges, bins, strict=True):
        if not isinstance(own, CategoryBins):
            row[: own.splits] = own.edges
    listed = np.array([isinstance(own, CategoryBins) for own in bins])[splits.feature]
    threshold, missing_left = edges[splits.feature, splits.threshold], splits.missing_left & ~listed
    return tuple(
        Tree(
            feature,
            threshold[t],
            missing_left[t],
            child[t, :, 0],
            child[t, :, 1],
            np.zeros(count + 1),
            _left_codes(feature, cut, bins),
        )
        for t, (feature, cut) in enumerate(zip(splits.feature, splits.threshold, strict=True))
    )


def _left_codes(feature: Ints, cut: Ints, bins: Sequence[Bins]) -> dict[int, tuple[int, ...]]:
    """What each split on a category sends left."""
    return {
        split: own.left_codes(int(cut[split]))
        for split, column in enumerate(feature)
        if isinstance(own := bins[column], CategoryBins)
    }


def _first_usable(*weights: Floats) -> Floats:
    """Row by row the first of the weights [T, K] that are not all 0; of the last nothing is asked."""
    found = weights[-1]
    for candidate in reversed(weights[:-1]):
        found = np.where(candidate.sum(axis=1, keepdims=True) > 0, candidate, found)
    return found


def _draw(weights: Floats, uniform: Floats) -> Ints:
    """One index a row by inversion: weights [T, K] >= 0, uniform [T] in [0, 1)."""
    steps = np.cumsum(weights, axis=-1)
    below = steps <= (uniform * steps[..., -1])[..., None]
    return np.asarray(np.minimum(below.sum(axis=-1), weights.shape[-1] - 1), dtype=np.int64)
