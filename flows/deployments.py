"""The coordinator's side of its Prefect server: the campaign's deployment, a bell for each bank, and starting a campaign.

deploy("http://127.0.0.1:4200/api", ("bank-a", "bank-b", "bank-c"))
start_campaign("http://127.0.0.1:4200/api", {"campaign": "cards-2026-w14", "epsilon": 4.0})
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types.entrypoint import EntrypointType

from flows.campaign import run_campaign
from tasks.training import deploy_bank

COORDINATOR_POOL = "mintmark-coordinator"
CAMPAIGN_DEPLOYMENT = "campaign/mintmark"


def deploy(api_url: str, banks: tuple[str, ...]) -> None:
    """Create pools and deployments, or bring them up to date. Safe to run again.

    The campaign is deployed by module path: loading a flow from a file would put its folder at the head of `sys.path`.
    """
    flow_name, deployment_name = CAMPAIGN_DEPLOYMENT.split("/")
    with _client(api_url) as client:
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=COORDINATOR_POOL, type="process"))
        for bank in banks:
            deploy_bank(client, bank)
        deployment = run_campaign.to_deployment(
            name=deployment_name,
            work_pool_name=COORDINATOR_POOL,
            description="Train one model with all banks of the roster, evaluate it and register it in MLflow.",
            tags=["mintmark"],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        assert isinstance(deployment, RunnerDeployment)  # not a coroutine: nobody awaits here
        assert deployment.flow_name == flow_name
        deployment.apply()


def start_campaign(api_url: str, parameters: dict[str, Any]) -> UUID:
    """Schedule a campaign now; returns its flow run's id. The same campaign started twice is one run."""
    with _client(api_url) as client:
        found = client.read_deployment_by_name(CAMPAIGN_DEPLOYMENT)
        name = str(parameters["campaign"])
        return client.create_flow_run_from_deployment(
            found.id, parameters=parameters, name=name, idempotency_key=name, tags=["mintmark", f"campaign:{name}"]
        ).id


def campaign_state(api_url: str, flow_run_id: UUID) -> tuple[str, str]:
    """The run's state type ("RUNNING", "COMPLETED", "FAILED", ...) and its message."""
    with _client(api_url) as client:
        state = client.read_flow_run(flow_run_id).state
    return (state.type.value, state.message or "") if state else ("PENDING", "")


@contextlib.contextmanager
def _client(api_url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        yield client
