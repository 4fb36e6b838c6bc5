"""The audit: as much of the declared epsilon is found as is there, and every wrong variant of the bank is caught."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import audit
import numpy as np
import pytest
from audit import DRAWS, FLOOR, Exposed, audit_mutant, epsilon_of
from mutants import MUTANTS
from scipy import stats

# What these do shows in the draws themselves; the other mutants in the ledger or in the exact sums.
SEEN_IN_DRAWS = set(MUTANTS) - {"a release not charged", "rounding that grows a norm"}


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Exposed:
    return Exposed(tmp_path_factory.mktemp("audit"))


@pytest.mark.parametrize(("declared", "draws"), DRAWS.items())
def test_what_a_bank_sends_costs_what_it_declares(exposed: Exposed, declared: float, draws: int) -> None:
    """A bound that exceeds the truth once in a million audits stays under the declared epsilon and above 60 % of it;
    the ledger says the same price, four attempts sent one draw, and the customer moves the sum by its sensitivity."""
    found = exposed.audit(declared, draws)
    assert FLOOR * declared < found.lower_bound < declared
    assert declared * (1 - 1e-4) < found.charged <= declared
    assert found.releases == 1
    assert 1 - 1e-6 < found.moved <= 1


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(exposed: Exposed, name: str) -> None:
    """Each shows more than its ledger paid for, or moves the exact sum beyond its sensitivity."""
    found = audit_mutant(exposed, MUTANTS[name])
    assert not found.sound
    assert (found.lower_bound > found.declared) == (name in SEEN_IN_DRAWS)


def test_epsilon_of_is_the_gaussians() -> None:
    """At the epsilon of a mu, the Gaussian's exact delta is the audit's."""
    for mu in (0.1, 0.25, 1.0, 3.0):
        spent = epsilon_of(mu)
        delta = stats.norm.cdf(mu / 2 - spent / mu) - np.exp(spent) * stats.norm.cdf(-mu / 2 - spent / mu)
        assert delta == pytest.approx(audit.DELTA, rel=1e-6)


@pytest.mark.parametrize(("wrong", "code"), [("forgotten clipping", 0), ("nothing wrong", 1)])
def test_program_records_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str, code: int
) -> None:
    """`make audit` writes var/audit.json, and fails when a mutant is not caught."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(audit, "DRAWS", {8.0: 4_000})
    monkeypatch.setattr(audit, "MUTANTS_DRAWS", 4_000)
    monkeypatch.setattr(audit, "MUTANTS", {wrong: MUTANTS.get(wrong, nullcontext)})
    assert audit.main() == code
    written = json.loads(Path("var/audit.json").read_text())
    assert written["declared"] == [8.0]
    assert 0.6 * 8 < written["lower_bound"][0] < 8
    assert [(mutant["name"], mutant["caught"]) for mutant in written["mutants"]] == [(wrong, code == 0)]
    assert ("FAILED" in capsys.readouterr().out) == (code == 1)
