r"""Step 5: the values that noised sums support, from the root of each tree down to its leaves.

With G and H the sums of gradients and hessians in a node, v its parent's value, s the standard deviation of the noise in
G, s / C that in H and lambda the prior: $r = G + H v$, its variance $\sigma^2 = s^2 (1 + v^2 / C^2)$, and
$v \leftarrow v - \max(0, 1 - \sigma^2/r^2)\, r / (\max(H, 0) + \lambda)$, clipped to +-2. A level's correction to its
parents is added with that level's step (`STEPS`) over T: trees share what shows near their roots and differ below,
so deep corrections overlap less and may go further, but never beyond 2. A tree's corrections are orthogonal projections (in
the hessian's inner product), so the mean over trees of level steps $a_l$ shrinks or turns what is left by at most
$\max_l |1 - a_l| \le 1$: however much trees agree, a round never makes the quadratic model of the loss worse.
Where a feature is monotone, `monotone.py` bounds every level's values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mintmark.models.bins import Bins
from mintmark.models.monotone import Bounds, isotonic

Floats = npt.NDArray[np.float64]

LEAF_BOUND = 2.0  # log-odds
HESSIAN = 0.7
"""C: hessians are summed in this unit. Up to sqrt(8) a row's norm stays within 1; a customer's grows, and is clipped."""
STEPS = (1.0, 1.0, 1.5, 2.0)
"""By level, root first; deeper levels take the last. At most 2: what is above can diverge where trees agree."""


def round_values(levels: Sequence[Floats], noise: float, lam: float, direction: npt.NDArray[np.integer]) -> Floats:
    """What a round's T trees add to the model: [T, leaves], each tree's share of it.

    All trees have the same root, so its noise is averaged over them and its correction, a Newton step, added once.
    """
    root = levels[0].mean(axis=0, keepdims=True)  # [1, 1, 2]
    shift = node_values(root, np.zeros((1, 1)), noise**2 * levels[-1].shape[1] / len(levels[0]), lam)
    left = [np.stack([sums[..., 0] + np.maximum(sums[..., 1], 0.0) * shift, sums[..., 1]], axis=2) for sums in levels]
    return (shift + leaf_values(left, noise, lam, direction)) / len(levels[0])


def shows_gain(sums: Floats, noise: float, lam: float) -> bool:
    r"""Whether a round's sums [T, leaves, 2] show any gain beyond what noise makes: if not, its trees would add noise.

    Over all leaves $\sum (G^2 - s^2) / (H + \lambda)$ is 0 in the mean under noise of standard deviation s alone. Asking
    for more, a standard deviation above 0, was tried and dropped rounds that were worth something.

    >>> shows_gain(np.array([[[3.0, 1.0], [-3.0, 1.0]]]), noise=1.0, lam=1.0)
    True
    >>> shows_gain(np.array([[[0.5, 1.0], [-1.0, 1.0]]]), noise=1.0, lam=1.0)
    False
    """
    weight = 1 / (np.maximum(sums[..., 1], 0.0) + lam)
    return float(((sums[..., 0] ** 2 - noise**2) * weight).sum()) > 0


def leaf_values(
    levels: Sequence[Floats], noise: float, lam: float, direction: npt.NDArray[np.integer] | None = None
) -> Floats:
    """Values of the leaves of T complete trees, each level's correction times its step: [T, leaves].

    `levels[l]` [T, N_l, 2] holds G and H of level l's nodes, `noise` is the standard deviation of a leaf's G.
    `direction` [T, M] says of every split, in heap order, that the right child's values may not be below (1) or above
    (-1) the left's; 0 or None leaves them free.

    >>> leaf_values([np.array([[[-30.0, 10.0]]])], noise=0.0, lam=5.0).tolist()
    [[2.0]]
    """
    value: Floats = np.zeros(levels[0].shape[:2])
    stepped: Floats = value
    bounds = None if direction is None else Bounds.none(len(value))
    leaves = levels[-1].shape[1]
    for level, sums in enumerate(levels):
        nodes, above = int(sums.shape[1]), stepped
        parent, stepped = (np.repeat(own, nodes // own.shape[1], axis=1) for own in (value, stepped))
        value = node_values(sums, parent, noise**2 * (leaves // nodes), lam)
        stepped = stepped + STEPS[min(level, len(STEPS) - 1)] * (value - parent)
        if bounds is not None and direction is not None and level:
            split = direction[:, nodes // 2 - 1 : nodes - 1]
            stepped, bounds = bounds.below(stepped, above, split)
    return stepped


def node_values(sums: Floats, parent: Floats, variance: float, lam: float) -> Floats:
    """One level's values [T, N] from its sums [T, N, 2], the parents' values [T, N] and the noise's variance in G.

    >>> node_values(np.array([[[-6.0, 7.0]]]), np.array([[0.0]]), 0.0, 5.0).tolist()
    [[0.5]]
    """
    gradient, hessian = sums[..., 0], np.maximum(sums[..., 1], 0.0)
    residual = gradient + hessian * parent
    variance_of_residual = variance * (1 + (parent / HESSIAN) ** 2)
    keep = np.maximum(0.0, 1 - variance_of_residual / np.maximum(residual**2, 1e-300))
    return np.clip(parent - keep * residual / (hessian + lam), -LEAF_BOUND, LEAF_BOUND)


def bin_values(
    sums: Floats, noise: float, lam: float, bins: Sequence[Bins], direction: npt.NDArray[np.integer]
) -> Floats:
    """Values of the full-bin trees' leaves, [F, W], from their sums [F, W, 2]; monotone where `direction` [F] says so."""
    values = leaf_values([sums], noise, lam)
    for column in np.flatnonzero(direction).tolist():
        own = slice(1, bins[column].splits + 2)
        weight = np.maximum(sums[column, own, 1], 0.0) + lam
        values[column, own] = direction[column] * isotonic(direction[column] * values[column, own], weight)
    return values


def sums_by_level(sums: Floats) -> list[Floats]:
    """Sums of every level of complete trees, root first, from the leaves' [T, 2**depth, 2]."""
    levels = [sums]
    while levels[0].shape[1] > 1:
        trees, nodes, width = levels[0].shape
        levels.insert(0, levels[0].reshape(trees, nodes // 2, 2, width).sum(axis=2))
    return levels
