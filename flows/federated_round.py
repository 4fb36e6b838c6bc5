"""One round, as it is spoken: dispatch the plan, ring the banks, collect their updates, aggregate.

Plans and updates pass through the mailbox; between the steps go names and digests only. A coroutine, though its steps are
not: Prefect waits up to a second for the heartbeat of every plain flow that ends, which would be half a round.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from prefect import flow, get_run_logger
from prefect.context import TagsContext

from mintmark.errors import QuorumError
from mintmark.plan import MAX_ATTEMPTS
from tasks.aggregation import aggregate_updates, read_manifest, read_reports
from tasks.collect import collect_updates
from tasks.coordinator import home_from, open_coordinator
from tasks.dispatch import dispatch_plan
from tasks.suspicion import suspicion_lines
from tasks.training import ring_banks

ATTEMPTS = 3
"""How many new attempts at a round one run makes."""


@flow(name="federated-round", flow_run_name="{campaign} round {round}", persist_result=False)
async def federated_round(
    campaign: str, round: int, model_digest: str, deadline_s: float = 600.0, attempts: int = ATTEMPTS
) -> str:
    """Run round `round`, which follows the model `model_digest`; returns the digest of the model after it.

    Run again after a kill it goes on where the mailbox says it was: same plan, same updates, same model. An attempt whose
    quorum fails is followed by another, at which banks send what they drew the first time, for free (ADR 0004).
    Raises `QuorumError` after `attempts` new ones.
    """
    coordinator = open_coordinator(home_from(dict(os.environ)))
    # Prefect asks its server for a slot for every tag of a task, and fails for good when it is away just then.
    with TagsContext(current_tags=set()):
        made = 0
        for attempt in range(MAX_ATTEMPTS):
            plan = dispatch_plan(coordinator, campaign, round, model_digest, attempt, datetime.now(UTC), deadline_s)
            answered: dict[str, float] = {}
            if read_manifest(coordinator, plan) is None:
                made += 1
                ring_banks(plan, plan.campaign.cohort)
                answered = collect_updates(coordinator, plan)
            try:
                settled = aggregate_updates(coordinator, plan, answered, datetime.now(UTC))
            except QuorumError:
                if made >= attempts:
                    raise
            else:
                for line in suspicion_lines(
                    read_reports(coordinator.store, campaign, coordinator.signer.public_key, round + 1)
                ):
                    get_run_logger().warning(line)
                return settled
    raise QuorumError(f"campaign {campaign}, round {round}: {MAX_ATTEMPTS} attempts have failed; start a new campaign")
