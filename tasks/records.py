"""A campaign's signed records, as they lie in the mailbox: what runs in MLflow, lineage and evidence are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mintmark import mailbox
from mintmark.aggregation.report import MAX_REPORT_BYTES, REPORT_TYPE, AggregationReport
from mintmark.canonical import digest
from mintmark.envelope import SIGNATURE_BYTES, verify
from mintmark.errors import ProtocolError
from mintmark.evaluation_record import EvaluationRecord
from mintmark.plan import MAX_PLAN_BYTES, Campaign, RoundPlan
from mintmark.round import MANIFEST_TYPE, MAX_MANIFEST_BYTES, PLAN_TYPE, Manifest
from tasks.coordinator import Coordinator


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
    payload = verify(plan, PLAN_TYPE, trusted, max_bytes=MAX_PLAN_BYTES)
    return RoundRecord(
        RoundPlan.from_bytes(payload, max_bytes=MAX_PLAN_BYTES),
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


def privacy_statement(campaign: Campaign, rounds: Sequence[RoundRecord]) -> dict[str, object]:
    """What the campaign costs a bank's customers, as the signed plans state it; a bank's own ledger has its real cost."""
    return {
        "unit": campaign.privacy.unit,
        "delta": campaign.privacy.delta,
        "epsilon_by_bank_as_planned": dict.fromkeys(campaign.cohort, campaign.privacy.epsilon),
        "rounds_accepted_by_bank": {
            bank: sum(bank in {update.bank for update in each.manifest.accepted} for each in rounds)
            for bank in campaign.cohort
        },
        "basis": "the campaign's price when a bank answers every round; no bank states its ledger here",
    }


def signed_json(coordinator: Coordinator, kind: str, message: bytes) -> str:
    """A signed message as JSON that people can read and programs can verify: the payload's bytes are canonical."""
    payload = verify(message, kind, coordinator.signer.public_key, max_bytes=len(message))
    whole = {"type": kind, "payload": json.loads(payload), "signature": message[-SIGNATURE_BYTES:].hex()}
    return json.dumps(whole, indent=1)
