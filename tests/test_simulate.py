"""`mintmark simulate`: many banks, no servers, the product's own campaign."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from infra.simulate import SimulationOptions, campaign_of, run_simulation
from mintmark.errors import MintmarkError
from mintmark.synthetic import simulate, simulate_bank


def run(**options: object) -> dict[str, object]:
    asked = SimulationOptions(**({"banks": 12, "rounds": 3, "rows": 1500} | options))  # type: ignore[arg-type]
    return run_simulation(asked, Console(file=io.StringIO()))


def test_many_banks_learn_something_and_repeat_it(tmp_path: Path) -> None:
    """The model is better than chance, the report is written as it is returned, and the same seed gives the same model."""
    report = run(epsilon=8.0, report=tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["auprc"] > 2 * report["fraud_share"]  # type: ignore[operator]
    assert len(report["rounds"]) == 3  # type: ignore[arg-type]
    assert run(epsilon=8.0)["auprc"] == report["auprc"]


def test_liars_do_harm_that_a_mean_lets_pass() -> None:
    """Under the mean a few liars ruin the model."""
    honest = run(epsilon=8.0, rule="weighted_mean")["auprc"]
    attacked = run(epsilon=8.0, rule="weighted_mean", attack="scaling", attackers=3)["auprc"]
    assert attacked < 0.7 * honest  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"banks": 1}, "expected 2 to 1000 banks"),
        ({"attack": "magic"}, "expected an attack of"),
        ({"attackers": 2}, "expected --attack with --attackers"),
        ({"attack": "alie", "attackers": 12}, "expected at most 11 attackers of 12 banks"),
        ({"learner": "magic"}, "expected a learner of"),
        ({"rule": "krum", "liars": 6}, "12"),
    ],
)
def test_what_cannot_be_is_one_sentence(options: dict[str, object], sentence: str) -> None:
    """Options that contradict each other are refused before any row is made."""
    with pytest.raises(MintmarkError, match=sentence):
        campaign_of(SimulationOptions(**({"banks": 12} | options)))  # type: ignore[arg-type]


def test_a_bank_alone_is_the_bank_among_others() -> None:
    """Banks are made one by one, and are the same whatever others there are."""
    _, banks = simulate(seed=5, banks=3, rows=9_000)
    weights = np.array([3.0, 2.0, 1.0]) ** 1.7
    alone = simulate_bank(5, 1, 9_000 * weights[1] / weights.sum())
    for name, column in banks["bank-b"].items():
        np.testing.assert_array_equal(alone[name], column)
