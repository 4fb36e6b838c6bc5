"""What a payment is answered: the score, the model that gave it, and the reasons in words.

A reason is a feature and what it adds to the log-odds: exact SHAP values (`mintmark/models/shapley.py`), the largest first,
raising or lowering. With all features and the base they sum to the log-odds.
"""

from __future__ import annotations

import math
from typing import Any

from bank_node.serving.models import ServedModel
from bank_node.serving.transaction import Payment
from mintmark.schema import FeatureSchema

REASONS = 3
MAX_REASONS = 10
RAISES, LOWERS = "raises the score", "lowers the score"


def answer(served: ServedModel, schema: FeatureSchema, payment: Payment, reasons: int = REASONS) -> dict[str, Any]:
    """The answer as JSON values. `reasons` is how many are given at most; what adds nothing is none."""
    added = served.scorer.contributions(payment.features)[0]
    log_odds = float(added.sum())
    ranked = sorted(zip(added[:-1].tolist(), schema.names, strict=True), key=lambda pair: -abs(pair[0]))
    return {
        "score": 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0,
        "log_odds": log_odds,
        "model": describe(served),
        "reasons": [
            {"feature": name, "direction": RAISES if value > 0 else LOWERS, "log_odds": value}
            for value, name in ranked[:reasons]
            if value
        ],
        "outside": list(payment.outside),
    }


def describe(served: ServedModel) -> dict[str, Any]:
    """The model in a few words: alias, campaign, digest, and the champion's number where it is one."""
    found = {"alias": served.alias, "campaign": served.campaign, "digest": served.digest}
    return found if served.champion is None else found | {"champion": served.champion}
