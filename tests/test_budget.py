"""Budgets over several campaigns: room is reserved, and the mailbox remembers what a restored ledger forgot."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from consortium import Consortium

from bank_node.budget import budget_lines
from bank_node.enrol import DEFAULT_POLICY
from bank_node.policy import RefusalReason
from mintmark.mailbox import plan_key, update_key
from mintmark.messages import open_update_frame
from mintmark.plan import RoundPlan
from mintmark.privacy.accountant import GaussianRelease, epsilon, remainder, total_mu

POLICY = DEFAULT_POLICY.replace("smallest_rows = 1000", "smallest_rows = 10")


def consortium_with(tmp_path: Path, year: float, days: int = 30) -> Consortium:
    policy = POLICY.replace("epsilon_per_year = 12.0", f"epsilon_per_year = {year}")
    return Consortium(
        tmp_path, sizes=(200, 200, 200), policy=policy.replace("reservation_days = 30", f"reservation_days = {days}")
    )


def first_plan(consortium: Consortium, name: str, epsilon: float = 4.0) -> RoundPlan:
    return consortium.plan(consortium.campaign(name=name, epsilon=epsilon), name)


def test_two_campaigns_at_once_do_not_count_on_the_same_budget(tmp_path: Path) -> None:
    """A campaign that has answered one cheap round keeps room for all its rounds: a second one that would need that room
    is refused at its first round, and the first goes on to its end within the year's budget."""
    consortium = consortium_with(tmp_path, year=5.0)
    model = consortium.run(consortium.campaign(name="first", rounds=3), 1, "first")
    second = first_plan(consortium, "second")
    assert consortium.refusal("bank-0", second) is RefusalReason.OVER_YEAR_BUDGET
    with consortium.ledger("bank-0") as ledger:
        whole = remainder(4.0, 1e-6, [])
        assert whole is not None
        assert (
            epsilon([*ledger.releases(), whole], delta=1e-6) < 5.0
        )  # what was spent left room: the reservation refused
    consortium.run(model, 3, "first")
    with consortium.ledger("bank-0") as ledger:
        assert 3.9 < ledger.epsilon(delta=1e-6, campaign="first") <= 4.0
        assert {entry.campaign for entry in ledger.entries} == {"first"}


def test_campaigns_that_fit_together_both_finish(tmp_path: Path) -> None:
    """Room for two: rounds of both interleave to the end, and the year's total is what both cost together."""
    consortium = consortium_with(tmp_path, year=6.5)
    models = {name: consortium.campaign(name=name, rounds=3) for name in ("first", "second")}
    for _ in range(4):
        models = {name: consortium.run(model, 1, name) for name, model in models.items()}
    with consortium.ledger("bank-0") as ledger:
        assert len(ledger.releases()) == 8
        assert ledger.epsilon(delta=1e-6, year=2026) <= 6.5


def test_a_campaign_too_dear_as_a_whole_is_refused_at_once(tmp_path: Path) -> None:
    """Terms beyond what the bank allows a campaign are refused before the first charge, not after half the rounds."""
    consortium = consortium_with(tmp_path, year=20.0)
    plan = first_plan(consortium, "dear", epsilon=6.0)
    assert consortium.refusal("bank-0", plan) is RefusalReason.OVER_CAMPAIGN_BUDGET
    with consortium.ledger("bank-0") as ledger:
        assert ledger.entries == []


def test_reservations_lapse(tmp_path: Path) -> None:
    """A campaign that nobody goes on with gives its room back after the policy's days, and then must fit anew."""
    consortium = consortium_with(tmp_path, year=5.0, days=7)
    model = consortium.run(consortium.campaign(name="first", rounds=3), 1, "first")
    assert consortium.refusal("bank-0", first_plan(consortium, "early")) is RefusalReason.OVER_YEAR_BUDGET
    consortium.now += timedelta(days=8)
    assert consortium.refusal("bank-0", first_plan(consortium, "later")) is None
    assert consortium.refusal("bank-0", consortium.plan(model, "first")) is RefusalReason.OVER_YEAR_BUDGET


def test_budget_lines_say_what_is_spent_reserved_and_asked(tmp_path: Path) -> None:
    """The year's line counts what was spent, what another campaign may still spend, and the new campaign as a whole."""
    consortium = consortium_with(tmp_path, year=12.0)
    consortium.run(consortium.campaign(name="first", rounds=3), 1, "first")
    plan = first_plan(consortium, "second")
    with consortium.ledger("bank-0") as ledger:
        cost = GaussianRelease(plan.clipping_norm, plan.noise_scale, 100)
        lines = budget_lines(consortium.banks["bank-0"].policy.budget, ledger, plan, cost, consortium.now)
        spent = ledger.epsilon(delta=1e-6)
    year = lines[-1]
    assert year.spent == spent
    whole = GaussianRelease(2**26, 2**26 / total_mu(4.0, 1e-6), 1)
    assert year.after == pytest.approx(epsilon([whole, whole], delta=1e-6), rel=1e-6)
    rest = epsilon([whole], delta=1e-6)
    assert rest * 0.9 < year.reserved < rest


def test_nothing_is_left_of_a_campaign_that_spent_all() -> None:
    """What remains of a campaign's terms shrinks with every release, and is nothing in the end."""
    mu = total_mu(2.0, 1e-6)
    parts = [GaussianRelease(2**26, 2**26 * 2 / mu, 10)] * 4
    left = [remainder(2.0, 1e-6, parts[:count]) for count in range(4)]
    squares = [release.mu_squared for release in left if release]
    assert squares == pytest.approx([mu**2 * share for share in (1, 0.75, 0.5, 0.25)])
    assert remainder(2.0, 1e-6, [*parts, parts[0]]) is None


def test_a_ledger_restored_with_its_anchor_is_recognised(tmp_path: Path) -> None:
    """Ledger and anchor put back together from one backup agree; the mailbox still holds what they forgot."""
    consortium = consortium_with(tmp_path, year=12.0)
    home = consortium.banks["bank-0"].home
    model = consortium.run(consortium.campaign(rounds=3), 1)
    shutil.copytree(home.ledger.parent, tmp_path / "ledger")
    shutil.copytree(home.anchor.parent, tmp_path / "anchor")
    model = consortium.run(model, 1)
    for backup, place in (("ledger", home.ledger.parent), ("anchor", home.anchor.parent)):
        shutil.rmtree(place)
        shutil.copytree(tmp_path / backup, place)
    before = home.ledger.read_bytes()
    assert consortium.refusal("bank-0", consortium.plan(model)) is RefusalReason.LEDGER_UNSOUND
    assert home.ledger.read_bytes() == before
    assert consortium.refusal("bank-1", consortium.plan(model)) is None


def test_a_second_copy_of_the_folder_is_recognised(tmp_path: Path) -> None:
    """Two copies of a bank at work, each with books of its own: the one that comes second to a round, also as another
    attempt, draws nothing."""
    consortium = consortium_with(tmp_path, year=12.0)
    model = consortium.campaign(rounds=3)
    home = consortium.banks["bank-0"].home
    shutil.copytree(home.path, tmp_path / "copy")
    consortium.answer("bank-0", consortium.plan(model))
    shutil.rmtree(home.path)
    shutil.copytree(tmp_path / "copy", home.path)
    assert consortium.refusal("bank-0", consortium.plan(model, attempt=1)) is RefusalReason.LEDGER_UNSOUND
    assert len(consortium.store.list("from/bank-0/")) == 1


def test_another_plan_under_an_answered_attempt_costs_nothing(tmp_path: Path) -> None:
    """A store that swaps the plan of an attempt that was answered, be it without a charge of its own, gets a refusal, and
    the bank pays nothing."""
    consortium = consortium_with(tmp_path, year=12.0)
    model = consortium.campaign(rounds=3)
    for attempt in (0, 1):
        consortium.answer("bank-0", consortium.plan(model, attempt=attempt))
    asked = consortium.plan(model, attempt=1)
    other = asked.model_copy(update={"noise_scale": asked.noise_scale * 2})
    message = other.signed(consortium.coordinator.signer)
    consortium.store._objects[plan_key("cards", 0, 1)] = message
    before = consortium.banks["bank-0"].home.ledger.read_bytes()
    assert consortium.refusal("bank-0", other) is RefusalReason.STALE
    assert consortium.banks["bank-0"].home.ledger.read_bytes() == before


@pytest.mark.parametrize("stated", [False, True])
def test_budget_is_stated_only_where_the_policy_says_so(tmp_path: Path, stated: bool) -> None:
    """A bank that may tell says, signed, what its limits leave once this update is charged; another says nothing, in the
    bytes that statements had before there were budgets."""
    consortium = Consortium(
        tmp_path,
        sizes=(200, 200, 200),
        policy=POLICY.replace("state_budget = false", f"state_budget = {stated}".lower()),
    )
    model = consortium.run(consortium.campaign(name="first"), 1, "first")
    plan = consortium.plan(model, "first")
    consortium.answer("bank-0", plan)
    message = consortium.store.get(update_key("bank-0", "first", 1, 0), max_bytes=10**6) or b""
    statement, _ = open_update_frame(message, consortium.banks["bank-0"].signer.public_key, 10**4)
    if not stated:
        assert statement.budget is None
        assert set(json.loads(statement.canonical_bytes())) == {"bank", "plan_digest", "release_digest"}
        return
    with consortium.ledger("bank-0") as ledger:
        spent = epsilon(ledger.releases(), delta=1e-6)
    assert statement.budget is not None
    assert statement.budget.campaign_left == pytest.approx(4.0 - spent, abs=1e-3)
    assert statement.budget.year_left == pytest.approx(12.0 - spent, abs=1e-3)
    assert 0 < spent < 4
