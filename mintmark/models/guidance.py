r"""Which splits are worth sampling: gains estimated from released sums, and random trees drawn from them.

Random trees whose structure does not depend on data cost no privacy; sampling their splits in proportion to gains that
earlier rounds' noised sums already showed costs none either. From those gains, p(feature) is proportional to
gain^.75 with a uniform floor of 3 %, and p(threshold | feature) to gain^.5 mixed with 20 % uniform.
Source: measured in the project's learning notes (docs/learning.md); the gain is LightGBM's, $G^2 / (H + \lambda)$.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FEATURE_POWER, _FEATURE_FLOOR = 0.75, 0.03
_THRESHOLD_POWER, _THRESHOLD_UNIFORM = 0.5, 0.2
_MEMORY = 0.7  # how much of an estimate stays when a later round says something new
_FEATURES_OF_NARROW_TREES = 4


@dataclass(frozen=True, eq=False)
class Guidance:
    """Gains known so far: `feature` [F] and `threshold` [F, W], all >= 0. `edges` [F] counts each feature's thresholds;
    threshold t < edges[f] of feature f is its edge t."""

    feature: Floats
    threshold: Floats
    edges: Ints

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """[F, W]: which thresholds exist."""
        return np.arange(self.threshold.shape[1]) < self.edges[:, None]

    def feature_probabilities(self) -> Floats:
        """[F], sum 1."""
        weights = self.feature**_FEATURE_POWER
        uniform = np.full(len(weights), 1 / len(weights))
        return (1 - _FEATURE_FLOOR) * _normalised(weights, uniform) + _FEATURE_FLOOR * uniform

    def threshold_weights(self) -> Floats:
        """[F, W], rows of sum 1, 0 where no threshold is."""
        uniform = self.usable / self.edges[:, None]
        weights = np.where(self.usable, self.threshold, 0.0) ** _THRESHOLD_POWER
        return (1 - _THRESHOLD_UNIFORM) * _normalised(weights, uniform) + _THRESHOLD_UNIFORM * uniform


@dataclass(frozen=True, eq=False)
class Splits:
    """T complete trees of one depth as heaps of M = 2**depth - 1 splits (children of i: 2 i + 1 and 2 i + 2): `feature`,
    `threshold` (its place among the feature's edges) and `missing_left`, each [T, M]."""

    feature: Ints
    threshold: Ints
    missing_left: npt.NDArray[np.bool_]

    @property
    def depth(self) -> int:
        return int(self.feature.shape[1] + 1).bit_length() - 1


def from_bins(sums: Floats, noise_gradient: float, lam: float, edges: Ints) -> Guidance:
    r"""Gains of every threshold from one tree of full bins a feature, less what noise alone would show.

    `sums` [F, bins, 2] holds G and H by bin (bin 0 is missing). For a cut after b of m bins with sums g, h:
    $g^2/(h+\lambda) + (G-g)^2/(H-h+\lambda) - G^2/(H+\lambda) - s^2 (b/(h+\lambda) + (m-b)/(H-h+\lambda))$, at least 0,
    where s is `noise_gradient`, the standard deviation of G's noise in one bin.
    """
    width = int(edges.max())
    present = np.arange(1, width + 2) <= edges[:, None] + 1  # a feature with k edges has bins 1..k + 1
    gradient = np.where(present, sums[:, 1 : width + 2, 0], 0.0)
    hessian = np.where(present, np.maximum(sums[:, 1 : width + 2, 1], 0.0), 0.0)
    left_g, left_h = np.cumsum(gradient, axis=1)[:, :-1], np.cumsum(hessian, axis=1)[:, :-1]
    all_g, all_h = gradient.sum(axis=1, keepdims=True), hessian.sum(axis=1, keepdims=True)
    right_g, right_h = all_g - left_g, all_h - left_h
    cut = np.arange(1, width + 1)
    noise = noise_gradient**2 * (cut / (left_h + lam) + np.maximum(edges[:, None] + 1 - cut, 0) / (right_h + lam))
    gain = left_g**2 / (left_h + lam) + right_g**2 / (right_h + lam) - all_g**2 / (all_h + lam) - noise
    gain = np.where(np.arange(width) < edges[:, None], np.maximum(gain, 0.0), 0.0)
    return Guidance(gain.max(axis=1), gain, edges)


def learn_from_trees(
    guidance: Guidance, splits: Splits, sums: list[Floats], noise_gradient: float, lam: float
) -> Guidance:
    """What a round of random trees adds: their nodes' debiased gains, blended into the estimates.

    `sums[l]` [T, 2**l, 2] holds G and H of the nodes at level l (all levels down to the leaves, whose noise in G is
    `noise_gradient`); only the first four levels are precise enough to learn from.
    """
    depth = splits.depth
    total, seen = np.zeros(len(guidance.feature)), np.zeros(len(guidance.feature))
    threshold = guidance.threshold.copy()
    for level in range(min(depth, 4)):
        variance = noise_gradient**2 * 2 ** (depth - level - 1)
        children, parents = sums[level + 1], sums[level]
        below = (children[..., 0] ** 2 - variance) / (np.maximum(children[..., 1], 0.0) + lam)
        here = (parents[..., 0] ** 2 - 2 * variance) / (np.maximum(parents[..., 1], 0.0) + lam)
        gain = (below.reshape(*here.shape, 2).sum(axis=2) - here).ravel()
        nodes = slice(2**level - 1, 2 ** (level + 1) - 1)
        feature, cut = splits.feature[:, nodes].ravel(), splits.threshold[:, nodes].ravel()
        np.add.at(total, feature, gain)
        np.add.at(seen, feature, 1)
        for f, t, g in zip(feature, cut, gain, strict=True):
            threshold[f, t] = _MEMORY * threshold[f, t] + (1 - _MEMORY) * 4 * max(g, 0.0)
    mean = np.maximum(total / np.maximum(seen, 1), 0.0)
    scale = guidance.feature.sum() / mean.sum() if mean.sum() > 0 else 0.0
    blended = _MEMORY * guidance.feature + (1 - _MEMORY) * scale * mean
    return replace(guidance, feature=np.where(seen > 0, blended, guidance.feature), threshold=threshold)


def draw_trees(guidance: Guidance, trees: int, depth: int, key: bytes) -> Splits:
    """`trees` complete random trees; the same `key` (at least 16 bytes, public) gives the same trees everywhere.

    Every other tree uses at most four features, so that some trees go deep into few. A node's thresholds stay within
    its ancestors' cuts while any is left.
    """
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    count = len(guidance.feature)
    probability = np.broadcast_to(guidance.feature_probabilities(), (trees, count)).copy()
    race = (
        -np.log1p(-rng.random((trees, count))) / probability
    )  # the smallest k are a weighted draw without replacement
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


def _normalised(weights: Floats, otherwise: Floats) -> Floats:
    """Rows scaled to sum 1; rows of sum 0 become those of `otherwise`."""
    total = weights.sum(axis=-1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1.0), otherwise)
