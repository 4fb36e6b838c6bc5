"""Step 2: ring the banks. A flow run in each bank's own work pool, with the plan's key and digest and nothing else.

Prefect is the bell, the mailbox is the protocol: nobody waits here for a bank's run, and nothing it returns is read.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.sorting import DeploymentSort
from prefect.exceptions import ObjectAlreadyExists

from mintmark import mailbox
from mintmark.plan import RoundPlan

BANK_FLOW = "bank-round"
WORKER_TYPE = "mintmark-bank"
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


def ring(plan: RoundPlan, banks: tuple[str, ...]) -> None:
    """Create one run for each bank. Ringing twice creates nothing new: the run's key is the round, attempt and bank."""
    campaign, label = plan.campaign.name, f"{plan.campaign.name}/{plan.round}/{plan.attempt}"
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
                idempotency_key=f"{label}/{bank}",
                tags=["mintmark", f"campaign:{campaign}", f"round:{plan.round}"],
            )

        list(pool.map(ring_one, banks))


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


ring_banks = task(name="ring banks", cache_policy=NO_CACHE, persist_result=False, retries=3, retry_delay_seconds=2)(
    ring
)
