"""What operators see and fill in: the form's bounds, the names of scheduled campaigns, and status told from the mailbox."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from consortium import POLICY, Consortium
from prefect import tags
from prefect.context import TagsContext
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.campaign import run_campaign
from flows.campaign_form import campaign_name
from flows.deployments import cron
from mintmark.envelope import generate_signer
from mintmark.errors import DataError, ProtocolError, QuorumError
from mintmark.mailbox import update_key
from mintmark.plan import MAX_EPSILON
from tasks.artifacts import artifacts_of, bank_row, round_row, sentence
from tasks.records import privacy_statement, read_rounds
from tasks.status import StatusReader, as_json, campaign_names
from tasks.telling import events_of, told_in_prefect

SCHEMA = parameter_schema(run_campaign.fn).model_dump()


def filled(**values: Any) -> None:
    """Check what was filled in as Prefect's server does. Raises `ValidationError`."""
    validate(values, SCHEMA, raise_on_error=True)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("epsilon", MAX_EPSILON + 0.1, "maximum"),
        ("epsilon", 0, "minimum"),
        ("rounds", 2, "minimum"),
        ("campaign", "Spaces and Capitals", "match"),
        ("learner", "subprocess.getoutput", "guided_boosting"),
        ("expert", {"deadline_s": 0}, "minimum"),
        ("expert", {"delta": 0.5}, "maximum"),
        ("expert", {"command": "rm"}, "command"),
    ],
)
def test_form_refuses_with_a_reason(field: str, value: Any, reason: str) -> None:
    """Whatever is out of bounds or unknown is refused before anything runs, and the message names the bound."""
    with pytest.raises(ValidationError, match=reason):
        filled(**{field: value})


def test_form_needs_nothing_and_explains_everything() -> None:
    """Every field has a default and a description, the top level six fields at most, and nothing is asked twice."""
    filled()
    filled(campaign="cards-2026-w14", epsilon=1, expert={"deadline_s": 60, "liars": 0})
    expert = SCHEMA["definitions"]["ExpertTerms"]["properties"]
    assert SCHEMA["required"] == [] and len(SCHEMA["properties"]) <= 6
    for name, field in (SCHEMA["properties"] | expert).items():
        assert field["description"] and "default" in field, name


def test_each_scheduled_run_is_a_campaign_of_its_own() -> None:
    """Without a name it is the time in UTC, whatever zone Prefect tells it in; a name that was given stays."""
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)
    name = campaign_name("", noon)
    assert name == campaign_name("", noon.astimezone(timezone(timedelta(hours=5))))
    assert name != campaign_name("", noon + timedelta(seconds=1))
    filled(campaign=name)
    assert campaign_name("cards", noon) == "cards"


def test_cron_that_is_none_is_refused() -> None:
    """One sentence with an example."""
    with pytest.raises(DataError, match="expected a cron expression such as '0 6"):
        cron("every Monday")


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Three banks that state their budgets, one round settled by all, and the next open with one answer of three."""
    said = POLICY.replace("state_budget = false", "state_budget = true").replace(
        "smallest_cohort = 3", "smallest_cohort = 2"
    )
    consortium = Consortium(tmp_path, sizes=(300, 200, 200), policy=said)
    consortium.model = consortium.run(consortium.campaign(quorum=2), 1)  # type: ignore[attr-defined]
    consortium.next = consortium.plan(consortium.model)  # type: ignore[attr-defined]
    consortium.answer("bank-1", consortium.next)  # type: ignore[attr-defined]
    return consortium


def read(consortium: Consortium) -> Any:
    status = StatusReader(consortium.coordinator, "cards").read()
    assert status is not None
    return status


def test_status_of_an_open_round(consortium: Consortium) -> None:
    """Who answered, who is waited for, what it has cost each bank so far by its own ledger, and what it says is left."""
    status = read(consortium)
    assert (status.stage, status.closed, len(status.rounds)) == ("open", 1, 2)
    assert [bank.last for bank in status.banks] == ["accepted, now waiting", "answered", "accepted, now waiting"]
    assert "waiting for bank-0, bank-2" in sentence(status.rounds[-1])
    for bank in status.banks:
        with consortium.ledger(bank.bank) as ledger:
            spent = ledger.epsilon(delta=1e-6, campaign="cards")
        assert bank.spent == pytest.approx(spent, rel=1e-3)
        assert bank.budget.campaign_left == pytest.approx(4 - spent, abs=2e-3)
    assert campaign_names(consortium.coordinator) == ("cards",)


def test_mlflow_keeps_what_banks_say_they_have_left(consortium: Consortium) -> None:
    """The privacy statement beside the model holds each bank's own word, as its ledger has it, and the planned price."""
    campaign = consortium.next.campaign  # type: ignore[attr-defined]
    told = privacy_statement(consortium.coordinator, campaign, read_rounds(consortium.coordinator, "cards"))
    assert told["epsilon_by_bank_as_planned"] == dict.fromkeys(campaign.cohort, 4.0)
    left = told["left_as_the_bank_states_it"]
    assert isinstance(left, dict) and set(left) == {"bank-0", "bank-1", "bank-2"}
    with consortium.ledger("bank-0") as ledger:  # it has answered the first round only
        spent = ledger.epsilon(delta=1e-6, campaign="cards")
    assert left["bank-0"]["campaign_left"] == pytest.approx(4 - spent, abs=2e-3)


def test_status_names_the_late_and_the_rejected(consortium: Consortium) -> None:
    """An attempt that failed closes nothing; in the next a bank that sends garbage is told rejected, and why."""
    consortium.answer("bank-0", consortium.next)  # type: ignore[attr-defined]
    del consortium.store._objects[update_key("bank-1", "cards", 1, 0)]
    with pytest.raises(QuorumError, match="no answer from bank-1, bank-2"):
        consortium.settle(consortium.next)  # type: ignore[attr-defined]
    again = consortium.plan(consortium.model, attempt=1)  # type: ignore[attr-defined]
    assert round_row(read(consortium).rounds[1])["in it"] != "2 of 3"
    for bank in ("bank-0", "bank-1"):
        consortium.answer(bank, again)
    consortium.store._objects[update_key("bank-2", "cards", 1, 1)] = b"garbage"
    consortium.settle(again)
    status = read(consortium)
    assert status.banks[2].last == "rejected: not authentic"
    assert status.banks[2].budget is None  # its newest word is not its own
    row = round_row(status.rounds[1])
    assert (row["in it"], row["not in it"]) == ("2 of 3", "bank-2 rejected: not authentic")


def test_status_believes_the_coordinator_only(consortium: Consortium) -> None:
    """A mailbox with plans of somebody else's key is refused, not told."""
    forged = replace(consortium.coordinator, signer=generate_signer())
    with pytest.raises(ProtocolError):
        StatusReader(forged, "cards").read()
    assert StatusReader(consortium.coordinator, "nothing").read() is None


def test_artifacts_tell_the_same(consortium: Consortium) -> None:
    """Tables, progress and pictures hold the status's figures in the forms that Prefect shows, under keys that it takes."""
    status = read(consortium)
    artifacts = {artifact.key: artifact for artifact in artifacts_of(status, pictures=True)}
    assert set(artifacts) == {
        f"cards-{name}" for name in ("summary", "banks", "rounds", "round-00", "round-01", "shares", "suspicion")
    }
    assert json.loads(str(artifacts["cards-banks"].data)) == [bank_row(bank) for bank in status.banks]
    assert (artifacts["cards-round-00"].data, artifacts["cards-round-01"].data) == (
        100.0,
        pytest.approx(95 / 3, abs=0.1),
    )
    head, _, picture = str(artifacts["cards-shares"].data).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(picture).startswith(b"\x89PNG") and len(picture) < 100_000
    told = json.loads(json.dumps(as_json(status)))
    assert told["rounds"][0]["accepted"] == ["bank-0", "bank-1", "bank-2"]
    assert told["rounds"][1]["waiting"] == ["bank-0", "bank-2"]
    names = [name for name, _, _ in events_of(status)]
    assert names == [
        "mintmark.round.opened",
        "mintmark.round.answered",
        "mintmark.round.closed",
        "mintmark.round.opened",
    ]


def test_outside_a_flow_run_nothing_is_told(consortium: Consortium) -> None:
    """The context does nothing where there is no run to tell in."""
    with told_in_prefect(consortium.coordinator, "cards"):
        pass


def test_a_rounds_tasks_bear_no_tags(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every tag of a task Prefect asks its server for a slot, and the campaign would fail when it is away just then."""
    module = importlib.import_module("flows.federated_round")
    seen: list[set[str]] = []

    def dispatch(*_: object) -> None:
        seen.append(TagsContext.get().current_tags)
        raise QuorumError("far enough")

    monkeypatch.setattr(module, "open_coordinator", lambda _: consortium.coordinator)
    monkeypatch.setattr(module, "dispatch_plan", dispatch)
    monkeypatch.setattr(module, "home_from", lambda _: Path())
    with tags("mintmark", "campaign:cards"), pytest.raises(QuorumError, match="far enough"):
        asyncio.run(module.federated_round.fn("cards", 0, "ab" * 32))
    assert seen == [set()]
