"""Steps 8 and 9: accept or reject each update, sign who was in the round, and settle it into the next model."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from mintmark import mailbox
from mintmark.aggregation.report import MAX_REPORT_BYTES, AggregationReport, last_suspicion
from mintmark.campaign import learner_of, replay, shape_of
from mintmark.canonical import digest
from mintmark.errors import ProtocolError, TooLargeError
from mintmark.mailbox import ObjectStore
from mintmark.messages import ModelArtifact, max_update_bytes
from mintmark.plan import MAX_ROUNDS, RoundPlan
from mintmark.privacy.ledger import GENESIS
from mintmark.round import MAX_MANIFEST_BYTES, AcceptedUpdate, Closed, Manifest, Round, report, settle
from tasks.coordinator import Coordinator


def settle_round(coordinator: Coordinator, plan: RoundPlan, banks: tuple[str, ...], now: datetime) -> str:
    """Judge the updates of `banks`, write the signed manifest, aggregate, publish the model; returns its digest.

    The manifest comes first: a coordinator that is killed and run again aggregates just the updates that it names.
    Raises `AggregationError` when the quorum fails.
    """
    artifact = coordinator.model(plan.campaign.name, plan.model_digest)
    shape = shape_of(learner_of(plan.campaign).query(replay(artifact, coordinator.schema)))
    roster = coordinator.roster_at(plan.roster_version)
    manifest_key = mailbox.manifest_key(plan.campaign.name, plan.round, plan.attempt)
    known = coordinator.store.get(manifest_key, max_bytes=MAX_MANIFEST_BYTES)
    manifest = Manifest.read(known, coordinator.signer.public_key) if known else None
    if manifest is not None:
        banks = tuple(update.bank for update in manifest.accepted)
    round_ = Round(plan, roster, query_shape=shape)
    bound = max_update_bytes(int(np.prod(shape)))
    judged_at = plan.opens_at  # validity is judged at the round's own time, so that a rerun judges alike
    for bank in banks:
        key = mailbox.update_key(bank, plan.campaign.name, plan.round, plan.attempt)
        try:
            message = mailbox.get_required(coordinator.store, key, max_bytes=bound)
        except TooLargeError:
            round_.reject_unread(bank)
        else:
            round_.accept(bank, message, coordinator.sealing_key, judged_at)
    closed = round_.close(screened=manifest is not None)
    if manifest is None:
        written = _manifest(coordinator, plan, closed, now)
        mailbox.put_same(coordinator.store, manifest_key, written.signed(coordinator.signer))
    elif _named(closed) != manifest.accepted:
        raise ProtocolError(f"round {plan.round}: the mailbox's updates are not those that the manifest names")
    else:
        closed = replace(closed, rejected=manifest.rejected, late=manifest.late)
    made = report(plan, roster, closed, suspicion_before(coordinator, plan))
    key = mailbox.report_key(plan.campaign.name, plan.round, plan.attempt)
    mailbox.put_same(coordinator.store, key, made.signed(coordinator.signer))
    total = settle(plan, roster, closed, shape)
    return coordinator.publish_model(ModelArtifact(artifact.campaign, (*artifact.history, total)))


def suspicion_before(coordinator: Coordinator, plan: RoundPlan) -> dict[str, float]:
    """Each bank's suspicion after the rounds before this one."""
    store, key = coordinator.store, coordinator.signer.public_key
    return last_suspicion(read_reports(store, plan.campaign.name, key, plan.round))


def read_reports(
    store: ObjectStore, campaign: str, coordinator_key: bytes, rounds: int = MAX_ROUNDS + 1
) -> list[AggregationReport]:
    """The signed reports of a campaign's first `rounds` rounds, the newest attempt of each."""
    newest: dict[str, str] = {}
    for key in store.list(f"public/campaigns/{campaign}/reports/"):
        newest[key.rpartition("-")[0]] = key
    kept = sorted(newest.values())[:rounds]
    return [
        AggregationReport.read(mailbox.get_required(store, key, max_bytes=MAX_REPORT_BYTES), coordinator_key)
        for key in kept
    ]


def _manifest(coordinator: Coordinator, plan: RoundPlan, closed: Closed, now: datetime) -> Manifest:
    before = coordinator.store.list(f"public/campaigns/{plan.campaign.name}/manifests/")
    newest = coordinator.store.get(before[-1], max_bytes=MAX_MANIFEST_BYTES) if before else None
    return Manifest(
        plan_digest=plan.digest(),
        previous=digest(newest) if newest else GENESIS,
        closed_at=now,
        seconds=(now - plan.opens_at).total_seconds(),
        accepted=_named(closed),
        rejected=closed.rejected,
        late=closed.late,
    )


def _named(closed: Closed) -> tuple[AcceptedUpdate, ...]:
    return tuple(AcceptedUpdate(bank=update.bank, message_digest=update.message_digest) for update in closed.accepted)


aggregate_updates = task(name="aggregate updates", cache_policy=NO_CACHE, persist_result=False)(settle_round)
