"""One round, as it is spoken: dispatch the plan, ring the banks, collect their updates, aggregate.

Plans and updates pass through the mailbox; between the steps go names and digests only. A coroutine, though its steps are
not: Prefect waits up to a second for the heartbeat of every plain flow that ends, which would be half a round.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from prefect import flow

from tasks.aggregation import aggregate_updates
from tasks.collect import collect_updates
from tasks.coordinator import home_from, open_coordinator
from tasks.dispatch import dispatch_plan
from tasks.training import ring_banks


@flow(name="federated-round", flow_run_name="{campaign} round {round}", persist_result=False)
async def federated_round(
    campaign: str, round: int, model_digest: str, attempt: int = 0, deadline_s: float = 600.0
) -> str:
    """Run round `round`, which follows the model `model_digest`; returns the digest of the model after it.

    Run again after a kill it goes on where the mailbox says it was: same plan, same updates, same model.
    """
    coordinator = open_coordinator(home_from(dict(os.environ)))
    plan = dispatch_plan(coordinator, campaign, round, model_digest, attempt, datetime.now(UTC), deadline_s)
    ring_banks(plan, plan.campaign.cohort)
    answered = collect_updates(coordinator, plan)
    return aggregate_updates(coordinator, plan, answered, datetime.now(UTC))
