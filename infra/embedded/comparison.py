"""What the federated model is held against: each bank's own LightGBM, and one trained on all rows in one place.

Only the demonstration can do this: it made the data. Run as a program it works beside the rounds, at low priority:

    python -m infra.embedded.comparison OUTPUT SCHEMA BANK=FILE...
"""

from __future__ import annotations

import json
import os
import sys
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


def auprc(labels: npt.NDArray[np.uint8], scores: npt.NDArray[np.float64]) -> float:
    """Average precision, in [0, 1]."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores))


def compare(tables: dict[str, Table]) -> dict[str, Any]:
    """AUPRC on the pooled test rows of all banks: `local` by bank, and `central`."""
    import lightgbm

    train = {bank: table.train() for bank, table in tables.items()}
    features, labels = pooled([table.test_part() for table in tables.values()])

    def figure(rows: npt.NDArray[np.float64], flags: npt.NDArray[np.uint8]) -> float:
        booster = lightgbm.train(PARAMETERS, lightgbm.Dataset(rows, flags), TREES)
        return auprc(labels, np.asarray(booster.predict(features)))

    return {
        "local": {bank: figure(table.features, table.labels) for bank, table in train.items()},
        "central": figure(*pooled(list(train.values()))),
    }


def pooled(tables: list[Table]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """All rows of several tables: features [n, F] and labels [n]."""
    return np.concatenate([table.features for table in tables]), np.concatenate([table.labels for table in tables])


def main() -> None:
    """Compare the banks that the command line names and write the figures as JSON."""
    os.nice(10)
    output, schema_file, *named = sys.argv[1:]
    schema = parse_schema(Path(schema_file).read_text())
    files = dict(pair.split("=", 1) for pair in named)
    figures = compare({bank: load_table(Path(file), schema) for bank, file in files.items()})
    write_durably(Path(output), json.dumps(figures).encode())


if __name__ == "__main__":
    main()
