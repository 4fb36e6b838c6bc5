"""What a bank does with its own rows: its own tuned model, and the one it deploys."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.learning import tuning
from mintmark.models import lightgbm_text
from mintmark.table import Table

Floats = npt.NDArray[np.float64]
TRIALS = 4


@dataclass(frozen=True, eq=False)
class OwnModel:
    """The bank's own LightGBM and what was chosen for it."""

    booster: Any
    chosen: dict[str, Any]

    def scores(self, features: Floats) -> Floats:
        return np.asarray(self.booster.predict(features, raw_score=True))

    def dump(self) -> str:
        return json.dumps({"chosen": self.chosen, "text": self.booster.model_to_string()})

    @classmethod
    def load(cls, text: str) -> OwnModel:
        saved = json.loads(text)
        return cls(lightgbm_text.load(saved["text"]), saved["chosen"])


def train_own(rows: Table, seed: int) -> OwnModel:
    chosen = tuning.search(rows, trials=TRIALS, seed=seed)
    return OwnModel(tuning.fit(rows, chosen, seed), chosen)


def deploy(rows: Table, own: OwnModel, federated: str, seed: int) -> OwnModel:
    return own
