"""A rehearsal changes nothing, finds every reason to refuse, and says to the byte what would leave."""

from __future__ import annotations

import io
import math
from datetime import timedelta
from pathlib import Path

import pytest
from consortium import POLICY, Consortium
from rich.console import Console

from bank_node.policy import RefusalReason
from bank_node.rehearsal import Rehearsal, rehearse
from bank_node.rehearsal_text import tell
from mintmark.envelope import generate_signer
from mintmark.mailbox import plan_key, update_key
from mintmark.plan import RoundPlan


@pytest.fixture(params=[False, True], ids=["silent", "states-its-budget"])
def consortium(tmp_path: Path, request: pytest.FixtureRequest) -> Consortium:
    said = f"state_budget = {str(request.param).lower()}"
    return Consortium(tmp_path, sizes=(300, 200, 200), policy=POLICY.replace("state_budget = false", said))


def rehearsed(consortium: Consortium, plan: RoundPlan, name: str = "bank-0") -> Rehearsal:
    """The rehearsal, and proof that it left the bank and the mailbox as they were."""
    home = consortium.banks[name].home

    def state() -> tuple[object, ...]:
        ledger = home.ledger.read_bytes() if home.ledger.exists() else b""
        return ledger, sorted(home.outbox.iterdir()), dict(consortium.store._objects)

    before = state()
    with consortium.ledger(name) as ledger:
        key = plan_key(plan.campaign.name, plan.round, plan.attempt)
        outcome = rehearse(consortium.banks[name], ledger, key, consortium.now)
    assert state() == before
    return outcome


def told(rehearsal: Rehearsal) -> str:
    console = Console(file=io.StringIO(), width=120)
    tell(console, rehearsal)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("rounds_before", [0, 1, 2, 3])
def test_what_is_announced_is_what_leaves(consortium: Consortium, rounds_before: int) -> None:
    """In every kind of round the announced size, statement and cost are those of the answer that follows."""
    model = consortium.run(consortium.campaign(rounds=3), rounds_before)
    plan = consortium.plan(model)
    rehearsal = rehearsed(consortium, plan)
    assert rehearsal.refused == ()
    assert rehearsal.outgoing is not None
    consortium.answer("bank-0", plan)
    message = consortium.store.get(update_key("bank-0", "cards", plan.round, 0), max_bytes=10**7)
    assert message is not None
    assert len(message) == rehearsal.outgoing.message_bytes
    assert rehearsal.outgoing.statement.canonical_bytes() in message
    with consortium.ledger("bank-0") as ledger:
        entry = ledger.entries[-1]
        own_terms = rehearsal.budget[0]
        assert own_terms.after == ledger.epsilon(delta=1e-6)
        assert rehearsal.mu == pytest.approx(math.sqrt(sum(r.mu_squared for r in ledger.releases())))
    assert entry.coordinates == rehearsal.outgoing.numbers
    assert f"{len(message):,} bytes" in told(rehearsal)


def test_what_was_answered_costs_nothing_again(consortium: Consortium) -> None:
    """After the answer, a rehearsal of the same plan says that the same numbers would be sent at no cost."""
    plan = consortium.plan(consortium.campaign())
    consortium.answer("bank-0", plan)
    rehearsal = rehearsed(consortium, plan)
    assert rehearsal.answered
    assert rehearsal.budget == ()
    assert rehearsal.refused == ()
    assert "no further cost" in told(rehearsal)


def test_all_reasons_are_found_at_once(consortium: Consortium) -> None:
    """A closed round of too dear a campaign: both reasons are told, with what would have left."""
    plan = consortium.plan(consortium.campaign(epsilon=8.0))
    consortium.now += timedelta(hours=1)
    rehearsal = rehearsed(consortium, plan)
    reasons = [refusal.reason for refusal in rehearsal.refused]
    assert reasons == [RefusalReason.NOT_OPEN, RefusalReason.OVER_CAMPAIGN_BUDGET]
    assert rehearsal.outgoing is not None
    assert "nothing would leave" in told(rehearsal)


@pytest.mark.parametrize("forged", [True, False])
def test_plans_that_cannot_be_read(consortium: Consortium, forged: bool) -> None:
    """A forged plan, and one that asks for sums without noise: refused, and told without a traceback."""
    plan = consortium.plan(consortium.campaign(epsilon=None if not forged else 4.0))
    if forged:
        message = plan.signed(generate_signer())
        consortium.store._objects[plan_key("cards", 0, 0)] = message
    rehearsal = rehearsed(consortium, plan)
    expected = RefusalReason.NOT_AUTHENTIC if forged else RefusalReason.OVER_CAMPAIGN_BUDGET
    assert [refusal.reason for refusal in rehearsal.refused] == [expected]
    assert "refused" in told(rehearsal)


def test_no_value_of_a_row_is_told(consortium: Consortium) -> None:
    """The text counts rows and customers, which stays in the bank; no amount and no card stands in it."""
    text = told(rehearsed(consortium, consortium.plan(consortium.campaign())))
    columns = consortium.columns["bank-0"]
    assert f"{int((~columns['test']).sum()):,} rows" in text
    assert not any(f"{value:.2f}" in text for value in columns["amount"])


def test_best_guess_is_the_gaussian_trade_offs() -> None:
    """Half of what is right and half of what is wrong at the best threshold between two Gaussians mu apart."""
    from scipy.stats import norm

    for mu in (0.1, 0.88, 2.0):
        threshold = mu / 2
        right = 0.5 * norm.cdf(threshold) + 0.5 * norm.sf(threshold, loc=mu)
        assert Rehearsal(None, (), mu=mu).best_guess == pytest.approx(right)
