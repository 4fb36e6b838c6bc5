"""Step 4: complete random trees drawn from the guidance; the same public key gives the same trees everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mintmark.models.bins import Bins, CategoryBins
from mintmark.models.guidance import Guidance, Splits
from mintmark.models.tree import Tree

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FEATURES_OF_NARROW_TREES = 4


def draw_trees(guidance: Guidance, trees: int, depth: int, key: bytes) -> Splits:
    """`trees` complete random trees; the same `key` (at least 16 bytes, public) gives the same trees everywhere.

    Every other tree uses at most four features, so that some trees go deep into few. A node's thresholds stay within
    its ancestors' cuts while any is left.
    """
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    count = len(guidance.feature)
    probability = np.broadcast_to(guidance.feature_probabilities(), (trees, count)).copy()
    # The smallest k of these times are a weighted draw without replacement.
    race = -np.log1p(-rng.random((trees, count))) / probability
    losers = np.argsort(race, axis=1, kind="stable")[:, _FEATURES_OF_NARROW_TREES:]
    np.put_along_axis(probability[1::2], losers[1::2], 0.0, axis=1)
    uniform = rng.random((trees, 2**depth - 1, 3))
    feature = np.zeros((trees, 2**depth - 1), dtype=np.int64)
    threshold = np.zeros_like(feature)
    low = np.zeros((trees, 1, count), dtype=np.int64)  # thresholds low <= t < high are still open
    high = np.broadcast_to(guidance.edges, (trees, 1, count)).copy()
    weights = guidance.threshold_weights()
    places = np.arange(weights.shape[1])
    for level in range(depth):
        nodes = slice(2**level - 1, 2 ** (level + 1) - 1)
        open_ = np.where(high > low, probability[:, None, :], 0.0)
        open_ = np.where(open_.sum(axis=2, keepdims=True) > 0, open_, probability[:, None, :])
        chosen = _draw(open_, uniform[:, nodes, 0])
        own_low = np.take_along_axis(low, chosen[..., None], axis=2)
        own_high = np.take_along_axis(high, chosen[..., None], axis=2)
        inside = np.where((places >= own_low) & (places < own_high), weights[chosen], 0.0)
        inside = np.where(inside.sum(axis=2, keepdims=True) > 0, inside, weights[chosen])
        cut = _draw(inside, uniform[:, nodes, 1])
        feature[:, nodes], threshold[:, nodes] = chosen, cut
        low, high = _children_ranges(low, high, chosen, cut)
    return Splits(feature, threshold, uniform[..., 2] < 0.5)


def complete_trees(splits: Splits, bins: Sequence[Bins]) -> tuple[Tree, ...]:
    """Heaps of splits as trees without values; leaf i is the i-th from the left, so that cells add up level by level."""
    nodes = splits.feature.shape[1]
    child = 2 * np.arange(nodes) + 1
    left, right = (np.where(at < nodes, at, ~(at - nodes)) for at in (child, child + 1))
    edges = np.zeros((len(bins), max(own.splits for own in bins)))
    for row, own in zip(edges, bins, strict=True):
        if not isinstance(own, CategoryBins):
            row[: own.splits] = own.edges
    listed = np.array([isinstance(own, CategoryBins) for own in bins])[splits.feature]
    threshold, missing_left = edges[splits.feature, splits.threshold], splits.missing_left & ~listed
    return tuple(
        Tree(feature, threshold[t], missing_left[t], left, right, np.zeros(nodes + 1), _left_codes(feature, cut, bins))
        for t, (feature, cut) in enumerate(zip(splits.feature, splits.threshold, strict=True))
    )


def _left_codes(feature: Ints, cut: Ints, bins: Sequence[Bins]) -> dict[int, tuple[int, ...]]:
    """What each split on a category sends left."""
    return {
        split: own.left_codes(int(cut[split]))
        for split, column in enumerate(feature)
        if isinstance(own := bins[column], CategoryBins)
    }


def _children_ranges(low: Ints, high: Ints, feature: Ints, cut: Ints) -> tuple[Ints, Ints]:
    """Open thresholds of the next level: [T, N, F] -> [T, 2 N, F], left and right child next to each other."""
    left_high, right_low = high.copy(), low.copy()
    np.put_along_axis(left_high, feature[..., None], cut[..., None], axis=2)
    np.put_along_axis(right_low, feature[..., None], cut[..., None] + 1, axis=2)
    shape = (low.shape[0], -1, low.shape[2])
    return np.stack([low, right_low], axis=2).reshape(shape), np.stack([left_high, high], axis=2).reshape(shape)


def _draw(weights: Floats, uniform: Floats) -> Ints:
    """One index a row by inversion: weights [..., K] >= 0, uniform [...] in [0, 1)."""
    steps = np.cumsum(weights, axis=-1)
    below = steps <= (uniform * steps[..., -1])[..., None]
    return np.asarray(below.sum(axis=-1), dtype=np.int64)
