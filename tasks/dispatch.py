"""Step 1: make, sign and publish a round's plan; the same one again when the round was planned before."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE

from mintmark import mailbox
from mintmark.campaign import learner_of, noise_for, replay
from mintmark.errors import ProtocolError
from mintmark.plan import MAX_PLAN_BYTES, Campaign, RoundPlan
from tasks.coordinator import Coordinator
from tasks.retrying import DELAYS_S, worth_retrying


def publish_plan(
    coordinator: Coordinator,
    campaign: str,
    round: int,
    model_digest: str,
    attempt: int,
    now: datetime,
    deadline_s: float,
) -> RoundPlan:
    """The signed plan of round `round`, which follows `model_digest`, in the mailbox. Planned before, it is read back.

    Raises `ProtocolError` when the model is not of the round before, or the round was planned on another.
    """
    artifact = coordinator.model(campaign, model_digest)
    if len(artifact.history) != round:
        raise ProtocolError(
            f"campaign {campaign}: expected a model of {round} settled rounds, got {len(artifact.history)}"
        )
    plan = read_plan(coordinator, campaign, round, attempt)
    if plan is None:
        query = learner_of(artifact.campaign).query(replay(artifact, coordinator.schema))
        noise_scale, clipping_norm = noise_for(artifact.campaign, round, query)
        plan = RoundPlan(
            campaign=artifact.campaign,
            round=round,
            attempt=attempt,
            roster_version=coordinator.roster().version,
            model_digest=model_digest,
            query_digest=query.digest(),
            noise_scale=noise_scale,
            clipping_norm=clipping_norm,
            opens_at=now,
            closes_at=now + timedelta(seconds=deadline_s),
        )
        message = plan.signed(coordinator.signer)
        if not coordinator.store.put_once(mailbox.plan_key(campaign, round, attempt), message):
            return publish_plan(
                coordinator, campaign, round, model_digest, attempt, now, deadline_s
            )  # another was first
    if plan.model_digest != model_digest:
        raise ProtocolError(_other_model(plan, artifact.campaign))
    return plan


def read_plan(coordinator: Coordinator, campaign: str, round: int, attempt: int = 0) -> RoundPlan | None:
    """The signed plan in the mailbox, or None."""
    known = coordinator.store.get(mailbox.plan_key(campaign, round, attempt), max_bytes=MAX_PLAN_BYTES)
    if known is None:
        return None
    return RoundPlan.read(known, coordinator.signer.public_key)


def read_plans(coordinator: Coordinator, campaign: str) -> list[RoundPlan]:
    """All signed plans of a campaign, by round and attempt."""
    keys = coordinator.store.list(f"public/campaigns/{campaign}/plans/")
    messages = (mailbox.get_required(coordinator.store, key, max_bytes=MAX_PLAN_BYTES) for key in keys)
    return [RoundPlan.read(message, coordinator.signer.public_key) for message in messages]


def cohort_of(coordinator: Coordinator, campaign: str, now: datetime) -> tuple[str, ...]:
    """The banks of a campaign: those it began with, or all that the roster holds valid when it begins."""
    begun = read_plan(coordinator, campaign, 0)
    return begun.campaign.cohort if begun else coordinator.roster().valid_banks(now)


def _other_model(plan: RoundPlan, campaign: Campaign) -> str:
    began, asked = plan.campaign.model_dump(mode="json"), campaign.model_dump(mode="json")
    other = [f"{name} {began[name]}, now {asked[name]}" for name in began if began[name] != asked[name]]
    if other:
        return (
            f"campaign {campaign.name} began under other terms: {'; '.join(other)}. Start it under those to go on with "
            "it, or choose a new name"
        )
    return f"campaign {campaign.name}, round {plan.round}: planned on the model {plan.model_digest} before"


dispatch_plan = task(
    name="dispatch plan",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(DELAYS_S),
    retry_delay_seconds=DELAYS_S,
    retry_condition_fn=worth_retrying,
)(publish_plan)
