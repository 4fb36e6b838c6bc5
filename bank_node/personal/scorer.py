"""Raw scores and reasons of a deployed model, for rows [n, F] in the agreed form.

scorer = Scorer(deployed)
scorer.raw(features)             # [n] log-odds
scorer.contributions(features)   # [n, F + 1] log-odds, the last column the base; rows sum to raw(features)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bank_node.personal.deployed import Deployed
from bank_node.personal.stacking import CLIP
from mintmark.models.lightgbm_text import load

Floats = npt.NDArray[np.float64]


class Scorer:
    """The boosters of a deployed model. Parts of weight 0 are not asked for scores, but can be explained."""

    def __init__(self, deployed: Deployed) -> None:
        self.stack = deployed.stack
        self._own = [load(text) for text in deployed.own]
        self._shared = [load(deployed.shared)]
        self._corrections = [load(text) for text in deployed.corrected]

    def own(self, features: Floats) -> Floats:
        """Raw scores [n] of the bank's own model."""
        return mean_score(self._own, features)

    def shared(self, features: Floats) -> Floats:
        """Raw scores [n] of the global model."""
        return mean_score(self._shared, features)

    def raw(self, features: Floats) -> Floats:
        """Raw scores [n] of the deployed model, in log-odds."""
        return self.stack.scores(self._parts(features))

    def shared_contributions(self, features: Floats) -> Floats:
        """What each feature adds to the global model's raw score: [n, F + 1], the last column the base."""
        return mean_score(self._shared, features, pred_contrib=True)

    def contributions(self, features: Floats) -> Floats:
        """What each feature adds to the raw score: [n, F + 1], the last column the base; rows sum to the raw score.

        SHAP values of the parts (Lundberg and others, 2020), summed with the stack's weights; where a part's score is
        clipped its values shrink with it.
        """
        explained = self._parts(features, pred_contrib=True)
        total = np.zeros((len(features), features.shape[1] + 1))
        for weight, part, score in zip(self.stack.weights, explained, self._parts(features), strict=True):
            kept = np.clip(score, -CLIP, CLIP) / np.where(score == 0, 1.0, score)
            total += weight * np.where(score == 0, 1.0, kept)[:, None] * part
        total[:, -1] += self.stack.intercept
        return total

    def _parts(self, features: Floats, *, pred_contrib: bool = False) -> list[Floats]:
        """The three parts' scores [n], or contributions [n, F + 1]; zeros where the weight is 0."""
        own, shared, corrected = self.stack.weights
        nothing = np.zeros((len(features), features.shape[1] + 1) if pred_contrib else len(features))
        shared_part = mean_score(self._shared, features, pred_contrib=pred_contrib) if shared or corrected else nothing
        return [
            mean_score(self._own, features, pred_contrib=pred_contrib) if own else nothing,
            shared_part,
            shared_part + mean_score(self._corrections, features, pred_contrib=pred_contrib) if corrected else nothing,
        ]


def mean_score(boosters: Sequence[Any], features: Floats, *, pred_contrib: bool = False) -> Floats:
    """The boosters' mean raw score [n], or contributions [n, F + 1]."""
    how = {"pred_contrib": True} if pred_contrib else {"raw_score": True}
    values: Floats = np.mean([np.asarray(booster.predict(features, **how)) for booster in boosters], axis=0)
    return values
