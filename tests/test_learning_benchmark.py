"""The learning benchmark's arithmetic, on a tiny simulated set: figures against scikit-learn and against plain counting."""

from __future__ import annotations

import inspect
import io
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from bank_node.personal.own_model import Effort
from benchmarks.learning import banks, tuning
from benchmarks.learning.__main__ import Grid
from benchmarks.learning.cells import DELTA, POOLED, CellStore, Defaults, Record, compute
from benchmarks.learning.datasets import BenchmarkSet, pooled, split_set
from benchmarks.learning.figures import figures, interval, resampled_auprc
from benchmarks.learning.plots import draw_plots
from benchmarks.learning.report import markdown, print_report, select, summarise, tables
from flows.campaign import run_campaign
from mintmark.plan import PrivacyUnit
from mintmark.synthetic import simulate


@pytest.fixture(scope="module")
def data() -> BenchmarkSet:
    schema, columns = simulate(seed=1, banks=2, rows=12_000)
    return split_set("simulator", schema, columns, "amount")


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores with many ties, and amounts."""
    rng = np.random.default_rng(0)
    labels = (rng.random(3000) < 0.1).astype(np.uint8)
    return labels, np.round(rng.normal(labels, 1.0), 1), rng.lognormal(3, 1, 3000)


def test_figures_are_those_of_the_definitions(scored: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """AUPRC and ROC-AUC as scikit-learn has them; recall and value by flagging rows down to the last allowed score."""
    labels, scores, value = scored
    found = figures(labels, scores, value)
    assert found["auprc"] == pytest.approx(average_precision_score(labels, scores))
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, scores))
    false_rate, recall, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    last = np.flatnonzero(false_rate <= 0.005)[-1]
    assert found["recall"] == pytest.approx(recall[last])
    caught = (scores >= thresholds[last]) & (labels == 1)
    assert found["value"] == pytest.approx(value[caught].sum() / value[labels == 1].sum())


def test_draws_of_customers(scored: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """A draw's AUPRC is that of the drawn customers' rows repeated; the same draws judge every model."""
    labels, scores, _ = scored
    customers = np.sort(np.random.default_rng(1).integers(0, 400, len(labels)))
    customers = np.unique(customers, return_inverse=True)[1]
    count = customers.max() + 1
    drawn = np.bincount(np.random.default_rng(5).integers(count, size=count), minlength=count)[customers]
    expected = average_precision_score(np.repeat(labels, drawn), np.repeat(scores, drawn))
    assert resampled_auprc(labels, scores, customers, draws=1, seed=5)[0] == pytest.approx(expected)
    low, high = interval(resampled_auprc(labels, scores, customers))
    assert low < average_precision_score(labels, scores) < high
    np.testing.assert_allclose(
        resampled_auprc(labels, scores, customers), resampled_auprc(labels, 2 * scores + 1, customers)
    )


def test_tuning_looks_at_training_customers_only(data: BenchmarkSet) -> None:
    """Validation customers are whole customers of the pooled training rows, about a quarter; the search repeats."""
    rows = pooled(data.training)
    assert len(rows) == sum(map(len, data.training.values()))
    assert not rows.test.any()
    held = tuning.validation_rows(rows, seed=1)
    assert not set(rows.customers[held]) & set(rows.customers[~held])
    assert len(set(rows.customers[held])) == pytest.approx(0.25 * (rows.customers.max() + 1), abs=1)
    one, again = (tuning.search(rows, trials=2, seed=4) for _ in range(2))
    assert one == again


def test_campaigns_are_those_of_the_product() -> None:
    """The benchmark's campaigns have the defaults that a campaign of the product has."""
    offered = {name: parameter.default for name, parameter in inspect.signature(run_campaign.fn).parameters.items()}
    defaults = Defaults()
    expert = offered["expert"]
    assert (defaults.learner, defaults.rounds, defaults.rule) == (offered["learner"], offered["rounds"], expert.rule)
    assert (Grid((), (), 0).unit, DELTA) == (expert.privacy_unit, expert.delta)


def test_cells_become_a_report(data: BenchmarkSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method, bank and epsilon has its record; cells are kept; means, shares and gains add up; all is told."""
    tuned = tmp_path / "tuned.json"
    chosen = {"simulator": tuning.search(pooled(data.training), trials=1, seed=0) | {"trials": 1}}
    tuned.write_text(json.dumps(chosen))
    monkeypatch.setattr(tuning, "TUNED", tuned)
    monkeypatch.setattr(banks, "Effort", partial(Effort, trials=1, folds=2))
    store, grid = CellStore(tmp_path / "cells"), Grid(("simulator",), (4.0, None), seeds=2).cells()
    for cell in grid:
        assert not store.has(cell)
        assert all(store.has(needed) for needed in cell.needs)
        compute(cell, data, store, Defaults(rounds=3))
    records: list[Record] = [record for cell in grid if cell.kind != "tuned" for record in store.read(cell)]
    # places, times: own, average, central, both learners at both epsilons, deployed at 4; without noise for one seed
    assert len(records) == 3 * (2 * (3 + 4 + 1) + 1)

    summary = json.loads(json.dumps(summarise(records, PrivacyUnit.CUSTOMER, chosen)))
    (federated,) = select(summary["figures"], method="federated", epsilon=4.0, where=POOLED)
    values = [record["auprc"] for record in select(records, method="federated", epsilon=4.0, where=POOLED)]
    assert federated["auprc"] == pytest.approx(np.mean(values), abs=1e-4)
    assert federated["auprc_sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-4)
    assert {(gain["epsilon"], gain["bank"]) for gain in summary["gains"]} == {
        (epsilon, bank) for epsilon in (4.0, None) for bank in data.training
    }
    for gain in summary["gains"]:
        where = {"where": gain["bank"], "epsilon": gain["epsilon"]}
        after = select(records, method="deployed", **where)
        before = [select(records, method="own", where=gain["bank"], seed=record["seed"])[0] for record in after]
        expected = np.mean([late["auprc"] - early["auprc"] for late, early in zip(after, before, strict=True)])
        assert gain["gain"] == pytest.approx(expected, abs=1e-4)
        assert gain["low"] <= gain["high"]

    spoken = io.StringIO()
    print_report(summary, Console(file=spoken, width=120))
    assert "federated" in spoken.getvalue()
    assert markdown(summary).count("\n|---") == len(list(tables(summary)))
    assert all(file.stat().st_size < 100_000 for file in draw_plots(summary, tmp_path))
