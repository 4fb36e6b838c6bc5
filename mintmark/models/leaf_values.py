r"""Step 5: the values that noised sums support, from the root of each tree down to its leaves.

With G and H the sums of gradients and hessians in a node, v its parent's value and lambda the prior:
$v \leftarrow v - (G + H v) / (\max(H, 0) + \lambda)$, clipped to +-2. The prior grows with the noise, so a node leaves its
parent's value only as far as its hessian stands above the noise; what is left of the noise is averaged over the trees. A
level's correction to its parents is added with that level's step (`STEPS`) over T: trees share what shows at their roots
and differ below, so deep corrections overlap less and may go further, but never beyond 2. A tree's corrections are
orthogonal projections (in the hessian's inner product), so the mean over trees of level steps $a_l$ shrinks or turns what
is left by at most $\max_l |1 - a_l| \le 1$: however much trees agree, a round never makes the quadratic model of the loss
worse. Where a feature is monotone, `monotone.py` bounds every level's values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mintmark.models.bins import Bins
from mintmark.models.monotone import in_order, isotonic
from mintmark.models.splits import NodeSums, Splits

Floats = npt.NDArray[np.float64]

LEAF_BOUND = 2.0  # log-odds
HESSIAN = 0.7
"""C: hessians are summed in this unit. Up to sqrt(8) a row's norm stays within 1; a customer's grows, and is clipped."""
STEPS = (1.0, 2.0)
"""By level, root first; deeper levels take the last. At most 2: what is above can diverge where trees agree."""


def round_values(splits: Splits, nodes: NodeSums, lam: float, direction: npt.NDArray[np.integer]) -> Floats:
    """What a round's T trees add to the model: [T, leaves], each tree's share; `direction` [T, M] as for `leaf_values`.

    All trees have the same root, so its noise is averaged over them and its correction, a Newton step, added once.
    """
    root = np.stack([nodes.gradient[:, 0], nodes.hessian[:, 0]], axis=1).mean(axis=0)
    shift = float(node_values(root, np.zeros(()), lam))
    left = replace(nodes, gradient=nodes.gradient + np.maximum(nodes.hessian, 0.0) * shift)
    return (shift + leaf_values(splits, left, lam, direction)) / len(splits.feature)


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


def leaf_values(splits: Splits, nodes: NodeSums, lam: float, direction: npt.NDArray[np.integer]) -> Floats:
    """Values of the leaves of T trees, each depth's correction times its step: [T, M + 1].

    `lam` is the prior, a hessian. `direction` [T, M] says of every split that the right child's values may not be below
    (1) or above (-1) the left's; 0 leaves them free.

    >>> from mintmark.models.splits import node_sums
    >>> one = Splits(*(np.zeros((1, 1), np.int64) for _ in range(4)), children=np.array([[[1, 2]]]))
    >>> nodes = node_sums(one.children, np.array([[[-30.0, 10.0], [0.0, 10.0]]]))
    >>> leaf_values(one, nodes, lam=5.0, direction=np.zeros((1, 1))).round(12).tolist()
    [[2.8, -0.4]]
    """
    count, every = splits.feature.shape[1], np.arange(len(splits.feature))[:, None]
    sums = np.stack([nodes.gradient, nodes.hessian], axis=2)
    value = np.zeros(nodes.leaves.shape)
    value[:, 0] = node_values(sums[:, 0], value[:, 0], lam)
    stepped = STEPS[0] * value
    low, high = np.full_like(value, -np.inf), np.full_like(value, np.inf)
    step = np.array(STEPS)[np.minimum(splits.depth + 1, len(STEPS) - 1)]
    for split in range(count):
        below, parent = splits.children[:, split], value[:, split, None]
        value[every, below] = node_values(sums[every, below], parent, lam)
        pair = stepped[:, split, None] + step[:, split, None] * (value[every, below] - parent)
        ordered = in_order(pair, stepped[:, split], low[:, split], high[:, split], direction[:, split])
        stepped[every, below], low[every, below], high[every, below] = ordered
    return stepped[:, count:]


def node_values(sums: Floats, parent: Floats, lam: float) -> Floats:
    """Nodes' values [...] from their sums [..., 2] and their parents' values.

    >>> node_values(np.array([[-6.0, 7.0]]), np.array([0.0]), 5.0).tolist()
    [0.5]
    """
    gradient, hessian = sums[..., 0], np.maximum(sums[..., 1], 0.0)
    return np.clip(parent - (gradient + hessian * parent) / (hessian + lam), -LEAF_BOUND, LEAF_BOUND)


def bin_values(sums: Floats, lam: float, bins: Sequence[Bins], direction: npt.NDArray[np.integer]) -> Floats:
    """Values of the full-bin trees' leaves, [F, W], from their sums [F, W, 2]; monotone where `direction` [F] says so."""
    values = node_values(sums, np.zeros(sums.shape[:2]), lam)
    for column in np.flatnonzero(direction).tolist():
        own = slice(1, bins[column].splits + 2)
        weight = np.maximum(sums[column, own, 1], 0.0) + lam
        values[column, own] = direction[column] * isotonic(direction[column] * values[column, own], weight)
    return values
