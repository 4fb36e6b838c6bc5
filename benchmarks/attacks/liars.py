"""Banks that lie all through a campaign in memory: an `Attack` of `mintmark.simulation` made of one in `ATTACKS`.

liars = Liars(campaign, "alie", schema, sizes, np.array([1, 2]), seed=7)
for settled in simulate_rounds(campaign, training, attack=liars):
    liars.state = settled.state
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.attacks.scene import Floats, Scene
from mintmark.aggregation.cohort import combine
from mintmark.campaign import learner_of, noise_for
from mintmark.plan import Campaign
from mintmark.privacy.mechanism import LATTICE
from mintmark.round import norm_bound
from mintmark.schema import FeatureSchema


class Liars:
    """Sends, for the `liars` [f] of one campaign, what `attack` says, cut to the norm that screening lets pass; `sizes` [n]
    are the roster's, `state` is the learner's before the round."""

    def __init__(
        self,
        campaign: Campaign,
        attack: Callable[[Scene], Floats],
        schema: FeatureSchema,
        sizes: Floats,
        liars: npt.NDArray[np.intp],
        seed: int,
    ) -> None:
        self.campaign, self.attack, self.sizes, self.liars = campaign, attack, sizes, liars
        self.state: Any = learner_of(campaign).start(campaign, schema)
        self.rng = np.random.default_rng(seed)

    def __call__(self, number: int, updates: Floats) -> Floats:
        query = learner_of(self.campaign).query(self.state)
        scale, _ = noise_for(self.campaign, number, query)
        terms, sizes = self.campaign.aggregation, self.sizes[:, None]

        def rule(rates: Floats) -> Floats:
            return combine(terms.chain, terms.byzantine, sizes=self.sizes, updates=rates * sizes, noise=0.0).rate

        scene = Scene(updates / sizes, self.liars, scale / LATTICE / self.sizes, rule, self.rng)
        arriving = updates.copy()
        for bank, lie in zip(self.liars, self.attack(scene), strict=True):
            sums = np.nan_to_num(lie * self.sizes[bank])
            most = norm_bound(int(self.sizes[bank]), query.slots, updates.shape[1], scale) / LATTICE
            arriving[bank] = sums * (most / max(float(np.linalg.norm(sums)), most))
        return arriving
