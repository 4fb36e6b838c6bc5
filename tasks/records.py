"""A campaign's signed records, as they lie in the mailbox: what runs in MLflow, lineage and evidence are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mintmark import mailbox
from mintmark.aggregation.report import MAX_REPORT_BYTES, REPORT_TYPE, AggregationReport
from mintmark.canonical import digest
from mintmark.envelope import SIGNATURE_BYTES, verify
from mintmark.errors import ProtocolError, TooLargeError
from mintmark.evaluation_record import EvaluationRecord
from mintmark.messages import MAX_COORDINATES, BudgetStatement, open_update_frame
from mintmark.plan import MAX_PLAN_BYTES, PLAN_TYPE, Campaign, RoundPlan
from mintmark.round import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Manifest
from tasks.coordinator import Coordinator

MAX_STATED_BYTES = 4 * 2**20  # an update longer than this is not opened for what it states; today's have 20 kB


@dataclass(frozen=True, eq=False)
class RoundRecord:
    """The signed objects of one settled round: `messages` by name, as they lie in the mailbox."""

    plan: RoundPlan
    manifest: Manifest
    report: AggregationReport
    messages: dict[str, tuple[str, bytes]]  # name -> (type, message)


def read_rounds(coordinator: Coordinator, campaign: str) -> list[RoundRecord]:
    """All settled rounds of a campaign, oldest first, the newest attempt of each. Raises `ProtocolError`."""
    newest: dict[str, str] = {}
    for key in coordinator.store.list(f"public/campaigns/{campaign}/reports/"):
        name = key.rpartition("/")[2]
        newest[name.partition("-")[0]] = name
    return [_read_round(coordinator, campaign, *map(int, name.split("-"))) for name in newest.values()]


def settled_model(coordinator: Coordinator, campaign: str) -> str:
    """The digest of a campaign's model after all its rounds. Raises `ProtocolError` when they are not all settled."""
    prefix = mailbox.model_key(campaign, "")
    for key in coordinator.store.list(prefix):
        artifact = coordinator.model(campaign, name := key.removeprefix(prefix))
        if len(artifact.history) == artifact.campaign.rounds + 1:
            return name
    raise ProtocolError(f"campaign {campaign}: expected all its rounds to be settled, found no such model")


def _read_round(coordinator: Coordinator, campaign: str, round: int, attempt: int) -> RoundRecord:
    trusted = coordinator.signer.public_key

    def read(key: str, limit: int) -> bytes:
        return mailbox.get_required(coordinator.store, key, max_bytes=limit)

    plan = read(mailbox.plan_key(campaign, round, attempt), MAX_PLAN_BYTES)
    manifest = read(mailbox.manifest_key(campaign, round, attempt), MAX_MANIFEST_BYTES)
    report = read(mailbox.report_key(campaign, round, attempt), MAX_REPORT_BYTES)
    return RoundRecord(
        RoundPlan.read(plan, trusted),
        Manifest.read(manifest, trusted),
        AggregationReport.read(report, trusted),
        {"plan": (PLAN_TYPE, plan), "manifest": (MANIFEST_TYPE, manifest), "report": (REPORT_TYPE, report)},
    )


def lineage(record: EvaluationRecord, rounds: Sequence[RoundRecord]) -> dict[str, object]:
    """From which updates the model follows, round by round, by the digests that signed manifests name."""
    return {
        "model_digest": record.model_digest,
        "rounds": [
            {
                "round": each.plan.round,
                "plan_digest": each.plan.digest(),
                "manifest_digest": digest(each.messages["manifest"][1]),
                "model_before": each.plan.model_digest,
                "updates": {update.bank: update.message_digest for update in each.manifest.accepted},
            }
            for each in rounds
        ],
    }


def privacy_statement(coordinator: Coordinator, campaign: Campaign, rounds: Sequence[RoundRecord]) -> dict[str, object]:
    """What the campaign costs a bank's customers, as the signed plans state it, and what each bank says it has left."""
    accepted = {bank: [each.plan for each in rounds if bank in _banks(each)] for bank in campaign.cohort}
    stated = {bank: stated_budget(coordinator, bank, plans[-1]) for bank, plans in accepted.items() if plans}
    return {
        "unit": campaign.privacy.unit,
        "delta": campaign.privacy.delta,
        "epsilon_by_bank_as_planned": dict.fromkeys(campaign.cohort, campaign.privacy.epsilon),
        "rounds_accepted_by_bank": {bank: len(plans) for bank, plans in accepted.items()},
        "left_as_the_bank_states_it": {bank: budget.model_dump() for bank, budget in stated.items() if budget},
        "basis": "planned: the price when a bank answers every round; left: its own word, in its last accepted update",
    }


def stated_budget(coordinator: Coordinator, bank: str, plan: RoundPlan) -> BudgetStatement | None:
    """What the bank's answer to `plan` says of its budget, if it is the bank's and says anything. Raises `StorageError`."""
    key = mailbox.update_key(bank, plan.campaign.name, plan.round, plan.attempt)
    try:
        member = coordinator.roster_at(plan.roster_version).member(bank, plan.opens_at)
        message = mailbox.get_required(coordinator.store, key, max_bytes=MAX_STATED_BYTES)
        statement, _ = open_update_frame(message, bytes.fromhex(member.signing_key), MAX_COORDINATES)
    except (ProtocolError, TooLargeError):
        return None  # the round's report says what is wrong with it
    return statement.budget if statement.plan_digest == plan.digest() and statement.bank == bank else None


def _banks(record: RoundRecord) -> set[str]:
    return {update.bank for update in record.manifest.accepted}


def signed_json(coordinator: Coordinator, kind: str, message: bytes) -> str:
    """A signed message as JSON that people can read and programs can verify: the payload's bytes are canonical."""
    payload = verify(message, kind, coordinator.signer.public_key, max_bytes=len(message))
    whole = {"type": kind, "payload": json.loads(payload), "signature": message[-SIGNATURE_BYTES:].hex()}
    return json.dumps(whole, indent=1)
