"""What the federated model is held against: each bank's own LightGBM, what each bank deploys, and one model of all rows.

Only the demonstration can compare over banks: it made the data. What each bank deploys is made by the code of
`mintmark-bank personalise`, with less effort: one shape tried instead of six, three folds instead of five. Run as a program
it works beside the rounds, at low priority, and waits for the finished model in the mailbox as a bank would:

    python -m infra.embedded.comparison OUTPUT CAMPAIGN ROUNDS HOME...
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bank_node.personal.own_model import Effort
from bank_node.personal.personalise import OwnModel, combine_with_shared, train_own
from bank_node.personal.report import compare as report_on
from bank_node.personal.scorer import Scorer, mean_score
from bank_node.personal.shared_model import SharedModel, fetch_shared_model
from bank_node.settings import Home
from bank_node.table import load_table
from mintmark import mailbox
from mintmark.models.lightgbm_text import load
from mintmark.privacy.ledger import write_durably
from mintmark.s3 import S3Store
from mintmark.schema import FeatureSchema, parse_schema
from mintmark.table import Table

EFFORT = Effort(trials=1, folds=3)
POLL_S = 0.5

# Of the model of all rows. Untuned: nothing is chosen on test rows.
PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.1,
    "num_leaves": 31,
    "min_data_in_leaf": 50,
    "seed": 0,
    "deterministic": True,
    "num_threads": 1,
    "verbose": -1,
}
TREES = 100


def auprc(labels: npt.NDArray[np.uint8], scores: npt.NDArray[np.float64]) -> float:
    """Average precision, in [0, 1]."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores))


def compare(
    read: Mapping[str, Callable[[], Table]], shared_model: Callable[[FeatureSchema], SharedModel]
) -> dict[str, Any]:
    """AUPRC on the pooled test rows of all banks, `local` by bank and `central`; on each bank's own test rows `own` and
    `deployed`, with the interval of what it gained. `shared_model` is asked for only when all else is done."""
    import lightgbm

    tables = {bank: load_own() for bank, load_own in read.items()}
    own = {bank: train_own(table.train(), EFFORT) for bank, table in tables.items()}
    features, labels = _pooled([table.test_part() for table in tables.values()])
    local = {bank: auprc(labels, _scores(model, features)) for bank, model in own.items()}
    rows = _pooled([table.train() for table in tables.values()])
    central = lightgbm.train(PARAMETERS, lightgbm.Dataset(*rows), TREES)
    figures: dict[str, Any] = {"local": local, "central": auprc(labels, np.asarray(central.predict(features)))}
    del features, labels, rows, central
    shared = shared_model(next(iter(tables.values())).schema)
    figures |= {"own": {}, "deployed": {}, "gain": {}}
    for bank in list(tables):
        table = tables.pop(bank)
        personal = combine_with_shared(own.pop(bank), table.train(), shared, bank=bank)
        report = report_on(personal, Scorer(personal.deployed), table.test_part(), seed=EFFORT.seed)
        figures["own"][bank], figures["deployed"][bank] = report.deployed.baseline, report.deployed.model
        interval = {"low": report.deployed.low, "high": report.deployed.high}
        figures["gain"][bank] = interval | {"keeps_own": report.keeps_own}
    return figures


def _scores(own: OwnModel, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return mean_score([load(text) for text in own.models.texts], features)


def _pooled(parts: list[Table]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """All rows of several banks: features [n, F] and labels [n]."""
    return np.concatenate([part.features for part in parts]), np.concatenate([part.labels for part in parts])


def _await_shared_model(home: Home, campaign: str, rounds: int, schema: FeatureSchema) -> SharedModel:
    """The finished model, as soon as the plan that names it is in the mailbox."""
    store, key = S3Store(home.storage()), mailbox.plan_key(campaign, rounds, 0)
    while key not in store.list(key):
        time.sleep(POLL_S)
    return fetch_shared_model(store, bytes.fromhex(home.settings.coordinator_key), campaign, schema)


def main() -> None:
    """Compare the banks whose folders the command line names and write the figures as JSON."""
    os.nice(10)
    output, campaign, rounds, *folders = sys.argv[1:]
    homes = [Home(Path(folder)) for folder in folders]
    schema = parse_schema(homes[0].schema.read_text())
    read = {home.settings.bank: partial(load_table, home.data, schema) for home in homes}
    figures = compare(read, partial(_await_shared_model, homes[0], campaign, int(rounds)))
    write_durably(Path(output), json.dumps(figures).encode())


if __name__ == "__main__":
    main()
