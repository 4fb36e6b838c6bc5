"""LightGBM as well as one can: a seeded random search over its parameters, judged on validation customers.

Validation customers are drawn from the training rows; test rows are never looked at. The number of trees is found by
stopping early on the validation customers, and the chosen model is then fitted anew to all training rows.
What was chosen is kept in `tuned.json`, so that not every run has to search again.

    python -m benchmarks.learning.tuning SET [--trials 16] [--data-dir ../shared/data]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.learning.datasets import SETS, load_set, pooled
from mintmark.table import Table

Floats = npt.NDArray[np.float64]

SPACE: dict[str, list[Any]] = {
    "num_leaves": [7, 15, 31, 63, 127, 255],
    "min_data_in_leaf": [10, 20, 50, 100, 200],
    "lambda_l2": [0.0, 1.0, 5.0, 20.0],
    "feature_fraction": [0.5, 0.7, 0.9, 1.0],
    "bagging_fraction": [0.6, 0.8, 1.0],
    "min_sum_hessian_in_leaf": [1e-3, 0.1, 1.0],
    "path_smooth": [0.0, 1.0, 10.0],
    "learning_rate": [0.03, 0.05, 0.1],
    "categorical": [False, True],  # merchant categories as sets, not as ordered codes
}
FIXED: dict[str, Any] = {
    "objective": "binary",
    "metric": "average_precision",
    "bagging_freq": 1,
    "deterministic": True,
    "num_threads": 1,
    "verbose": -1,
}
VALIDATION_SHARE = 0.25  # of the customers
SEARCH_ROWS = 300_000  # a search trains on the customers of no more rows; only what it chose is then trained on all
MOST_TREES, PATIENCE = 2000, 60
TUNED = Path(__file__).parent / "tuned.json"


def validation_rows(rows: Table, seed: int) -> npt.NDArray[np.bool_]:
    """[n]: the rows of a random quarter of the customers."""
    customers = int(rows.customers.max()) + 1
    chosen = np.random.default_rng(seed).permutation(customers) < VALIDATION_SHARE * customers
    mask: npt.NDArray[np.bool_] = chosen[rows.customers]
    return mask


def draw_parameters(generator: np.random.Generator) -> dict[str, Any]:
    """One point of `SPACE`."""
    return {name: values[int(generator.integers(len(values)))] for name, values in SPACE.items()}


def dataset(rows: Table, mask: npt.NDArray[np.bool_], parameters: Mapping[str, Any], reference: Any = None) -> Any:
    """The rows of `mask` as LightGBM wants them."""
    import lightgbm

    categories = [j for j, feature in enumerate(rows.schema.features) if feature.categories]
    return lightgbm.Dataset(
        rows.features[mask],
        rows.labels[mask],
        reference=reference,
        categorical_feature=categories if parameters["categorical"] else [],
        free_raw_data=False,
    )


def search(rows: Table, *, trials: int, seed: int, tell: Any = lambda _: None) -> dict[str, Any]:
    """The best of `trials` points: its parameters, number of trees and validation AUPRC."""
    held = validation_rows(rows, seed)
    seen = _some_customers(rows, ~held, seed)
    generator = np.random.default_rng([seed, 1])
    tried: list[dict[str, Any]] = []
    for _ in range(trials):
        started = time.monotonic()
        tried.append(_trial(rows, seen, held, draw_parameters(generator), seed))
        tell({**tried[-1], "seconds": round(time.monotonic() - started, 1)})
    best = max(tried, key=lambda trial: float(trial["auprc"]))
    return best if seen.sum() + held.sum() == len(rows) else _trial(rows, ~held, held, best["parameters"], seed)


def _trial(
    rows: Table, seen: npt.NDArray[np.bool_], held: npt.NDArray[np.bool_], parameters: dict[str, Any], seed: int
) -> dict[str, Any]:
    """What these parameters reach on the rows `held` when trained on those `seen`, and with how many trees."""
    import lightgbm

    training = dataset(rows, seen, parameters)
    booster = lightgbm.train(
        {**FIXED, **_lightgbm(parameters), "seed": seed},
        training,
        MOST_TREES,
        valid_sets=[dataset(rows, held, parameters, training)],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    found = float(booster.best_score["valid_0"]["average_precision"])
    return {"parameters": parameters, "trees": booster.best_iteration, "auprc": round(found, 4)}


def _some_customers(rows: Table, mask: npt.NDArray[np.bool_], seed: int) -> npt.NDArray[np.bool_]:
    """The part of `mask` [n] that belongs to so many random customers that about `SEARCH_ROWS` rows are left."""
    share = SEARCH_ROWS / mask.sum()
    if share >= 1:
        return mask
    drawn = np.random.default_rng([seed, 2]).random(int(rows.customers.max()) + 1) < share
    part: npt.NDArray[np.bool_] = mask & drawn[rows.customers]
    return part


def fit(rows: Table, chosen: Mapping[str, Any], seed: int) -> Any:
    """A booster of the chosen parameters and number of trees on all `rows`."""
    import lightgbm

    everything = dataset(rows, np.ones(len(rows), dtype=bool), chosen["parameters"])
    return lightgbm.train({**FIXED, **_lightgbm(chosen["parameters"]), "seed": seed}, everything, chosen["trees"])


def _lightgbm(point: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in point.items() if name != "categorical"}


def main() -> None:
    """Search for one set's centralised model and keep what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    rows = pooled(load_set(arguments.set, arguments.data_dir).training)
    best = search(rows, trials=arguments.trials, seed=0, tell=lambda trial: print(json.dumps(trial), flush=True))
    kept = json.loads(TUNED.read_text()) if TUNED.exists() else {}
    kept[arguments.set] = {**best, "trials": arguments.trials, "date": date.today().isoformat()}  # noqa: DTZ011
    TUNED.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
