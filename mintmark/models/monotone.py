"""Values that never fall, or never rise, along a feature.

In a complete tree: at a split on a monotone feature that would order its children the wrong way, both keep their
parent's value; the value midway between the children then bounds everything below either of them. Two rows that differ
in that feature alone part at such a split, on either side of its bound, so the tree is monotone, and so is a sum of
trees. Source: LightGBM's `basic` method, there a choice of splits, here of values (the structure is given).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bounds:
    """Between which values the nodes of one level lie: `low` and `high`, [T, N]."""

    low: Floats
    high: Floats

    @classmethod
    def none(cls, trees: int) -> Bounds:
        """The bounds of the roots: there are none."""
        return cls(np.full((trees, 1), -np.inf), np.full((trees, 1), np.inf))

    def below(self, value: Floats, parent: Floats, direction: npt.NDArray[np.integer]) -> tuple[Floats, Bounds]:
        """The children's values [T, 2 N] within these bounds and in order, and the bounds that hold below them.

        `parent` [T, N] are the values that these bounds belong to, `direction` [T, N] of their splits: 1, -1 or 0.
        """
        low, high = self.low[..., None], self.high[..., None]  # [T, N, 1]
        pair = np.clip(value.reshape(*parent.shape, 2), low, high)
        wrong = direction * (pair[..., 1] - pair[..., 0]) < 0
        pair = np.where(wrong[..., None], parent[..., None], pair)
        middle = pair.mean(axis=2)
        rising = np.stack([direction < 0, direction > 0], axis=2)  # which child lies above the middle
        falling = rising[..., ::-1]
        low = np.where(rising, np.maximum(low, middle[..., None]), low)
        high = np.where(falling, np.minimum(high, middle[..., None]), high)
        shape = value.shape
        return pair.reshape(shape), Bounds(low.reshape(shape), high.reshape(shape))


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
