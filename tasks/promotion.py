"""Promote a challenger, or go back to an earlier champion: ask the gate, record the decision, then publish the champion.

The decision comes first and the champion follows from it, so a kill in between loses nothing: whichever command runs next
publishes what was decided. A decision that would say the same as the one before it is not recorded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mintmark import mailbox
from mintmark.approval import Action, Approvers, Question
from mintmark.campaign import learner_of, replay, shape_of
from mintmark.canonical import digest
from mintmark.champion import Champion, all_champions, newest_champion
from mintmark.decision import MAX_DECISION_BYTES, Counted, PromotionDecision, Thresholds
from mintmark.errors import ProtocolError
from mintmark.evaluation_record import MAX_EVALUATION_BYTES, EvaluationRecord
from mintmark.privacy.accountant import GaussianRelease, epsilon
from mintmark.privacy.ledger import GENESIS
from mintmark.promotion import Case, decide, decide_rollback
from tasks.aggregation import read_reports
from tasks.approvals import counted_approvals
from tasks.coordinator import Coordinator
from tasks.dispatch import read_plans
from tasks.reference import compare_on_reference


@dataclass(frozen=True)
class Outcome:
    """The decision, and the champion that it made; None for a refusal. `new` when this call recorded it."""

    decision: PromotionDecision
    champion: Champion | None
    new: bool


def promote(
    coordinator: Coordinator, campaign: str, limits: Thresholds, approvers: Approvers, now: datetime
) -> Outcome:
    """Put the campaign's model before the gate. Raises `ProtocolError` when it is not evaluated."""
    current = finish(coordinator)
    question = question_on(coordinator, campaign, Action.PROMOTE)
    if current is not None and current.model_digest == question.model:
        return _known(coordinator, current)
    case = _case(coordinator, question, current, counted_approvals(coordinator.store, approvers, question))
    number, previous = _next(coordinator)
    return _record(coordinator, decide(case, limits, number=number, previous=previous, now=now))


def rollback(
    coordinator: Coordinator, to: int | None, reason: str, limits: Thresholds, approvers: Approvers, now: datetime
) -> Outcome:
    """Make an earlier champion the next one. `to` is its number; None is the newest of another model than now.

    Raises `ProtocolError` when there is no such champion.
    """
    current = finish(coordinator)
    decisions = read_decisions(coordinator)
    if (
        to is None
        and current is not None
        and (decisions[-1].champion, decisions[-1].reason) == (current.number, reason)
    ):
        return _known(coordinator, current)  # run again after it was done
    target = earlier_champion(coordinator, to)
    if current is not None and current.model_digest == target.model_digest:
        return _known(coordinator, current)
    question = question_on(coordinator, target.campaign, Action.ROLLBACK)
    number, previous = _next(coordinator)
    counted = counted_approvals(coordinator.store, approvers, question)
    decision = decide_rollback(
        question, target.schema_digest, counted, limits, number=number, previous=previous, reason=reason, now=now
    )
    return _record(coordinator, decision)


def question_on(coordinator: Coordinator, campaign: str, action: Action) -> Question:
    """What people are asked about this campaign's model today. Raises `ProtocolError` when it is not evaluated, or was
    never champion and is to come back."""
    record, message_digest = read_evaluation(coordinator, campaign)
    champions = all_champions(coordinator.store, coordinator.signer.public_key)
    if action is Action.ROLLBACK and record.model_digest not in {one.model_digest for one in champions}:
        raise ProtocolError(f"campaign {campaign}: expected a model that was champion before, got one that never was")
    return Question(
        action=action,
        campaign=campaign,
        model=record.model_digest,
        evaluation=message_digest,
        replaces=champions[-1].number if champions else 0,
    )


def earlier_champion(coordinator: Coordinator, to: int | None) -> Champion:
    """The champion of that number, or the newest of another model than the present one's. Raises `ProtocolError`."""
    champions = all_champions(coordinator.store, coordinator.signer.public_key)
    for one in reversed(champions):
        if one.number == to or (to is None and one.model_digest != champions[-1].model_digest):
            return one
    wanted = f"champion {to}" if to else "an earlier champion of another model"
    raise ProtocolError(f"expected {wanted} in the mailbox, got {len(champions)} champions; see mintmark decisions")


def read_evaluation(coordinator: Coordinator, campaign: str) -> tuple[EvaluationRecord, str]:
    """The campaign's signed evaluation and its digest. Raises `ProtocolError` when there is none or it is another's."""
    key = mailbox.evaluation_key(campaign)
    message = coordinator.store.get(key, max_bytes=MAX_EVALUATION_BYTES)
    if message is None:
        raise ProtocolError(f"campaign {campaign}: expected a signed evaluation at {key}, got none; has it finished?")
    record = EvaluationRecord.read(message, coordinator.signer.public_key)
    if record.campaign != campaign:
        raise ProtocolError(f"{key}: expected the evaluation of {campaign}, got that of {record.campaign}")
    return record, digest(message)


def read_decisions(coordinator: Coordinator) -> tuple[PromotionDecision, ...]:
    """Every decision, oldest first. Raises `ProtocolError` when one is missing, forged or out of its place."""
    return tuple(decision for decision, _ in _chain(coordinator))


def finish(coordinator: Coordinator) -> Champion | None:
    """Publish the champion that was decided last, unless it is; returns the champion in force."""
    for decision, message_digest in reversed(_chain(coordinator)):
        if decision.champion is not None:
            champion = Champion(
                number=decision.champion,
                campaign=decision.question.campaign,
                model_digest=decision.question.model,
                schema_digest=decision.schema_digest,
                decision=message_digest,
                promoted_at=decision.decided_at,
            )
            key = mailbox.champion_key(champion.number)
            mailbox.put_same(coordinator.store, key, champion.signed(coordinator.signer))
            break
    return newest_champion(coordinator.store, coordinator.signer.public_key)


def spent(coordinator: Coordinator, campaign: str, model_digest: str) -> float:
    """Epsilon, at the terms' delta, of everything that the campaign's signed plans asked of a bank, whatever came of it."""
    artifact = coordinator.model(campaign, model_digest)
    sizes = [settled.values.size for settled in artifact.history]
    if len(sizes) <= artifact.campaign.rounds:
        shape = shape_of(learner_of(artifact.campaign).query(replay(artifact, coordinator.schema)))
        sizes.append(shape[0] * shape[1] * shape[2])
    releases = {}
    for plan in read_plans(coordinator, campaign):
        cost = GaussianRelease(plan.clipping_norm, plan.noise_scale, sizes[plan.round])
        releases[plan.release_digest()] = cost  # further attempts are answered with what was drawn at first
    return epsilon(releases.values(), delta=artifact.campaign.privacy.delta)


def _case(
    coordinator: Coordinator, question: Question, current: Champion | None, approvals: tuple[Counted, ...]
) -> Case:
    """All that the gate judges by, read from the mailbox and verified."""
    challenger, _ = read_evaluation(coordinator, question.campaign)
    champion, champion_digest = read_evaluation(coordinator, current.campaign) if current else (None, None)
    artifact = coordinator.model(question.campaign, question.model)
    return Case(
        question=question,
        campaign=artifact.campaign,
        challenger=challenger,
        champion=champion,
        champion_evaluation=champion_digest,
        reports=tuple(read_reports(coordinator.store, question.campaign, coordinator.signer.public_key)),
        spent=spent(coordinator, question.campaign, question.model),
        approvals=approvals,
        reference=compare_on_reference(coordinator, artifact, current),
    )


def _record(coordinator: Coordinator, decision: PromotionDecision) -> Outcome:
    """Put the decision into the mailbox, unless the last one says the same, and publish its champion."""
    known = read_decisions(coordinator)
    if known and known[-1].says_the_same(decision):
        return Outcome(known[-1], None, new=False)
    key = mailbox.decision_key(decision.number)
    mailbox.put_same(coordinator.store, key, decision.signed(coordinator.signer))
    champion = finish(coordinator)
    return Outcome(decision, champion if decision.passed else None, new=True)


def _known(coordinator: Coordinator, champion: Champion) -> Outcome:
    """What made the champion in force."""
    made_by = next(one for one in reversed(read_decisions(coordinator)) if one.champion == champion.number)
    return Outcome(made_by, champion, new=False)


def _next(coordinator: Coordinator) -> tuple[int, str]:
    """Number and predecessor of the next decision."""
    chain = _chain(coordinator)
    return len(chain) + 1, chain[-1][1] if chain else GENESIS


def _chain(coordinator: Coordinator) -> list[tuple[PromotionDecision, str]]:
    """Every decision with its message's digest, verified to be signed, numbered without a gap, and chained."""
    chain: list[tuple[PromotionDecision, str]] = []
    previous = GENESIS
    for number, key in enumerate(coordinator.store.list("public/decisions/"), start=1):
        if key != mailbox.decision_key(number):
            raise ProtocolError(f"mailbox: expected decision {number}, got {key[:100]}; one is missing")
        message = mailbox.get_required(coordinator.store, key, max_bytes=MAX_DECISION_BYTES)
        decision = PromotionDecision.read(message, coordinator.signer.public_key)
        if (decision.number, decision.previous) != (number, previous):
            raise ProtocolError(f"{key}: expected it to follow decision {number - 1}, got another predecessor")
        previous = digest(message)
        chain.append((decision, previous))
    return chain
