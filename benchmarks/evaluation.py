"""How long an evaluation takes: a bank's answer on a million held-out rows, and the coordinator's figures of it.

    python -m benchmarks.evaluation

Rows are made up; what is timed is counting scores in every slot (all rows, two customer groups, four weeks), clipping by
customer and summing exactly, and noise for all sums. Bringing the scores up to date is a round's (`boosting_speed.py`).
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from datetime import date
from typing import TypeVar

import numpy as np

from mintmark.campaign import noise_for
from mintmark.evaluation import Thresholds, figures
from mintmark.models.rows import RowState
from mintmark.models.score_histogram import ScoreQuery, count_scores, read_histograms
from mintmark.plan import AggregationTerms, Campaign, HeldOutWindow, PrivacyTerms, PrivacyUnit
from mintmark.privacy.mechanism import LATTICE, bounded_sum, release
from mintmark.schema import Feature, FeatureKind, FeatureSchema

T = TypeVar("T")
ROWS, CUSTOMERS = 1_000_000, 100_000
SCHEMA = FeatureSchema(
    name="evaluation-speed",
    features=(
        Feature("amount", FeatureKind.LOG, 0.01, 20_000),
        Feature("age", FeatureKind.INTEGER, 18, 100, fairness=True, fairness_edges=(30.0, 60.0)),
        Feature("gender", FeatureKind.CATEGORY, 0, 1, categories=("f", "m"), fairness=True),
    ),
    label="fraud",
    customer="customer",
    bank="bank",
    test="test",
    time="time",
    value="amount",
    value_limit=500.0,
)


def main() -> None:
    """Print the medians of five."""
    campaign = Campaign(
        name="speed",
        seed=1,
        learner="logistic_regression",
        schema_digest=SCHEMA.digest(),
        rounds=9,
        privacy=PrivacyTerms(epsilon=4.0, delta=1e-6, unit=PrivacyUnit.CUSTOMER, clip=0.25),
        aggregation=AggregationTerms(rule="weighted_mean", banks=1),
        cohort=("bank-a",),
        quorum=1,
        held_out=HeldOutWindow(trained_from=date(2026, 1, 5), first_day=date(2026, 3, 2), weeks=4),
    )
    rng = np.random.default_rng(1)
    codes = np.stack([rng.integers(1, 255, ROWS), rng.integers(0, 83, ROWS), rng.integers(0, 3, ROWS)]).astype(np.uint8)
    customers = np.sort(rng.integers(0, CUSTOMERS, ROWS))
    days = (date(2026, 3, 2) - date(1970, 1, 1)).days + rng.integers(0, 28, ROWS)
    probability = 1 / (1 + np.exp(-rng.normal(-6, 2, ROWS)))
    labels = (rng.random(ROWS) < probability).astype(np.uint8)
    rows = RowState(codes, labels, customers, np.zeros(ROWS), days=days.astype(np.int32))
    query = ScoreQuery(SCHEMA, campaign)
    scale, norm = noise_for(campaign, 9, query)

    counted = _median("cells and values", lambda: count_scores(query, probability, rows))
    total = _median("clipped, exact sums", lambda: bounded_sum(counted, clipping_norm=norm, customers=customers))
    noised = _median("noise", lambda: release(total, noise_scale=scale))
    own = read_histograms(query, noised.reshape(counted.shape) / LATTICE, scale / LATTICE)["all"]["all"]
    generator = np.random.Generator(np.random.Philox(key=1))
    _median("figures of one bank, at the coordinator", lambda: figures(own, Thresholds(), generator))
    print(
        f"{len(total.vector)} sums, {4 * len(total.vector)} bytes an update; {dataclasses.astuple(own)[0].sum():.0f} rows"
    )


def _median(what: str, step: Callable[[], T]) -> T:
    """Run a step once unmeasured and five times more; print the median of CPU seconds."""
    result, spent = step(), []
    for _ in range(5):
        start = time.process_time()
        step()
        spent.append(time.process_time() - start)
    print(f"{what:40} {statistics.median(spent):6.3f} s")
    return result


if __name__ == "__main__":
    main()
