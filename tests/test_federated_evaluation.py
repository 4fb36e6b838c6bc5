"""From the banks' rows to the signed record: groups, weeks, money, and banks whose rows are not of the days agreed on."""

from __future__ import annotations

import dataclasses
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from consortium import SCHEMA, Consortium, payments

from bank_node.policy import RefusalReason
from mintmark import mailbox
from mintmark.evaluation_record import MAX_EVALUATION_BYTES, EvaluationRecord
from mintmark.messages import ModelArtifact
from mintmark.plan import HeldOutWindow
from tasks.evaluation import evaluate_scores

AMOUNT, HOUR, PAYMENTS = SCHEMA.features
ALL = dataclasses.replace(
    SCHEMA,
    features=(AMOUNT, dataclasses.replace(HOUR, fairness=True, fairness_edges=(6.0,)), PAYMENTS),
    value="amount",
    value_limit=500.0,
    time="day",
)
WINDOW = HeldOutWindow(trained_from=date(2026, 1, 5), first_day=date(2026, 3, 2), weeks=2)
FIGURES = {"hour=missing", "hour=up to 6", "hour=over 6"}


def by_day(number: int, rows: int) -> dict[str, np.ndarray]:
    """Payments whose held-out rows are of the two weeks after the training rows."""
    columns = payments(rows, seed=number, prefix=number * 10**6)
    days = np.random.default_rng(number).integers(0, 14, rows)
    day = np.where(columns["test"], np.datetime64("2026-03-02"), np.datetime64("2026-02-01")) + days
    return columns | {"day": day}


def start(consortium: Consortium, window: HeldOutWindow) -> str:
    """Publish the first model of a campaign with data windows."""
    model = consortium.campaign()
    terms = consortium.coordinator.model("cards", model).campaign
    return consortium.coordinator.publish_model(ModelArtifact(terms.model_copy(update={"held_out": window})))


def test_a_record_tells_of_groups_weeks_and_banks(tmp_path: Path) -> None:
    """Every bank, group and week has its figures; the record in the mailbox is the coordinator's; updates have one size."""
    consortium = Consortium(tmp_path, sizes=(2500, 1500, 900), data=by_day, schema=ALL)
    settings = consortium.coordinator.settings.model_copy(update={"alerts_per_day": 20})
    coordinator = dataclasses.replace(consortium.coordinator, settings=settings)
    model = consortium.run(start(consortium, WINDOW), 4)
    record = evaluate_scores(coordinator, "cards", model)

    message = consortium.store.get(mailbox.evaluation_key("cards"), max_bytes=MAX_EVALUATION_BYTES) or b""
    assert EvaluationRecord.read(message, coordinator.signer.public_key) == record
    assert set(record.banks) == set(consortium.banks)
    assert set(record.groups) <= FIGURES and {"hour=up to 6", "hour=over 6"} <= set(record.groups)
    assert list(record.weeks) == ["2026-w10", "2026-w11"]
    assert record.alerts_per_day == 20
    if record.pooled.positives.value:  # so few rows that noise may leave none
        assert record.pooled.recall_at_alerts.value is not None
    sent = [key for key in consortium.store.list("from/") if key.endswith("0003-00")]
    assert len({len(consortium.store.get(key, max_bytes=10**6) or b"") for key in sent}) == 1
    assert max(len(consortium.store.get(key, max_bytes=10**6) or b"") for key in sent) < 20_000


@pytest.mark.parametrize(
    ("first_day", "rounds"),
    [(date(2026, 2, 10), 0), (date(2026, 3, 9), 3)],
    ids=["training too late", "test too early"],
)
def test_rows_outside_the_window_are_no_answer(tmp_path: Path, first_day: date, rounds: int) -> None:
    """A bank that trained on held-out days does not answer, nor one whose held-out rows are of training days."""
    consortium = Consortium(tmp_path, sizes=(500, 400, 300), data=by_day, schema=ALL)
    model = consortium.run(start(consortium, WINDOW.model_copy(update={"first_day": first_day})), rounds)
    plan = consortium.plan(model)
    assert {consortium.refusal(name, plan) for name in consortium.banks} == {RefusalReason.NO_DATA}
    with consortium.ledger("bank-0") as ledger:
        assert len({entry.round for entry in ledger.entries}) == rounds
