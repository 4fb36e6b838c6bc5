"""What privacy costs in time: noise for a large vector, verifying a long ledger, pricing a release against all budgets.

Medians of several runs. Results: a table, and var/benchmarks/privacy_speed.json.

    python -m benchmarks.privacy_speed
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from bank_node.budget import check_budget
from bank_node.policy import Budget
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit, RoundPlan
from mintmark.privacy.accountant import GaussianRelease
from mintmark.privacy.ledger import GENESIS, Entry, EntryKind, Ledger
from mintmark.privacy.mechanism import LATTICE, BoundedSum, release

ENTRIES, COORDINATES, CHARGES_A_YEAR = 10_000, 25_000, 300
NOW = datetime(2026, 11, 24, tzinfo=UTC)
RUNS = 7


def median_seconds(run: Callable[[], object]) -> float:
    """The median of several runs, after one that warms caches."""
    run()
    taken = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def write_ledger(folder: Path, entries: int, *, noise_scale: float) -> tuple[Path, Path]:
    """A sound ledger of so many charges, ten to a campaign, without waiting for the disk after each."""
    lines, previous = [], GENESIS
    for number in range(entries):
        entry = Entry(
            previous=previous,
            kind=EntryKind.CHARGE,
            at=NOW - timedelta(hours=entries - number),
            campaign=f"cards-{number // 10}",
            round=number % 10,
            attempt=0,
            roster_version=1,
            plan_digest=f"{number:064x}",
            release_digest=f"{number:064x}",
            unit=PrivacyUnit.CUSTOMER,
            campaign_epsilon=0.2,
            campaign_delta=1e-6,
            sensitivity=LATTICE,
            noise_scale=noise_scale,
            coordinates=1280,
        )
        previous = entry.digest()
        lines.append(entry.canonical_bytes() + b"\n")
    ledger, anchor = folder / "ledger.jsonl", folder / "ledger.anchor"
    ledger.write_bytes(b"".join(lines))
    anchor.write_text(f"{entries} {previous}\n")
    return ledger, anchor


def a_plan() -> RoundPlan:
    campaign = Campaign(
        name="cards-next",
        seed=1,
        learner="guided_boosting",
        schema_digest="0" * 64,
        rounds=8,
        privacy=PrivacyTerms(epsilon=4.0, delta=1e-6, unit=PrivacyUnit.CUSTOMER),
        aggregation=AggregationTerms(rule="weighted_mean", banks=3),
        cohort=("bank-a", "bank-b", "bank-c"),
        quorum=3,
    )
    return RoundPlan(
        campaign=campaign,
        round=3,
        attempt=0,
        roster_version=1,
        model_digest="0" * 64,
        query_digest="0" * 64,
        noise_scale=8.0 * LATTICE,
        clipping_norm=LATTICE,
        opens_at=NOW,
        closes_at=NOW + timedelta(minutes=10),
    )


def main() -> None:
    budget = Budget(delta=1e-6, epsilon_per_round=10, epsilon_per_campaign=20, epsilon_per_year=50)
    plan, zeros = a_plan(), BoundedSum(np.zeros(COORDINATES, np.int64), LATTICE)
    cost = GaussianRelease(LATTICE, plan.noise_scale, 1280)
    with tempfile.TemporaryDirectory() as long, tempfile.TemporaryDirectory() as year:
        many = write_ledger(Path(long), ENTRIES, noise_scale=2000.0 * LATTICE)
        some = write_ledger(Path(year), CHARGES_A_YEAR, noise_scale=100.0 * LATTICE)

        def verify() -> None:
            with Ledger.open(*many):
                pass

        with Ledger.open(*some) as ledger:
            seconds = {
                f"noise for {COORDINATES} sums": median_seconds(lambda: release(zeros, noise_scale=8.0 * LATTICE)),
                f"verify {ENTRIES} charges": median_seconds(verify),
                f"price a release, {CHARGES_A_YEAR} charges this year": median_seconds(
                    lambda: check_budget(budget, ledger, plan, cost, NOW)
                ),
            }
    for what, taken in seconds.items():
        print(f"{what:<45} {taken:.3f} s")
    target = Path("var/benchmarks/privacy_speed.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({what: round(taken, 4) for what, taken in seconds.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
