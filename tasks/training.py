"""Step 2: ring the banks. A flow run in each bank's own work pool, with the plan's key and digest and nothing else.

Prefect is the bell, the mailbox is the protocol: nobody waits here for a bank's run, and nothing it returns is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort
from prefect.exceptions import ObjectAlreadyExists

from mintmark import mailbox
from mintmark.plan import RoundPlan
from tasks.retrying import DELAYS_S

BANK_FLOW = "bank-round"
WORKER_TYPE = "mintmark-bank"
PASSING_REFUSALS = ("storage_unreachable", "not_open")
"""Reasons for which a bank says no to a plan that it may well answer a little later."""
_RINGS_AT_ONCE = 2  # more only wait for each other where the database is SQLite
_PAGE = 200

# The server refuses an empty job configuration, so the pool carries one field that no bank reads.
POOL_TEMPLATE = {
    "job_configuration": {"name": "{{ name }}"},
    "variables": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"name": {"type": "string", "default": "unused", "description": "No bank reads this."}},
    },
}


def ring(plan: RoundPlan, banks: Sequence[str], again: Mapping[str, int] | None = None) -> None:
    """Create one run for each bank. Ringing twice creates nothing new: the run's key is the round, attempt and bank, and
    how often it was rung `again`, for the same plan."""
    campaign, label = plan.campaign.name, _label(plan)
    parameters = {
        "plan_key": mailbox.plan_key(campaign, plan.round, plan.attempt),
        "plan_digest": plan.digest(),
    }

    with get_client(sync_client=True) as client, ThreadPoolExecutor(_RINGS_AT_ONCE) as pool:
        bells = _bells(client)

        def ring_one(bank: str) -> None:
            client.create_flow_run_from_deployment(
                bells[bank],
                parameters=parameters,
                name=f"{bank} round {plan.round}",
                idempotency_key=f"{label}/{bank}" + (f"/{again[bank]}" if again else ""),
                tags=["mintmark", f"campaign:{campaign}", f"round:{plan.round}", f"attempt:{plan.attempt}"],
            )

        list(pool.map(ring_one, banks))


def ring_again(plan: RoundPlan, missing: Sequence[str]) -> None:
    """Ring once more for the banks whose newest run has ended without an update, unless it was refused for good.

    A server that is away is asked the next time: nobody waits for it here.
    """
    try:
        with get_client(sync_client=True) as client:
            again = _rung_in_vain(client, plan, missing)
        if again:
            ring(plan, sorted(again), again)
    except httpx.HTTPError as error:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
            raise


def _rung_in_vain(client: SyncPrefectClient, plan: RoundPlan, missing: Sequence[str]) -> dict[str, int]:
    """How often each bank was rung whose every run has ended in vain."""
    tags = [f"campaign:{plan.campaign.name}", f"round:{plan.round}", f"attempt:{plan.attempt}"]
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=tags))
    rung: dict[str, list[FlowRun]] = {bank: [] for bank in missing}
    for run in client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=_PAGE):
        bank = (run.idempotency_key or "").removeprefix(f"{_label(plan)}/").partition("/")[0]
        if bank in rung:
            rung[bank].append(run)
    return {bank: len(runs) for bank, runs in rung.items() if runs and all(map(_in_vain, runs))}


def _in_vain(run: FlowRun) -> bool:
    """Whether a run has ended and ringing again may help. What a bank refuses by its policy it refuses again."""
    state = run.state
    if state is None or not state.is_final():
        return False
    return state.name != "Refused" or any(word in (state.message or "") for word in PASSING_REFUSALS)


def _label(plan: RoundPlan) -> str:
    return f"{plan.campaign.name}/{plan.round}/{plan.attempt}"


def _bells(client: SyncPrefectClient) -> dict[str, UUID]:
    """The deployment of every bank's bell, in as few requests as the server allows."""
    bells: dict[str, UUID] = {}
    flow = FlowFilter(name=FlowFilterName(any_=[BANK_FLOW]))
    while page := client.read_deployments(
        flow_filter=flow, sort=DeploymentSort.NAME_ASC, limit=_PAGE, offset=len(bells)
    ):
        bells |= {deployment.name: deployment.id for deployment in page}
        if len(page) < _PAGE:
            break
    return bells


def deploy_bank(client: SyncPrefectClient, bank: str) -> None:
    """Create the bank's work pool and the deployment its bell hangs on, unless they are there."""
    pool = mailbox.pool_name(bank)
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=pool, type=WORKER_TYPE, base_job_template=POOL_TEMPLATE))
    flow_id = client.create_flow_from_name(BANK_FLOW)
    client.create_deployment(
        flow_id,
        name=bank,
        work_pool_name=pool,
        description="Rings the bank. Its worker takes a plan's key and digest from a run, and nothing else.",
        tags=["mintmark"],
        enforce_parameter_schema=False,
    )


ring_banks = task(
    name="ring banks",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(DELAYS_S),
    retry_delay_seconds=DELAYS_S,
)(ring)
