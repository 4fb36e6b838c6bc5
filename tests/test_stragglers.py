"""Quorum, deadline and the slow: a round never hangs, drops nobody in silence, and fails with who is missing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from consortium import Consortium

from mintmark import mailbox
from mintmark.errors import ProtocolError, QuorumError, StorageError
from mintmark.mailbox import MemoryStore
from mintmark.patience import ROUNDS, Pace, patience
from mintmark.plan import RoundPlan
from mintmark.round import Manifest
from tasks.aggregation import read_manifest, settle_round
from tasks.collect import REMIND_S, wait_for_updates
from tasks.coordinator import publish_roster
from tasks.dispatch import cohort_of
from tasks.progress import CampaignWatch

BANKS = ("bank-0", "bank-1", "bank-2", "bank-3")


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Bank-0 holds two thirds of the weight."""
    return Consortium(tmp_path, sizes=(800, 200, 100, 100))


class Clock:
    """A clock that moves when somebody pauses, and what happens when."""

    def __init__(self, start: datetime, events: dict[float, Callable[[], None]]) -> None:
        self.start, self.elapsed, self._events = start, 0.0, dict(events)

    def now(self) -> datetime:
        for at in [at for at in self._events if at <= self.elapsed]:
            self._events.pop(at)()
        return self.start + timedelta(seconds=self.elapsed)

    def pause(self, _: float) -> None:
        self.elapsed += 1.0


def collect(
    consortium: Consortium, plan: RoundPlan, answers: dict[str, float], reminded: list[tuple[str, ...]] | None = None
) -> tuple[dict[str, float], float]:
    """Who was seen when, and how long the round was waited for, when the banks answer after so many seconds."""

    def event(bank: str) -> Callable[[], None]:
        return lambda: consortium.answer(bank, plan)

    clock = Clock(plan.opens_at, {at + n / 1000: event(bank) for n, (bank, at) in enumerate(answers.items())})
    remind = (lambda missing: reminded.append(tuple(missing))) if reminded is not None else (lambda _: None)
    seen = wait_for_updates(consortium.coordinator, plan, clock.now, clock.pause, remind)
    return seen, clock.elapsed


def settled(consortium: Consortium, plan: RoundPlan, answers: dict[str, float]) -> tuple[str, float, Manifest]:
    seen, waited = collect(consortium, plan, answers)
    model = settle_round(consortium.coordinator, plan, seen, plan.opens_at + timedelta(seconds=waited))
    consortium.now += timedelta(seconds=waited + 1)
    record = read_manifest(consortium.coordinator, plan)
    assert record is not None
    return model, waited, record


def test_a_slow_bank_is_waited_for_and_a_dead_one_not_for_long(consortium: Consortium) -> None:
    """The first round waits to its end; later ones as long as the signed record says banks need; a lost update is told."""
    fast = dict.fromkeys(BANKS[:3], 2.0)
    model, waited, record = settled(consortium, consortium.plan(consortium.campaign(rounds=6)), fast | {"bank-3": 40.0})
    assert (waited, record.late) == (41.0, ())
    assert record.accepted[3].seconds == 41.0
    second = consortium.plan(model, deadline_s=600)
    model, waited, record = settled(consortium, second, fast)
    assert (waited, record.late, record.lost) == (92.0, ("bank-3",), ())  # twice 41 and ten
    consortium.answer("bank-3", second)  # after its round had closed
    model, waited, record = settled(consortium, consortium.plan(model, deadline_s=600), fast)
    assert (record.late, record.lost) == (("bank-3",), ("bank-3",))
    _, waited, record = settled(consortium, consortium.plan(model, deadline_s=300), fast)
    assert waited == 300.0  # it was alive in the round before: it is given the whole round


def test_patience_forgets() -> None:
    """A pace older than five attempts does not count, and who is not known at all is waited for to the end."""
    old, new = Pace({"a": 50.0, "b": 1.0}, ()), Pace({"a": 1.0}, ())
    assert patience(("a", "b"), [old, *[new] * (ROUNDS - 1)]) == {"a": 110.0, "b": 12.0}
    assert patience(("a", "b"), [old, *[new] * ROUNDS]) == {"a": 12.0, "b": 12.0}
    assert patience(("a",), []) == {"a": float("inf")}


def test_the_missing_are_reminded(consortium: Consortium) -> None:
    """While it waits the coordinator looks after the bells of those who are missing, and of nobody else."""
    reminded: list[tuple[str, ...]] = []
    plan = consortium.plan(consortium.campaign())
    collect(consortium, plan, {"bank-0": 0.0, "bank-1": REMIND_S + 1}, reminded)
    assert reminded == [("bank-1", "bank-2", "bank-3"), ("bank-2", "bank-3"), ("bank-2", "bank-3")]


def test_quorum_by_weight(consortium: Consortium) -> None:
    """Three banks of four are no quorum when the fourth holds most of the rows, and the error says the shares."""
    plan = consortium.plan(consortium.campaign(quorum=3, quorum_share=0.5))
    seen, waited = collect(consortium, plan, dict.fromkeys(BANKS[1:], 1.0))
    assert waited == 60.0
    with pytest.raises(QuorumError, match=r"50% of the cohort's weight, got 33\.3%; no answer from bank-0"):
        settle_round(consortium.coordinator, plan, seen, plan.closes_at)


def test_another_attempt_asks_the_same_and_costs_nothing(consortium: Consortium) -> None:
    """After a failed quorum the next attempt counts what was drawn for the first, charges nobody, and chains its record."""
    first = consortium.plan(consortium.campaign(quorum=4))
    seen, _ = collect(consortium, first, dict.fromkeys(BANKS[:2], 1.0))
    with pytest.raises(QuorumError):
        settle_round(consortium.coordinator, first, seen, first.closes_at)
    consortium.now = first.closes_at
    second = consortium.plan(first.model_digest, attempt=1)
    _, _, record = settled(consortium, second, dict.fromkeys(BANKS, 1.0))
    assert record.settled and len(record.accepted) == 4
    for bank in BANKS[:2]:
        assert consortium.sums_sent(bank, first) == consortium.sums_sent(bank, second)
    for bank in BANKS:
        with consortium.ledger(bank) as ledger:
            assert [entry.kind for entry in ledger.entries] == ["charge", "drawn"]
    watch = CampaignWatch(consortium.store, "cards", BANKS, consortium.coordinator.signer.public_key)
    assert [(one.round, one.answered, one.manifest) for one in watch.rounds()] == [(0, BANKS, record)]
    failed = read_manifest(consortium.coordinator, first)
    assert failed is not None and not failed.settled


def test_two_coordinators_close_a_round_alike(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes the record second takes the first one's: another has answered by then, and the model is the same."""
    plan = consortium.plan(consortium.campaign())
    for bank in BANKS[:3]:
        consortium.answer(bank, plan)
    put, models = consortium.store.put_once, list[str]()

    def overtaken(key: str, data: bytes) -> bool:
        if key == mailbox.manifest_key("cards", 0, 0) and not models:
            models.append("")
            consortium.answer("bank-3", plan)
            seen = dict.fromkeys(BANKS, 3.0)
            models[0] = settle_round(consortium.coordinator, plan, seen, plan.closes_at)
        return put(key, data)

    monkeypatch.setattr(consortium.store, "put_once", overtaken)
    assert settle_round(consortium.coordinator, plan, dict.fromkeys(BANKS[:3], 2.0), plan.closes_at) == models[0]
    record = read_manifest(consortium.coordinator, plan)
    assert record is not None and len(record.accepted) == 4


def test_two_coordinators_plan_a_round_alike(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who publishes the plan second works with the first one's."""
    model, put, plans = consortium.campaign(), consortium.store.put_once, list[RoundPlan]()

    def overtaken(key: str, data: bytes) -> bool:
        monkeypatch.setattr(consortium.store, "put_once", put)
        plans.append(consortium.plan(model, deadline_s=1.0))
        return put(key, data)

    monkeypatch.setattr(consortium.store, "put_once", overtaken)
    assert [consortium.plan(model, deadline_s=9.0)] == plans


def test_other_terms_under_the_same_name_are_refused(consortium: Consortium) -> None:
    """The error says which terms differ and what to do."""
    consortium.plan(consortium.campaign(epsilon=4.0))
    with pytest.raises(ProtocolError, match=r"began under other terms: privacy .*'epsilon': 4\.0.*choose a new name"):
        consortium.plan(consortium.campaign(epsilon=2.0))


def test_a_campaign_keeps_its_cohort(consortium: Consortium) -> None:
    """A bank that joins while a campaign runs does not make it another campaign."""
    assert cohort_of(consortium.coordinator, "cards", consortium.now) == BANKS
    consortium.plan(consortium.campaign())
    publish_roster(consortium.coordinator, consortium.roster.members[:3])
    assert cohort_of(consortium.coordinator, "cards", consortium.now) == BANKS
    assert cohort_of(consortium.coordinator, "another", consortium.now) == BANKS[:3]


class Flaky(MemoryStore):
    """A store whose listings fail for a while."""

    def __init__(self, objects: dict[str, bytes], failures: int) -> None:
        super().__init__()
        self._objects, self.failures = objects, failures

    def list(self, prefix: str) -> list[str]:
        if prefix.startswith("from/") and self.failures:
            self.failures -= 1
            raise StorageError("503")
        return super().list(prefix)


def test_a_store_that_is_away_does_not_end_the_wait(consortium: Consortium) -> None:
    """Updates that came while the store could not be read are seen when it is back; at closing time it is an error."""
    plan = consortium.plan(consortium.campaign())
    store = Flaky(consortium.store._objects, failures=20)
    object.__setattr__(consortium.coordinator, "store", store)
    seen, _ = collect(consortium, plan, dict.fromkeys(BANKS, 1.0))
    assert sorted(seen) == list(BANKS)
    store.failures = 1000
    with pytest.raises(StorageError):
        collect(consortium, plan, {})
