"""The demonstration's comparison: every bank's own and deployed figures, by the code that a bank runs."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from consortium import SCHEMA, Consortium
from rich.console import Console
from sklearn.metrics import average_precision_score

from bank_node.personal.shared_model import fetch_shared_model
from bank_node.table import load_table
from infra.embedded import comparison
from infra.embedded.comparison import EFFORT, compare
from infra.embedded.telling import tell_deployed
from mintmark.models.lightgbm_text import load


def test_figures_are_those_of_each_banks_test_rows(tmp_path: Path) -> None:
    """`own` is the own model's average precision on the bank's test rows, recomputed here; the table names every bank."""
    consortium = Consortium(tmp_path)
    consortium.plan(consortium.run(consortium.campaign(), rounds=3))
    read = {name: partial(load_table, bank.home.data, SCHEMA) for name, bank in consortium.banks.items()}
    key = consortium.coordinator.signer.public_key

    figures = compare(read, partial(fetch_shared_model, consortium.store, key, "cards"))

    banks = ["bank-0", "bank-1", "bank-2"]
    for name in ("local", "own", "deployed", "gain"):
        assert sorted(figures[name]) == banks
    table = read["bank-1"]()
    test = table.test_part()
    texts = comparison.train_own(table.train(), EFFORT).models.texts
    scores = np.mean([load(text).predict(test.features, raw_score=True) for text in texts], axis=0)
    assert figures["own"]["bank-1"] == pytest.approx(average_precision_score(test.labels, scores), abs=1e-9)
    for bank, gain in figures["gain"].items():
        assert gain["low"] <= gain["high"]
        assert not gain["keeps_own"] or figures["own"][bank] == figures["deployed"][bank]

    told = io.StringIO()
    report = {"auprc": {"own": figures["own"], "deployed": figures["deployed"]}, "gain": figures["gain"]}
    tell_deployed(Console(file=told, width=120), report)
    assert all(bank in told.getvalue() for bank in banks)
