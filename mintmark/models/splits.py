"""T trees of one size as arrays, so that one step is taken in all of them at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Splits:
    """T trees of M splits and M + 1 leaves. Their nodes are numbered 0 to 2 M: the splits, the root first and each before
    those below it, then the leaves.

    `feature`, `threshold` (the number of the split among its feature's), `missing_left` and `depth` (0 at the root) are
    [T, M]; `children` [T, M, 2] are the nodes to the left and to the right.
    """

    feature: Ints
    threshold: Ints
    missing_left: npt.NDArray[np.bool_]
    depth: Ints
    children: Ints


@dataclass(frozen=True, eq=False)
class NodeSums:
    """A round's sums of every node, `gradient` and `hessian`, and how many `leaves` are in each: all [T, 2 M + 1]."""

    gradient: Floats
    hessian: Floats
    leaves: Floats


def node_sums(children: Ints, sums: Floats) -> NodeSums:
    """The sums of all nodes from those of the leaves, [T, M + 1, 2].

    >>> found = node_sums(np.array([[[1, 2], [3, 4]]]), np.array([[[1.0, 8.0], [2.0, 8.0], [4.0, 8.0]]]))
    >>> found.gradient.tolist(), found.leaves.tolist()
    ([[7.0, 6.0, 1.0, 2.0, 4.0]], [[3.0, 2.0, 1.0, 1.0, 1.0]])
    """
    trees, splits = children.shape[:2]
    leaves = np.concatenate([sums, np.ones((*sums.shape[:2], 1))], axis=2)
    nodes = np.concatenate([np.zeros((trees, splits, 3)), leaves], axis=1)
    every = np.arange(trees)[:, None]
    for split in reversed(range(splits)):
        nodes[:, split] = nodes[every, children[:, split]].sum(axis=1)
    return NodeSums(nodes[..., 0], nodes[..., 1], nodes[..., 2])
