"""One round as an all-seeing liar sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scene:
    """`updates` [n, d] is what every bank, `liars` [f] too, would send if it were honest, divided by its size.

    `noise` [n] is the standard deviation of each bank's own noise in it, `rule` applies the round's rule, with its roster
    and weights, to updates of this form: [n, d] -> [d].
    """

    updates: Floats
    liars: npt.NDArray[np.intp]
    noise: Floats
    rule: Callable[[Floats], Floats]
    rng: np.random.Generator

    @property
    def own(self) -> Floats:
        """What the liars would send: [f, d]."""
        return np.asarray(self.updates[self.liars])

    @property
    def honest(self) -> Floats:
        """What the others send: [n - f, d]. Where there are no others to be seen, the liars take their own for theirs."""
        others = np.delete(self.updates, self.liars, axis=0)
        return others if len(others) else self.own

    @property
    def mean(self) -> Floats:
        """Of the honest: [d]."""
        return np.asarray(self.honest.mean(axis=0))

    @property
    def spread(self) -> Floats:
        """Standard deviation of the honest in each coordinate [d]; of a single one, its noise."""
        honest = self.honest
        return honest.std(axis=0) if len(honest) > 1 else np.full(honest.shape[1], self.noise.max())

    def everybody(self, row: Floats) -> Floats:
        """All liars say the same: [d] -> [f, d]."""
        return np.tile(row, (len(self.liars), 1))

    def outcome(self, lies: Floats) -> Floats:
        """What the rule makes of the honest and `lies` [f, d]: [d]."""
        arriving = self.updates.copy()
        arriving[self.liars] = lies
        return self.rule(arriving)


Attack = Callable[[Scene], Floats]
