"""What a bank's part of a round takes on a million rows, beside LightGBM training as many trees on the same rows.

Everything runs in this one process on one thread. Seconds are of the processor, which other work on the machine hardly
alters; the clock's stand beside them. Memory is the peak of the resident set while rows are coded and rounds answered, less
what it was before the feature table was made. Results: a table, and var/benchmarks/boosting_speed.json.

    python -m benchmarks.boosting_speed [--rows 1000000] [--features 30] [--customers 100000] [--runs 5]
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import lightgbm
import numpy as np
import psutil

from mintmark.models.boosting import LEAVES, BoostingState, GuidedBoosting, TreeQuery
from mintmark.models.learner import NoisySum
from mintmark.models.rows import RowState, code_table, remember
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit
from mintmark.privacy.mechanism import LATTICE, bounded_sum, row_norm
from mintmark.schema import Feature, FeatureKind, FeatureSchema
from mintmark.table import Table

TREES = 10  # a round; the learner itself asks for more where there is less noise
TARGETS = {"round": 0.3, "coding": 1.0, "memory_in_tables": 2.0, "share_of_lightgbm": 0.25}


def table_of(rows: int, features: int, customers: int, seed: int = 1) -> Table:
    """Rows of half skewed, half even numbers, 5 % missing in every third feature; 1 % fraud, by a score of five."""
    kinds = (Feature(f"x{j}", FeatureKind.LOG if j % 2 else FeatureKind.LINEAR, 0, 100) for j in range(features))
    schema = FeatureSchema("speed", tuple(kinds), label="fraud", customer="card", bank="bank", test="test")
    rng = np.random.default_rng(seed)
    values = np.empty((rows, features))
    for column in range(features):
        values[:, column] = rng.lognormal(1, 1.2, rows).clip(0, 100) if column % 2 else rng.uniform(0, 100, rows)
        if column % 3 == 2:
            values[rng.random(rows) < 0.05, column] = np.nan
    score = np.nan_to_num(values[:, :5] / values[:, :5].max(initial=1)).sum(axis=1) + rng.normal(0, 1, rows)
    labels = (score > np.quantile(score, 0.99)).astype(np.uint8)
    owners = np.sort(rng.integers(0, customers, rows))
    return Table(schema, values, labels, owners, np.zeros(rows, bool), (0.0,) * features)


def campaign_of(table: Table) -> Campaign:
    """Terms without noise: only their rounds and seed matter here."""
    return Campaign(
        name="speed",
        seed=1,
        learner="guided_boosting",
        schema_digest=table.schema.digest(),
        rounds=10,
        privacy=PrivacyTerms(epsilon=None, delta=1e-6, unit=PrivacyUnit.CUSTOMER, clip=0.5),
        aggregation=AggregationTerms(rule="weighted_mean", banks=1),
        cohort=("bank-a",),
        quorum=1,
    )


def answer(state: BoostingState, rows: RowState, customers: Any) -> tuple[RowState, NoisySum]:
    """A bank's part of a round: scores brought up to date, gradients, leaves, clipped exact sums."""
    learner = GuidedBoosting()
    rows, query = learner.advance(state, rows), learner.query(state)
    norm = math.floor((1.0 if customers is None else 0.5) * row_norm(query.slots))
    contributions = learner.contributions(state, query, rows)
    total = bounded_sum(contributions, clipping_norm=norm, customers=customers)
    rows = remember(rows, query.digest(), contributions.cells_of)
    return rows, NoisySum(total.vector.reshape(query.slots, query.cells, query.width) / LATTICE, 0.0)


def trained(state: BoostingState, rows: RowState, rounds: int) -> tuple[BoostingState, RowState]:
    """The state and the rows after so many rounds."""
    learner = GuidedBoosting()
    while state.round < rounds:
        rows, total = answer(state, rows, None)
        state = replace(learner.settle(state, learner.query(state), total), trees_per_round=TREES)
    return state, rows


def timed(work: Callable[[], Any], runs: int) -> dict[str, float]:
    """Medians over `runs`, after one run that does not count: seconds of the processor and of the clock."""
    work()
    processor, clock = [], []
    for _ in range(runs):
        gc.collect()
        began, at = time.process_time(), time.perf_counter()
        work()
        processor.append(time.process_time() - began)
        clock.append(time.perf_counter() - at)
    return {"cpu_s": round(statistics.median(processor), 3), "clock_s": round(statistics.median(clock), 3)}


class Peak:
    """The highest resident set of this process while the block runs, in bytes."""

    def __enter__(self) -> Peak:
        self._process, self._over, self.bytes = psutil.Process(), threading.Event(), 0
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self.bytes = max(self.bytes, self._process.memory_info().rss)


def lightgbm_seconds(table: Table, runs: int) -> dict[str, dict[str, float]]:
    """LightGBM on one thread: as many trees of as many leaves, without and with binning the rows."""
    leaves = {"num_leaves": LEAVES, "objective": "binary", "num_threads": 1, "verbose": -1}

    def dataset() -> lightgbm.Dataset:
        return lightgbm.Dataset(table.features, table.labels, params=leaves, free_raw_data=False).construct()

    binned = dataset()
    return {
        "lightgbm_train": timed(lambda: lightgbm.train(leaves, binned, TREES), runs),
        "lightgbm_bin_and_train": timed(lambda: lightgbm.train(leaves, dataset(), TREES), runs),
    }


def measure(rows: int, features: int, customers: int, runs: int) -> dict[str, Any]:
    """All figures, side by side in this process."""
    warm = code_table(table_of(1000, features, 100))
    trained(GuidedBoosting().start(campaign_of(table := table_of(1000, features, 100)), table.schema), warm, 3)
    before = psutil.Process().memory_info().rss
    table = table_of(rows, features, customers)
    with Peak() as peak:
        coded = code_table(table)
        state, scored = trained(GuidedBoosting().start(campaign_of(table), table.schema), coded, 3)
        answer(state, scored, table.customers)
    assert isinstance(GuidedBoosting().query(state), TreeQuery)
    seconds = {
        "coding": timed(lambda: code_table(table), runs),
        "round_transactions": timed(lambda: answer(state, scored, None), runs),
        "round_customers": timed(lambda: answer(state, scored, table.customers), runs),
        "round_0_customers": timed(
            lambda: answer(GuidedBoosting().start(state.campaign, table.schema), coded, table.customers), runs
        ),
        **lightgbm_seconds(table, runs),
    }
    found = {
        "round": seconds["round_customers"]["cpu_s"],
        "coding": seconds["coding"]["cpu_s"],
        "memory_in_tables": round((peak.bytes - before) / table.features.nbytes, 2),
        "share_of_lightgbm": round(seconds["round_customers"]["cpu_s"] / seconds["lightgbm_train"]["cpu_s"], 3),
    }
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.processor() or platform.machine(), "load": os.getloadavg()[0]},
        "rows": rows,
        "features": features,
        "customers": customers,
        "trees": TREES,
        "leaves": LEAVES,
        "runs": runs,
        "seconds": seconds,
        "asked_at_most": TARGETS,
        "found": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=30)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    result = measure(**vars(parser.parse_args()))
    for name, own in result["seconds"].items():
        print(f"{name:<24} {own['cpu_s']:8.3f} s of one core {own['clock_s']:8.3f} s by the clock")
    for name, limit in TARGETS.items():
        print(f"{name:<24} {result['found'][name]:8.3f}   asked: at most {limit}")
    target = Path("var/benchmarks/boosting_speed.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
