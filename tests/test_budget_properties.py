"""Whatever plans come, in whatever order and over which days: no budget is ever exceeded, and order does not matter.

Two campaigns are interleaved at one bank, which answers as always; only its table is left out: sums are of two zeros.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import tempfile
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from audit import epsilon_of
from consortium import POLICY, START, Consortium
from hypothesis import given, settings
from hypothesis import strategies as st

from bank_node import local_round
from bank_node.policy import RefusalReason, read_policy
from bank_node.settings import Home
from mintmark.campaign import learner_of
from mintmark.mailbox import plan_key, update_key
from mintmark.plan import RoundPlan
from mintmark.privacy.accountant import total_mu
from mintmark.privacy.mechanism import BoundedSum

OVER = {RefusalReason.OVER_ROUND_BUDGET, RefusalReason.OVER_CAMPAIGN_BUDGET, RefusalReason.OVER_YEAR_BUDGET}


@dataclasses.dataclass(frozen=True)
class Step:
    """A plan and when it comes. `noise` is a multiple of what the campaign's own terms ask for."""

    campaign: str
    round: int
    attempt: int = 0
    noise: float = 1.0
    days_later: int = 0


steps = st.builds(
    Step,
    campaign=st.sampled_from(["first", "second"]),
    round=st.integers(0, 3),
    attempt=st.integers(0, 1),
    noise=st.sampled_from([0.5, 1.0, 1.0, 3.0]),
    days_later=st.sampled_from([0, 0, 1, 45]),
)


class OneBank:
    """bank-0, asked about two campaigns of given epsilons under given budgets; books, outbox and mailbox begin empty."""

    def __init__(self, consortium: Consortium, home: Path, epsilons: tuple[float, float], budgets: list[float]) -> None:
        self._consortium = consortium
        consortium.store._objects = {key: kept for key, kept in consortium.store._objects.items() if "roster" in key}
        origin = consortium.root / "bank-0"
        shutil.copytree(origin, home)
        policy = POLICY
        for name, old, new in zip(("round", "campaign", "year"), ("4.0", "4.0", "12.0"), budgets, strict=True):
            policy = policy.replace(f"epsilon_per_{name} = {old}", f"epsilon_per_{name} = {new}")
        (home / "policy.toml").write_text(policy)
        self.policy, self._home = read_policy(home / "policy.toml"), Home(home)
        bank = dataclasses.replace(consortium.banks["bank-0"], home=self._home, policy=self.policy)
        consortium.banks["bank-0"], consortium.now = bank, START
        self.epsilons = dict(zip(("first", "second"), epsilons, strict=True))
        names = self.epsilons.items()
        self._published: dict[tuple[str, int, int], RoundPlan] = {}
        self._plans = {name: consortium.plan(consortium.campaign(name=name, epsilon=e), name) for name, e in names}

    def ask(self, step: Step) -> RefusalReason | None:
        """Publish the step's plan, once, as the coordinator would, and let the bank answer it."""
        self._consortium.now += timedelta(days=step.days_later)
        plan = self._published.setdefault((step.campaign, step.round, step.attempt), self._plan(step))
        message = plan.signed(self._consortium.coordinator.signer)
        self._consortium.store._objects[plan_key(step.campaign, step.round, step.attempt)] = message
        return self._consortium.refusal("bank-0", plan)

    def _plan(self, step: Step) -> RoundPlan:
        first = self._plans[step.campaign]
        share = learner_of(first.campaign).budget_share(first.campaign, step.round)
        noise = step.noise * first.clipping_norm / (total_mu(self.epsilons[step.campaign], 1e-6) * math.sqrt(share))
        fields = {"round": step.round, "attempt": step.attempt, "noise_scale": noise}
        times = {"opens_at": self._consortium.now, "closes_at": self._consortium.now + timedelta(days=400)}
        return first.model_copy(update=fields | times)

    def sent(self, step: Step) -> bool:
        return update_key("bank-0", step.campaign, step.round, step.attempt) in self._consortium.store._objects

    def lines(self) -> list[dict[str, object]]:
        """The ledger's charges, read without the bank's own code."""
        path = self._home.ledger
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [entry for entry in entries if entry["kind"] == "charge"]

    def spent(self) -> dict[str, float]:
        """mu of the dearest round, of each campaign and of each year, from the ledger's lines."""
        squares: dict[str, float] = defaultdict(float)
        for entry in self.lines():
            square = (float(entry["sensitivity"]) / float(entry["noise_scale"])) ** 2  # type: ignore[arg-type]
            squares["round"] = max(squares["round"], square)
            for key in (str(entry["campaign"]), str(entry["at"])[:4]):
                squares[key] += square
        return {key: math.sqrt(square) for key, square in squares.items()}


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return Consortium(tmp_path_factory.mktemp("budgets"), sizes=(100, 100, 100))


@pytest.fixture(autouse=True)
def without_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is summed does not matter to what is spent."""
    monkeypatch.setattr(local_round, "measure", lambda _, plan: BoundedSum(np.zeros(2, np.int64), plan.clipping_norm))


epsilons = st.sampled_from([0.5, 1.0, 2.0, 4.0])
budgets = st.lists(st.sampled_from([0.4, 1.0, 2.0, 3.0, 5.0]), min_size=3, max_size=3).map(sorted)


@settings(max_examples=20, deadline=None)
@given(st.tuples(epsilons, epsilons), budgets, st.lists(steps, min_size=1, max_size=8))
def test_no_budget_is_ever_exceeded(
    consortium: Consortium, terms: tuple[float, float], limits: list[float], asked: list[Step]
) -> None:
    """After every plan, answered or refused, what the ledger's lines add up to by the Gaussian's closed form is within the
    bank's epsilon for a round, a campaign and a year, and within the campaign's own; a refusal leaves no trace."""
    with tempfile.TemporaryDirectory() as root:
        bank = OneBank(consortium, Path(root) / "bank", terms, limits)
        budget = bank.policy.budget
        for step in asked:
            before, was_sent = bank.lines(), bank.sent(step)
            refused = bank.ask(step)
            assert refused in {None, RefusalReason.STALE} | OVER
            assert bank.sent(step) == (was_sent or refused is None)
            if refused is not None:
                assert bank.lines() == before
            limits_now = {"round": budget.epsilon_per_round} | dict.fromkeys(("2026", "2027"), budget.epsilon_per_year)
            limits_now |= {name: min(own, budget.epsilon_per_campaign) for name, own in bank.epsilons.items()}
            assert all(epsilon_of(mu) <= limits_now[key] for key, mu in bank.spent().items())
        assert len({line["release_digest"] for line in bank.lines()}) == len(bank.lines())


@settings(max_examples=6, deadline=None)
@given(st.tuples(epsilons, epsilons), st.permutations(["first"] * 4 + ["second"] * 4))
def test_interleaving_does_not_change_what_was_spent(
    consortium: Consortium, terms: tuple[float, float], order: list[str]
) -> None:
    """Two whole campaigns that fit the budgets are answered in any interleaving, and cost what their terms say."""
    with tempfile.TemporaryDirectory() as root:
        bank = OneBank(consortium, Path(root) / "bank", terms, [5.0, 5.0, 12.0])
        counts = {"first": 0, "second": 0}
        for name in order:
            assert bank.ask(Step(name, counts[name])) is None
            counts[name] += 1
        spent = bank.spent()
    for name, epsilon in bank.epsilons.items():
        assert epsilon_of(spent[name]) == pytest.approx(epsilon, rel=1e-3)
    assert spent["2026"] == pytest.approx(math.hypot(spent["first"], spent["second"]), rel=1e-12)
