"""What a bank is told of its deployed model: own, global and deployed AUPRC on its own test rows, and what matters in each.

The test rows decided nothing: the weights, and whether the own model is kept, come from training rows. The report is for
the bank alone (`deployed/report.json` and pictures beside it); figures of so few rows are not private.

    report = compare(personal, scorer, home_table.test_part(), seed=0)
    report.deployed.point     # AUPRC gained over the own model;  report.deployed.low, .high: 95 % interval
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bank_node.personal.gain import Gain, paired_gain
from bank_node.personal.personalise import Personal
from bank_node.personal.scorer import Scorer
from mintmark.table import Table

MAX_EXPLAINED = 20_000  # rows; a mean over more does not change in its second digit

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Report:
    """Gains over the own model: of the global and of the deployed model on the test rows, and, `decided_by`, of the stack
    on the training rows, each scored without its customer. `scores` are the raw scores behind the first two, by model."""

    shared: Gain
    deployed: Gain
    decided_by: Gain
    weights: dict[str, float]
    keeps_own: bool
    scores: dict[str, Floats]

    def as_json(self) -> dict[str, Any]:
        """Figures only, no row's score."""
        return {
            "auprc": {"own": self.deployed.baseline, "global": self.shared.model, "deployed": self.deployed.model},
            "gain": {"global": _interval(self.shared), "deployed": _interval(self.deployed)},
            "decided_by": asdict(self.decided_by),
            "weights": self.weights,
            "keeps_own": self.keeps_own,
        }


def compare(personal: Personal, scorer: Scorer, test: Table, *, seed: int) -> Report:
    """The report on test rows. Raises `ValueError` when none of them is fraud."""
    scores = {"own": scorer.own(test.features), "global": scorer.shared(test.features)}
    scores["deployed"] = scores["own"] if personal.deployed.terms.keeps_own else scorer.raw(test.features)
    shared, deployed = (
        paired_gain(test.labels, test.customers, scores["own"], scores[name], seed=seed)
        for name in ("global", "deployed")
    )
    terms = personal.deployed.terms
    weights = dict(zip(("own", "global", "corrected"), terms.weights, strict=True))
    return Report(shared, deployed, personal.gain, weights, terms.keeps_own, scores)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Contributions [n, F] in log-odds of the global and the deployed model to the scores of n rows, and the rows."""

    names: tuple[str, ...]
    features: Floats
    shared: Floats
    deployed: Floats

    def importance(self) -> dict[str, dict[str, float]]:
        """Mean absolute contribution of each feature in log-odds, by model; the deployed model's largest first."""
        order = np.argsort(-np.abs(self.deployed).mean(axis=0), kind="stable")
        return {
            self.names[at]: {
                "global": float(np.abs(self.shared[:, at]).mean()),
                "deployed": float(np.abs(self.deployed[:, at]).mean()),
            }
            for at in order
        }


def explain(scorer: Scorer, rows: Table, *, seed: int) -> Explanation:
    """Contributions to the scores of the rows, or of 20,000 drawn from them."""
    drawn = np.arange(len(rows))
    if len(rows) > MAX_EXPLAINED:
        drawn = np.sort(np.random.default_rng([seed, 3]).choice(len(rows), MAX_EXPLAINED, replace=False))
    features = rows.features[drawn]
    shared, deployed = scorer.shared_contributions(features), scorer.contributions(features)
    return Explanation(rows.schema.names, features, shared[:, :-1], deployed[:, :-1])


def _interval(gain: Gain) -> dict[str, float]:
    return {"point": gain.point, "low": gain.low, "high": gain.high}
