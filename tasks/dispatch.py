"""Step 1: make, sign and publish a round's plan; the same one again when the round was planned before."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE

from mintmark import mailbox
from mintmark.campaign import learner_of, noise_for, replay
from mintmark.envelope import sign, verify
from mintmark.plan import MAX_PLAN_BYTES, RoundPlan
from mintmark.round import PLAN_TYPE
from tasks.coordinator import Coordinator


def publish_plan(
    coordinator: Coordinator, campaign: str, model_digest: str, attempt: int, now: datetime, deadline_s: float
) -> RoundPlan:
    """The signed plan of the round after `model_digest`, in the mailbox. Planned before, it is read back unchanged."""
    artifact = coordinator.model(campaign, model_digest)
    key = mailbox.plan_key(campaign, len(artifact.history), attempt)
    known = coordinator.store.get(key, max_bytes=MAX_PLAN_BYTES)
    if known is None:
        query = learner_of(artifact.campaign).query(replay(artifact, coordinator.schema))
        noise_scale, clipping_norm = noise_for(artifact.campaign, len(artifact.history), query)
        plan = RoundPlan(
            campaign=artifact.campaign,
            round=len(artifact.history),
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
    return RoundPlan.from_bytes(payload, max_bytes=MAX_PLAN_BYTES)


dispatch_plan = task(name="dispatch plan", cache_policy=NO_CACHE, persist_result=False)(publish_plan)
