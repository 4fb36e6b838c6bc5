"""What the federated model is held against: each bank's own LightGBM, and one trained on all rows in one place.

Only the demonstration can do this: it made the data. Run as a program it works beside the rounds, at low priority:

    python -m infra.embedded.comparison OUTPUT SCHEMA BANK=FILE...
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bank_node.table import load_table
from mintmark.privacy.ledger import write_durably
from mintmark.schema import parse_schema
from mintmark.table import Table

# One untuned set for all: nothing is chosen on test rows, nothing favours the federation.
PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 50,
    "seed": 0,
    "deterministic": True,
    "num_threads": 1,
    "verbose": -1,
}
TREES = 200

Rows = tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]


def auprc(labels: npt.NDArray[np.uint8], scores: npt.NDArray[np.float64]) -> float:
    """Average precision, in [0, 1]."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores))


def compare(load: Mapping[str, Callable[[], Table]]) -> dict[str, Any]:
    """AUPRC on the pooled test rows of all banks: `local` by bank, and `central`. Tables are loaded one at a time."""
    import lightgbm

    train: dict[str, Rows] = {}
    test: list[Rows] = []
    for bank, read in load.items():
        table = read()
        train[bank] = _rows(table.train())
        test.append(_rows(table.test_part()))
        del table
    features, labels = pooled(test)
    test.clear()

    def figure(rows: Rows) -> float:
        booster = lightgbm.train(PARAMETERS, lightgbm.Dataset(*rows), TREES)
        return auprc(labels, np.asarray(booster.predict(features)))

    return {
        "local": {bank: figure(rows) for bank, rows in train.items()},
        "central": figure(pooled(list(train.values()))),
    }


def _rows(table: Table) -> Rows:
    return table.features, table.labels


def pooled(parts: list[Rows]) -> Rows:
    """All rows of several parts: features [n, F] and labels [n]."""
    return np.concatenate([features for features, _ in parts]), np.concatenate([labels for _, labels in parts])


def main() -> None:
    """Compare the banks that the command line names and write the figures as JSON."""
    os.nice(10)
    output, schema_file, *named = sys.argv[1:]
    schema = parse_schema(Path(schema_file).read_text())
    files = dict(pair.split("=", 1) for pair in named)
    figures = compare({bank: partial(load_table, Path(file), schema) for bank, file in files.items()})
    write_durably(Path(output), json.dumps(figures).encode())


if __name__ == "__main__":
    main()
