r"""Step 3: which splits are worth sampling, from gains that released sums show.

Random trees whose structure does not depend on data cost no privacy; sampling their splits in proportion to gains that
earlier rounds' noised sums already showed costs none either. From those gains, p(feature) is proportional to
the gain with a uniform floor of 10 %, and p(threshold | feature) to gain^.75 mixed with 20 % uniform.
Source: measured in the project's learning notes (docs/learning.md); the gain is LightGBM's, $G^2 / (H + \lambda)$.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mintmark.models.leaf_values import HESSIAN
from mintmark.models.splits import NodeSums, Splits

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FEATURE_FLOOR = 0.1
_THRESHOLD_POWER, _THRESHOLD_UNIFORM = 0.75, 0.2
_SHARE_UNIFORM = 0.1
_MEMORY = 0.7  # how much of an estimate stays when a later round says something new
_LOUDER = 4  # a tree splits what other splits above have left: its gains are less than those of the additive rounds


@dataclass(frozen=True, eq=False)
class Guidance:
    """Gains known so far: `feature` [F] and `threshold` [F, W], all >= 0. `edges` [F] counts each feature's thresholds;
    threshold t < edges[f] of feature f is split t of its bins. `positives` [F, W + 1] >= 0 says how many there are in
    each bin but the missing one, which is bin 0."""

    feature: Floats
    threshold: Floats
    edges: Ints
    positives: Floats

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

    def positive_shares(self) -> Floats:
        """[F, W + 1], rows of sum 1: the share of a feature's positives in each bin, 0 where no bin is."""
        uniform = (np.arange(self.positives.shape[1]) <= self.edges[:, None]) / (self.edges[:, None] + 1)
        return (1 - _SHARE_UNIFORM) * _normalised(self.positives, uniform) + _SHARE_UNIFORM * uniform


def from_bins(sums: Floats, noise_gradient: float, lam: float, edges: Ints, rate: float) -> Guidance:
    r"""Gains of every threshold from one tree of full bins a feature, less what noise alone would show; and the positives.

    `sums` [F, bins, 2] holds G and H by bin (bin 0 is missing), of a model that gives every row the probability `rate`.
    For a cut after b of m bins with sums g, h:
    $g^2/(h+\lambda) + (G-g)^2/(H-h+\lambda) - G^2/(H+\lambda) - s^2 (b/(h+\lambda) + (m-b)/(H-h+\lambda))$, at least 0,
    where s is `noise_gradient`, the standard deviation of G's noise in one bin. A bin has $Y = h / (1 - p) - g$ positives,
    of which $Y \max(0, 1 - \sigma^2/Y^2)$ count, $\sigma^2 = s^2 (1 + 1/(C (1 - p))^2)$ being the noise's variance in Y.
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
    positives = np.maximum(hessian / (1 - rate) - gradient, 0.0)
    variance = noise_gradient**2 * (1 + (1 / (HESSIAN * (1 - rate))) ** 2)
    positives *= np.maximum(0.0, 1 - variance / np.maximum(positives**2, 1e-300))
    return Guidance(gain.max(axis=1), gain, edges, positives)


def learn_from_trees(
    guidance: Guidance, splits: Splits, nodes: NodeSums, noise_gradient: float, lam: float
) -> Guidance:
    """What a round of random trees adds: their splits' debiased gains, blended into the estimates.

    `nodes` are the sums of a round in which a leaf's G has noise of standard deviation `noise_gradient`.
    """
    gain = (nodes.gradient**2 - noise_gradient**2 * nodes.leaves) / (np.maximum(nodes.hessian, 0.0) + lam)
    every = np.arange(len(gain))[:, None, None]
    gained = gain[every, splits.children].sum(axis=2) - gain[:, : splits.feature.shape[1]]
    feature, cut, gained = splits.feature.ravel(), splits.threshold.ravel(), gained.ravel()
    total, seen = (np.bincount(feature, own, len(guidance.feature)) for own in (gained, np.ones(len(feature))))
    threshold = guidance.threshold.copy()
    for f, t, g in zip(feature, cut, gained, strict=True):
        threshold[f, t] = _MEMORY * threshold[f, t] + (1 - _MEMORY) * _LOUDER * max(g, 0.0)
    mean = np.maximum(total / np.maximum(seen, 1), 0.0)
    scale = guidance.feature.sum() / mean.sum() if mean.sum() > 0 else 0.0
    blended = _MEMORY * guidance.feature + (1 - _MEMORY) * scale * mean
    return replace(guidance, feature=np.where(seen > 0, blended, guidance.feature), threshold=threshold)


def _normalised(weights: Floats, otherwise: Floats) -> Floats:
    """Rows scaled to sum 1; rows of sum 0 become those of `otherwise`."""
    total = weights.sum(axis=-1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1.0), otherwise)
