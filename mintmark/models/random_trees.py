"""Step 4: random trees drawn from the guidance; the same public key gives the same trees everywhere.

A tree grows where positives are thought to be: the next leaf to be split is drawn in proportion to the square of its
share of them, taken as the product of its features' shares. Complete trees spend most of their leaves on rows that no model
doubts: these are better on two sets of three and no worse on the third (docs/learning.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mintmark.models.bins import Bins, CategoryBins
from mintmark.models.guidance import Guidance
from mintmark.models.splits import Splits
from mintmark.models.tree import Tree

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FEATURES_OF_NARROW_TREES = 4
_MASS_POWER, _LEAST_MASS = 2, 1e-9


def draw_trees(guidance: Guidance, trees: int, leaves: int, depth: int, key: bytes) -> Splits:
    """`trees` random trees of so many leaves, none deeper than `depth`; the same `key` (at least 16 bytes, public) gives
    the same trees everywhere.

    Every other tree uses at most four features, so that some trees go deep into few. A split's threshold stays within
    its ancestors' cuts while any is left. Raises `ValueError` when no tree of that depth has so many leaves.
    """
    if leaves > 2**depth:
        raise ValueError(f"expected at most {2**depth} leaves at depth {depth}, got {leaves}")
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    count, splits, every = len(guidance.feature), leaves - 1, np.arange(trees)
    wide = guidance.feature_probabilities()
    probability = np.broadcast_to(wide, (trees, count)).copy()
    # The smallest k of these times are a weighted draw without replacement.
    race = -np.log1p(-rng.random((trees, count))) / probability
    losers = np.argsort(race, axis=1, kind="stable")[:, _FEATURES_OF_NARROW_TREES:]
    np.put_along_axis(probability[1::2], losers[1::2], 0.0, axis=1)
    uniform = rng.random((trees, splits, 4))
    weights, shares = guidance.threshold_weights(), guidance.positive_shares()
    below = np.concatenate([np.zeros((count, 1)), np.cumsum(shares, axis=1)], axis=1)  # [F, W + 2]
    places = np.arange(weights.shape[1])

    feature, threshold = (np.zeros((trees, splits), dtype=np.int64) for _ in range(2))
    at_depth, children = np.zeros((trees, splits), dtype=np.int64), np.zeros((trees, splits, 2), dtype=np.int64)
    # Of every leaf so far: thresholds low <= t < high are still open; its depth; its share of the positives; and where
    # among the children of which split it hangs.
    low = np.zeros((trees, leaves, count), dtype=np.int64)
    high = np.broadcast_to(guidance.edges, (trees, leaves, count)).copy()
    deep, mass = np.zeros((trees, leaves), dtype=np.int64), np.ones((trees, leaves))
    hangs = np.zeros((trees, leaves, 2), dtype=np.int64)
    for split in range(splits):
        grown = slice(0, split + 1)
        shallow = deep[:, grown] < depth
        appeal = np.where(shallow, np.maximum(mass[:, grown], _LEAST_MASS) ** _MASS_POWER, 0.0)
        leaf = _draw(appeal, uniform[:, split, 0])
        own_low, own_high = low[every, leaf], high[every, leaf]  # [T, F]
        open_ = np.where(own_high > own_low, 1.0, 0.0)
        chosen = _draw(_first_usable(open_ * probability, open_ * wide, probability), uniform[:, split, 1])
        first, last = own_low[every, chosen], own_high[every, chosen]
        inside = (places >= first[:, None]) & (places < last[:, None])
        cut = _draw(_first_usable(np.where(inside, weights[chosen], 0.0), weights[chosen]), uniform[:, split, 2])
        feature[:, split], threshold[:, split], at_depth[:, split] = chosen, cut, deep[every, leaf]
        if split:
            hung = hangs[every, leaf]
            children[every, hung[:, 0], hung[:, 1]] = split
        new = split + 1  # the right child; the left one takes its parent's place
        whole = below[chosen, last + 1] - below[chosen, first]
        left = np.clip((below[chosen, cut + 1] - below[chosen, first]) / np.maximum(whole, 1e-300), 0.0, 1.0)
        low[:, new], high[:, new] = own_low, own_high
        low[every, new, chosen], high[every, leaf, chosen] = cut + 1, cut
        mass[:, new], mass[every, leaf] = mass[every, leaf] * (1 - left), mass[every, leaf] * left
        deep[every, leaf] += 1
        deep[:, new] = deep[every, leaf]
        hangs[every, leaf], hangs[:, new] = (split, 0), (split, 1)
    children[every[:, None], hangs[..., 0], hangs[..., 1]] = splits + np.arange(leaves)
    return Splits(feature, threshold, uniform[..., 3] < 0.5, at_depth, children)


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
