"""Steps 8 and 9: accept or reject each update, sign who was in the round, and settle it into the next model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from mintmark import mailbox
from mintmark.aggregation.report import MAX_REPORT_BYTES, AggregationReport, last_suspicion
from mintmark.aggregation.screening import refused_for_content
from mintmark.campaign import learner_of, replay, shape_of
from mintmark.canonical import digest
from mintmark.errors import ProtocolError, TooLargeError
from mintmark.mailbox import ObjectStore
from mintmark.messages import ModelArtifact, max_update_bytes
from mintmark.plan import MAX_ATTEMPTS, MAX_ROUNDS, RoundPlan
from mintmark.privacy.ledger import GENESIS
from mintmark.roster import Roster
from mintmark.round import MAX_MANIFEST_BYTES, AcceptedUpdate, Closed, Manifest, Round, report, settle
from tasks.coordinator import Coordinator
from tasks.retrying import DELAYS_S, worth_retrying


def settle_round(coordinator: Coordinator, plan: RoundPlan, answered: Mapping[str, float], now: datetime) -> str:
    """Judge the updates of the banks that `answered` (after so many seconds), write the signed manifest, aggregate, publish
    the model; returns its digest.

    The manifest comes first and is written once: whoever runs this again, or at the same time, aggregates just the updates
    that it names. Raises `QuorumError` when the quorum fails; then the manifest says so, and only another attempt helps.
    """
    artifact = coordinator.model(plan.campaign.name, plan.model_digest)
    shape = shape_of(learner_of(plan.campaign).query(replay(artifact, coordinator.schema)))
    roster = coordinator.roster_at(plan.roster_version)
    manifest = read_manifest(coordinator, plan)
    earlier = reports_before(coordinator, plan)
    if manifest is None:
        doubted = {bank for told in earlier for bank in refused_for_content(told.rejected)}
        judged = _judge(coordinator, plan, roster, shape, answered).close(doubted=doubted)
        manifest = _write_once(coordinator, plan, _manifest(coordinator, plan, judged, answered, now))
    named = [update.bank for update in manifest.accepted]
    closed = _judge(coordinator, plan, roster, shape, named).close(screened=True)
    if _digests(closed) != {update.bank: update.message_digest for update in manifest.accepted}:
        raise ProtocolError(f"round {plan.round}: the mailbox's updates are not those that the manifest names")
    closed = replace(closed, rejected=manifest.rejected, late=manifest.late)
    closed.check_quorum(plan)
    made = report(plan, roster, closed, last_suspicion(earlier))
    key = mailbox.report_key(plan.campaign.name, plan.round, plan.attempt)
    coordinator.store.put_once(key, made.signed(coordinator.signer))  # the first one stands; no model follows from it
    total = settle(plan, roster, closed, shape)
    return coordinator.publish_model(ModelArtifact(artifact.campaign, (*artifact.history, total)))


def read_manifest(coordinator: Coordinator, plan: RoundPlan) -> Manifest | None:
    """The record of the plan's attempt; None while it is open. Raises `ProtocolError` for another plan's."""
    key = mailbox.manifest_key(plan.campaign.name, plan.round, plan.attempt)
    known = coordinator.store.get(key, max_bytes=MAX_MANIFEST_BYTES)
    if known is None:
        return None
    manifest = Manifest.read(known, coordinator.signer.public_key)
    if manifest.plan_digest != plan.digest():
        raise ProtocolError(f"{key}: expected the record of the plan {plan.digest()}, got one of another")
    return manifest


def read_manifests(coordinator: Coordinator, campaign: str, newest: int) -> list[Manifest]:
    """The records of a campaign's newest closed attempts, oldest first."""
    keys = coordinator.store.list(f"public/campaigns/{campaign}/manifests/")[-newest:]
    read = [mailbox.get_required(coordinator.store, key, max_bytes=MAX_MANIFEST_BYTES) for key in keys]
    return [Manifest.read(message, coordinator.signer.public_key) for message in read]


def _judge(
    coordinator: Coordinator, plan: RoundPlan, roster: Roster, shape: tuple[int, int, int], banks: Iterable[str]
) -> Round:
    """The round, with the messages of these banks judged."""
    round_, bound = Round(plan, roster, query_shape=shape), max_update_bytes(int(np.prod(shape)))
    judged_at = plan.opens_at  # validity is judged at the round's own time, so that a rerun judges alike
    for bank in sorted(banks):
        key = mailbox.update_key(bank, plan.campaign.name, plan.round, plan.attempt)
        try:
            message = mailbox.get_required(coordinator.store, key, max_bytes=bound)
        except TooLargeError:
            round_.reject_unread(bank)
        else:
            round_.accept(bank, message, coordinator.sealing_key, judged_at)
    return round_


def reports_before(coordinator: Coordinator, plan: RoundPlan) -> list[AggregationReport]:
    """What the rounds before this one left: each bank's suspicion, and who was refused."""
    store, key = coordinator.store, coordinator.signer.public_key
    return read_reports(store, plan.campaign.name, key, plan.round)


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


def _manifest(
    coordinator: Coordinator, plan: RoundPlan, closed: Closed, answered: Mapping[str, float], now: datetime
) -> Manifest:
    message, lost = _before(coordinator, plan)
    return Manifest(
        plan_digest=plan.digest(),
        previous=digest(message) if message else GENESIS,
        closed_at=now,
        seconds=max(0.0, (now - plan.opens_at).total_seconds()),
        accepted=tuple(
            AcceptedUpdate(bank=update.bank, message_digest=update.message_digest, seconds=answered[update.bank])
            for update in closed.accepted
        ),
        rejected=closed.rejected,
        late=closed.late,
        settled=not closed.shortfall,
        lost=lost,
    )


def _before(coordinator: Coordinator, plan: RoundPlan) -> tuple[bytes | None, tuple[str, ...]]:
    """The signed record of the attempt before this one, and whose late update has come since the round before closed.

    Looked up key by key: a store's listing may be older than what it holds.
    """
    campaign, store, message = plan.campaign.name, coordinator.store, None
    round_, attempt = (plan.round, plan.attempt - 1) if plan.attempt else (plan.round - 1, MAX_ATTEMPTS - 1)
    for number in range(attempt + 1 if round_ >= 0 else 0):
        found = store.get(mailbox.manifest_key(campaign, round_, number), max_bytes=MAX_MANIFEST_BYTES)
        if found is None:
            break
        message, attempt = found, number
    if message is None or round_ == plan.round:  # a failed attempt's latecomers are asked again
        return message, ()
    late = Manifest.read(message, coordinator.signer.public_key).late
    keys = {bank: mailbox.update_key(bank, campaign, round_, attempt) for bank in late}
    return message, tuple(bank for bank, key in keys.items() if key in store.list(key))


def _write_once(coordinator: Coordinator, plan: RoundPlan, manifest: Manifest) -> Manifest:
    """Write the record, or read the one that somebody else was first to write."""
    key = mailbox.manifest_key(plan.campaign.name, plan.round, plan.attempt)
    if coordinator.store.put_once(key, manifest.signed(coordinator.signer)):
        return manifest
    known = read_manifest(coordinator, plan)
    if known is None:
        raise ProtocolError(f"{key}: expected what refused a second write to be there, got nothing")
    return known


def _digests(closed: Closed) -> dict[str, str]:
    return {update.bank: update.message_digest for update in closed.accepted}


aggregate_updates = task(
    name="aggregate updates",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(DELAYS_S),
    retry_delay_seconds=DELAYS_S,
    retry_condition_fn=worth_retrying,
)(settle_round)
