"""Step 7, the coordinator's end: wait until every bank's update lies in the mailbox, or waiting is no longer worth it.

The round's own deadline always ends it. Before that it ends when the quorum is there, by number and by weight, and each
missing bank has had the time it is known to need (`mintmark.patience`). A second attempt waits for all until the end: the
first may have failed because an update that was there was worth nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE

from mintmark import mailbox
from mintmark.errors import StorageError
from mintmark.patience import ROUNDS, Pace, patience
from mintmark.plan import RoundPlan
from mintmark.round import shortfall
from tasks.aggregation import read_manifests
from tasks.coordinator import Coordinator
from tasks.retrying import DELAYS_S, worth_retrying
from tasks.training import ring_again

POLL_S = 0.2
REMIND_S = 15.0
"""How often the bells of the missing are looked at."""


def wait_for_updates(
    coordinator: Coordinator,
    plan: RoundPlan,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    pause: Callable[[float], None] = time.sleep,
    remind: Callable[[Sequence[str]], None] = lambda _: None,
) -> dict[str, float]:
    """The banks whose update is there, and after how many seconds it was first seen. `remind` is told who is missing."""
    roster, allowed = coordinator.roster_at(plan.roster_version), _patience(coordinator, plan)
    waiting, seen, reminded = set(plan.campaign.cohort), dict[str, float](), 0.0
    while True:
        at = now()  # looked at before the mailbox, so that the last look is after closing time
        last, elapsed = at >= plan.closes_at, max(0.0, (at - plan.opens_at).total_seconds())
        try:
            found = [bank for bank in sorted(waiting) if _answered(coordinator, plan, bank)]
        except StorageError:
            if last:
                raise
            found = []  # a store that is away is back before the round ends, or the last look says so
        seen |= dict.fromkeys(found, elapsed)
        waiting -= set(found)
        patient = elapsed < max((allowed[bank] for bank in waiting), default=0.0)
        if last or not waiting or not (patient or shortfall(plan.campaign, roster, seen)):
            return dict(sorted(seen.items()))
        if elapsed - reminded >= REMIND_S:
            reminded = elapsed
            remind(sorted(waiting))
        pause(POLL_S)


def _answered(coordinator: Coordinator, plan: RoundPlan, bank: str) -> bool:
    key = mailbox.update_key(bank, plan.campaign.name, plan.round, plan.attempt)
    return key in coordinator.store.list(key)


def _patience(coordinator: Coordinator, plan: RoundPlan) -> dict[str, float]:
    if plan.attempt:
        return dict.fromkeys(plan.campaign.cohort, math.inf)
    past = read_manifests(coordinator, plan.campaign.name, newest=ROUNDS)
    return patience(plan.campaign.cohort, [Pace.of(manifest) for manifest in past])


def collect(coordinator: Coordinator, plan: RoundPlan) -> dict[str, float]:
    """Wait, and ring again for those whose bell has ended without an update."""
    return wait_for_updates(coordinator, plan, remind=partial(ring_again, plan))


collect_updates = task(
    name="collect updates",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(DELAYS_S),
    retry_delay_seconds=DELAYS_S,
    retry_condition_fn=worth_retrying,
)(collect)
