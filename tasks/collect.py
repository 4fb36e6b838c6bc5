"""Step 7, the coordinator's end: wait until every bank's update lies in the mailbox, or the round's time is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from mintmark import mailbox
from mintmark.plan import RoundPlan
from tasks.coordinator import Coordinator

POLL_S = 0.2


def wait_for_updates(
    coordinator: Coordinator,
    plan: RoundPlan,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    pause: Callable[[float], None] = time.sleep,
) -> tuple[str, ...]:
    """The banks whose update is there: the whole cohort, or whoever had answered when the round closed."""
    campaign, waiting, there = plan.campaign, set(plan.campaign.cohort), []
    while True:
        last = now() >= plan.closes_at  # looked at before the mailbox, so that the last look is after closing time
        for bank in sorted(waiting):
            key = mailbox.update_key(bank, campaign.name, plan.round, plan.attempt)
            if key in coordinator.store.list(key):
                waiting.discard(bank)
                there.append(bank)
        if last or not waiting:
            return tuple(sorted(there))
        pause(POLL_S)


collect_updates = task(name="collect updates", cache_policy=NO_CACHE, persist_result=False)(wait_for_updates)
