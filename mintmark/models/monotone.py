"""Values that never fall, or never rise, along a feature.

At a split on a monotone feature that would order its children the wrong way, both keep their
parent's value; the value midway between the children then bounds everything below either of them. Two rows that differ
in that feature alone part at such a split, on either side of its bound, so the tree is monotone, and so is a sum of
trees. Source: LightGBM's `basic` method, there a choice of splits, here of values (the structure is given).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def in_order(
    pair: Floats, parent: Floats, low: Floats, high: Floats, direction: npt.NDArray[np.integer]
) -> tuple[Floats, Floats, Floats]:
    """One split of each of T trees: the children's values [T, 2] within their parent's bounds and in order, and the bounds
    `low` and `high` [T, 2] of all below them.

    `parent`, `low` and `high` [T] are the parents' values and bounds, `direction` [T] their splits': 1, -1 or 0.

    >>> found = in_order(np.array([[3.0, 1.0]]), np.array([2.0]), np.array([-9.0]), np.array([9.0]), np.array([1]))
    >>> [part.tolist() for part in found]
    [[[2.0, 2.0]], [[-9.0, 2.0]], [[2.0, 9.0]]]
    """
    pair = np.clip(pair, low[:, None], high[:, None])
    wrong = direction * (pair[:, 1] - pair[:, 0]) < 0
    pair = np.where(wrong[:, None], parent[:, None], pair)
    middle = pair.mean(axis=1, keepdims=True)
    rising = np.stack([direction < 0, direction > 0], axis=1)  # which child lies above the middle
    low = np.where(rising, np.maximum(low[:, None], middle), low[:, None])
    high = np.where(rising[:, ::-1], np.minimum(high[:, None], middle), high[:, None])
    return pair, low, high


def isotonic(values: Floats, weight: Floats) -> Floats:
    """The nearest values, in weighted squares, that never fall: [m] -> [m]. Pool adjacent violators (Ayer et al. 1955).

    >>> isotonic(np.array([1.0, 3.0, 2.0, 4.0]), np.ones(4)).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    pools: list[tuple[float, float, int]] = []  # value, weight, length
    for number, own in zip(values.tolist(), weight.tolist(), strict=True):
        pool = (number, own, 1)
        while pools and pools[-1][0] > pool[0]:
            before = pools.pop()
            mass = before[1] + pool[1]
            pool = ((before[0] * before[1] + pool[0] * pool[1]) / mass, mass, before[2] + pool[2])
        pools.append(pool)
    return np.repeat([pool[0] for pool in pools], [pool[2] for pool in pools])
