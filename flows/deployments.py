"""The coordinator's side of its Prefect server: pools, the campaign's deployment and schedule, a bell for each bank,
the automations, and starting a campaign.

deploy("http://127.0.0.1:4200/api", ("bank-a", "bank-b", "bank-c"), schedule="0 6 * * MON")
start_campaign("http://127.0.0.1:4200/api", {"campaign": "cards-2026-w14", "epsilon": 4.0})
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_RETRY_EXTRA_CODES, temporary_settings
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from flows.campaign import run_campaign
from flows.liveness import deploy_liveness
from mintmark.errors import DataError
from tasks.training import deploy_bank

COORDINATOR_POOL = "mintmark-coordinator"
CAMPAIGN_DEPLOYMENT = "campaign/mintmark"
SCHEDULE_SLUG = "mintmark-deploy"


def deploy(api_url: str, banks: tuple[str, ...], schedule: str | None = None, webhook: str | None = None) -> None:
    """Create pools, deployments and automations, or bring them up to date. Safe to run again. People are told at
    `webhook`.

    The campaign is deployed by module path: loading a flow from a file would put its folder at the head of `sys.path`.
    `schedule` is a cron expression in UTC; it replaces the schedule that an earlier call made, and no other. Without it
    schedules stay as they are. Raises `DataError` for an expression that is none.
    """
    flow_name, deployment_name = CAMPAIGN_DEPLOYMENT.split("/")
    timetable = cron(schedule) if schedule else None
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
        known = _schedules(client)
        deployment_id = deployment.apply()
        assert isinstance(deployment_id, UUID)
        _keep_schedules(client, deployment_id, known)
        if timetable is not None:
            set_schedule(client, deployment_id, timetable)
        deploy_liveness(client, COORDINATOR_POOL, deployment_id, webhook)


def cron(expression: str) -> CronSchedule:
    """The schedule of a cron expression, in UTC. Raises `DataError` when it is none.

    >>> cron("0 6 * * MON").timezone
    'UTC'
    """
    try:
        return CronSchedule(cron=expression, timezone="UTC")
    except ValidationError:
        raise DataError(
            f"expected a cron expression such as '0 6 * * MON' (Mondays at 6 UTC), got {expression[:80]!r}"
        ) from None


def set_schedule(client: SyncPrefectClient, deployment_id: UUID, timetable: CronSchedule) -> None:
    """Put the deployment on this timetable, in place of the one that was set here before; those that people made in the
    UI stay."""
    for known in client.read_deployment_schedules(deployment_id):
        if known.slug == SCHEDULE_SLUG:
            client.delete_deployment_schedule(deployment_id, known.id)
    client.create_deployment_schedules(
        deployment_id, [DeploymentScheduleCreate(schedule=timetable, active=True, slug=SCHEDULE_SLUG)]
    )


def _schedules(client: SyncPrefectClient) -> list[DeploymentSchedule]:
    try:
        return client.read_deployment_schedules(client.read_deployment_by_name(CAMPAIGN_DEPLOYMENT).id)
    except ObjectNotFound:
        return []


def _keep_schedules(client: SyncPrefectClient, deployment_id: UUID, known: list[DeploymentSchedule]) -> None:
    """Put back what `apply` dropped: Prefect 3.8 takes a deployment without schedules for one that shall have none."""
    left = {one.id for one in client.read_deployment_schedules(deployment_id)}
    lost = [
        DeploymentScheduleCreate(schedule=one.schedule, active=one.active, parameters=one.parameters, slug=one.slug)
        for one in known
        if one.id not in left
    ]
    if lost:
        client.create_deployment_schedules(deployment_id, lost)


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
    """Asks again when the server says 500, too: a busy one does when its database lets it wait too long, and has undone
    what it had begun."""
    settings = {PREFECT_API_URL: api_url, PREFECT_CLIENT_RETRY_EXTRA_CODES: str(HTTPStatus.INTERNAL_SERVER_ERROR.value)}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client
