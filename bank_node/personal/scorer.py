"""Raw scores and reasons of a model, for rows [n, F] in the agreed form.

Scores of many rows come from LightGBM. What each feature adds, and with it the score of a single payment, comes from the
compiled passes of `mintmark/models/shapley.py`, in a quarter of LightGBM's time. They agree to the last digits.

    scorer = Scorer(deployed)        # or SharedScorer(text): the global model alone
    scorer.raw(features)             # [n] log-odds
    scorer.contributions(features)   # [n, F + 1] log-odds, the last column the base; rows sum to raw(features)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bank_node.personal.deployed import Deployed
from bank_node.personal.stacking import CLIP, Stack
from mintmark.models.lightgbm_text import load
from mintmark.models.shapley import Forest, read_forest

Floats = npt.NDArray[np.float64]


class Scores(Protocol):
    """What a model must answer to be scored with."""

    def raw(self, features: Floats) -> Floats:
        """Raw scores [n], in log-odds."""
        ...

    def contributions(self, features: Floats) -> Floats:
        """What each feature adds to the raw score: [n, F + 1], the last column the base; rows sum to the raw score."""
        ...


class SharedScorer:
    """The global model alone, from its LightGBM text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def raw(self, features: Floats) -> Floats:
        return mean_score([self._booster], features)

    def contributions(self, features: Floats) -> Floats:
        return self._forest.contributions(features)

    @cached_property
    def _booster(self) -> Any:
        return load(self._text)

    @cached_property
    def _forest(self) -> Forest:
        return read_forest([self._text])


class Scorer:
    """The boosters of a deployed model. Parts of weight 0 are not asked for scores, but can be explained."""

    def __init__(self, deployed: Deployed) -> None:
        self.calibration, self.stack = deployed.calibration, deployed.stack
        self._texts = deployed.own, (deployed.shared,), deployed.corrected

    def own(self, features: Floats) -> Floats:
        """Raw scores [n] of the bank's own model."""
        return mean_score(self._boosters[0], features)

    def shared(self, features: Floats) -> Floats:
        """Raw scores [n] of the global model."""
        return mean_score(self._boosters[1], features)

    def raw(self, features: Floats) -> Floats:
        """Raw scores [n] of the deployed model, in log-odds."""
        own, shared, corrected = self.stack.weights
        nothing = np.zeros(len(features))
        shared_part = self.calibration.scores([self.shared(features)]) if shared or corrected else nothing
        return self.stack.scores(
            [
                self.own(features) if own else nothing,
                shared_part,
                shared_part + mean_score(self._boosters[2], features) if corrected else nothing,
            ]
        )

    def shared_contributions(self, features: Floats) -> Floats:
        """What each feature adds to the global model's raw score: [n, F + 1], the last column the base."""
        return self._forests[1].contributions(features)

    def contributions(self, features: Floats) -> Floats:
        """What each feature adds to the raw score: [n, F + 1], the last column the base; rows sum to the raw score.

        SHAP values of the parts, summed with the stack's weights; where a part's score is clipped, its values shrink.
        """
        own, shared, correction = self._forests
        weights, nothing = self.stack.weights, np.zeros((len(features), features.shape[1] + 1))
        any_shared = weights[1] or weights[2]
        shared_part = _combined(self.calibration, [shared.contributions(features)]) if any_shared else nothing
        return _combined(
            self.stack,
            [
                own.contributions(features) if weights[0] else nothing,
                shared_part,
                shared_part + correction.contributions(features) if weights[2] else nothing,
            ],
        )

    @cached_property
    def _boosters(self) -> list[list[Any]]:
        return [[load(text) for text in texts] for texts in self._texts]

    @cached_property
    def _forests(self) -> tuple[Forest, Forest, Forest]:
        own, shared, correction = map(read_forest, self._texts)
        return own, shared, correction


def _combined(stack: Stack, parts: Sequence[Floats]) -> Floats:
    """The stack's contributions [n, F + 1] from those of its parts, whose rows sum to their scores."""
    total = np.zeros_like(parts[0])
    for weight, part in zip(stack.weights, parts, strict=True):
        score = part.sum(axis=1)
        kept = np.clip(score, -CLIP, CLIP) / np.where(score == 0, 1.0, score)
        total += weight * np.where(score == 0, 1.0, kept)[:, None] * part
    total[:, -1] += stack.intercept
    return total


def mean_score(boosters: Sequence[Any], features: Floats) -> Floats:
    """The boosters' mean raw score [n]."""
    values: Floats = np.mean([np.asarray(booster.predict(features, raw_score=True)) for booster in boosters], axis=0)
    return values
