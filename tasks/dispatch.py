"""Step 1: make, sign and publish a round's plan; the same one again when the round was planned before."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE

from mintmark import mailbox
from mintmark.campaign import learner_of, noise_for, replay
from mintmark.envelope import sign, verify
from mintmark.errors import ProtocolError
from mintmark.plan import MAX_PLAN_BYTES, RoundPlan
from mintmark.round import PLAN_TYPE
from tasks.coordinator import Coordinator


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
    key = mailbox.plan_key(campaign, round, attempt)
    known = coordinator.store.get(key, max_bytes=MAX_PLAN_BYTES)
    if known is None:
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
        mailbox.put_same(coordinator.store, key, sign(coordinator.signer, PLAN_TYPE, plan.canonical_bytes()))
        return plan
    payload = verify(known, PLAN_TYPE, coordinator.signer.public_key, max_bytes=MAX_PLAN_BYTES)
    plan = RoundPlan.from_bytes(payload, max_bytes=MAX_PLAN_BYTES)
    if plan.model_digest != model_digest:
        raise ProtocolError(f"campaign {campaign}, round {round}: planned on the model {plan.model_digest} before")
    return plan


dispatch_plan = task(name="dispatch plan", cache_policy=NO_CACHE, persist_result=False)(publish_plan)
