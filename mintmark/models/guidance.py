r"""Step 3: which splits are worth sampling, from gains that released sums show.

Random trees whose structure does not depend on data cost no privacy; sampling their splits in proportion to gains that
earlier rounds' noised sums already showed costs none either. From those gains, p(feature) is proportional to
the gain with a uniform floor of 10 %, and p(threshold | feature) to gain^.5 mixed with 20 % uniform.
Source: measured in the project's learning notes (docs/learning.md); the gain is LightGBM's, $G^2 / (H + \lambda)$.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FEATURE_FLOOR = 0.1
_THRESHOLD_POWER, _THRESHOLD_UNIFORM = 0.5, 0.2
_MEMORY = 0.7  # how much of an estimate stays when a later round says something new


@dataclass(frozen=True, eq=False)
class Guidance:
    """Gains known so far: `feature` [F] and `threshold` [F, W], all >= 0. `edges` [F] counts each feature's thresholds;
    threshold t < edges[f] of feature f is split t of its bins."""

    feature: Floats
    threshold: Floats
    edges: Ints

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """[F, W]: which thresholds exist."""
        return np.arange(self.threshold.shape[1]) < self.edges[:, None]

    def feature_probabilities(self) -> Floats:
        """[F], sum 1."""
        weights = self.feature
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
    `threshold` (the number of the split among its feature's) and `missing_left`, each [T, M]."""

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


def _normalised(weights: Floats, otherwise: Floats) -> Floats:
    """Rows scaled to sum 1; rows of sum 0 become those of `otherwise`."""
    total = weights.sum(axis=-1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1.0), otherwise)
