"""What keeps campaigns alive without anybody looking: zombies are ended, crashed campaigns go on, people are told.

A bank's lease is its worker's heartbeat to Prefect: every 30 s, and after three missed ones its pool is not ready. A
campaign's is the heartbeat of its flow run. Nobody is trusted for it: what is lost or made up here costs a bell, never an
update. `reconcile` runs on a schedule and whenever a campaign's run crashes. A campaign is only ever started again under
the same parameters, and lands on what lies in the mailbox.

    with get_client(sync_client=True) as client:
        deploy_liveness(client, "mintmark-coordinator", webhook="https://chat.example/hook")
        print(reconcile_runs(client, datetime.now(UTC)))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect import flow
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.events.actions import ActionTypes, CallWebhook, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.runtime import flow_run
from prefect.states import Crashed
from prefect.types.entrypoint import EntrypointType

from mintmark.errors import ProtocolError
from tasks.training import BANK_FLOW

CAMPAIGN_FLOW = "campaign"
ROUND_FLOW = "federated-round"
RECONCILER = "reconcile/mintmark-reconciler"
"""Not called as the campaign's deployment is: in the UI both stand in one list."""
BEAT_S = 30
"""How often a campaign's process says that it lives; Prefect's own default is three minutes."""
ZOMBIE_AFTER = timedelta(minutes=2)
"""A run under way is dead when nothing was heard of it for this long: four beats."""
LOOK_BACK = timedelta(days=7)
EVERY = timedelta(minutes=5)
"""Each time a Python process loads Prefect for it; crashes do not wait for it. Twice in a round's ten minutes, so that a
bank whose machine was gone under a plan is rung again while that round is open."""
MOST_RUNS = 6
"""A campaign that crashed as often as this is left to people."""
_PAGE = 200
_TOLD = '{"text": "{{ event.event }}: {{ event.resource.name }}"}'


@dataclass
class Reconciled:
    """What `reconcile_runs` did: names of runs ended, campaigns started again, and campaigns left to people."""

    ended: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = {"ended": self.ended, "started again": self.resumed, "left to people": self.given_up}
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in told.items() if names) or "all in order"


def reconcile_runs(client: SyncPrefectClient, now: datetime) -> Reconciled:
    """End runs that are under way in name only, and start crashed campaigns again. Doing it twice changes nothing."""
    done = Reconciled()
    for run in _zombies(client, now):
        client.set_flow_run_state(run.id, Crashed(message="No sign of life: ended by mintmark reconcile"), force=True)
        done.ended.append(run.name)
    for name, runs in _campaigns(client, now).items():
        newest = runs[-1]
        if newest.state_type is not StateType.CRASHED or newest.deployment_id is None:
            continue
        if len(runs) >= MOST_RUNS:
            done.given_up.append(name)
            continue
        client.create_flow_run_from_deployment(
            newest.deployment_id,
            parameters=newest.parameters | {"campaign": name},
            name=name,
            idempotency_key=f"{name}/after/{newest.id}",
            tags=newest.tags,
        )
        done.resumed.append(name)
    return done


def check_alone(campaign: str) -> None:
    """Raises `ProtocolError` when another run of this campaign is under way that began before this one."""
    with get_client(sync_client=True) as client:
        running = _runs(client, (CAMPAIGN_FLOW,), datetime.now(UTC), StateType.RUNNING)
    order = {run.id: (run.start_time or datetime.max.replace(tzinfo=UTC), run.id) for run in running}
    own = order.get(UUID(flow_run.get_id())) if flow_run.get_id() else None
    for run in running:
        if _campaign_of(run) == campaign and own is not None and order[run.id] < own:
            raise ProtocolError(
                f"campaign {campaign} is under way in another flow run, {run.id}: wait for it, or cancel it. "
                "One that is dead is ended within minutes, and goes on by itself"
            )


def _zombies(client: SyncPrefectClient, now: datetime) -> list[FlowRun]:
    """Runs of ours that are under way, and of which nothing was heard since `ZOMBIE_AFTER`."""
    since = now - ZOMBIE_AFTER
    flows = (CAMPAIGN_FLOW, ROUND_FLOW, BANK_FLOW)
    silent = [
        run
        for run in _runs(client, flows, now, StateType.RUNNING, StateType.PENDING)
        if run.state is not None and run.state.timestamp < since
    ]
    heard = _heard(client, [run.id for run in silent], since)
    return [run for run in silent if run.id not in heard]


def _heard(client: SyncPrefectClient, runs: list[UUID], since: datetime) -> set[UUID]:
    """Which of the runs beat at or after `since`."""
    found = set()
    for run_id in runs:
        wanted = {
            "occurred": {"since": since.isoformat(), "until": (since + 2 * ZOMBIE_AFTER).isoformat()},
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run_id}"]},
        }
        answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
        if answer.json()["events"]:
            found.add(run_id)
    return found


def _campaigns(client: SyncPrefectClient, now: datetime) -> dict[str, list[FlowRun]]:
    """The runs of each campaign, oldest first."""
    campaigns: dict[str, list[FlowRun]] = {}
    runs = sorted(_runs(client, (CAMPAIGN_FLOW,), now), key=lambda run: (run.created or now, run.id))
    for run in runs:
        campaigns.setdefault(_campaign_of(run), []).append(run)
    return campaigns


def _campaign_of(run: FlowRun) -> str:
    """A run that no campaign was named for is called what its campaign is."""
    return str(run.parameters.get("campaign") or run.name)


def _runs(client: SyncPrefectClient, flows: tuple[str, ...], now: datetime, *states: StateType) -> list[FlowRun]:
    """Runs of these flows of the last days, newest first, in one of the states if any is given."""
    runs: list[FlowRun] = []
    wanted = FlowRunFilter(
        expected_start_time=FlowRunFilterExpectedStartTime(after_=now - LOOK_BACK, before_=now + timedelta(minutes=1)),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))) if states else None,
    )
    named = FlowFilter(name=FlowFilterName(any_=list(flows)))
    while page := client.read_flow_runs(
        flow_filter=named,
        flow_run_filter=wanted,
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=_PAGE,
        offset=len(runs),
    ):
        runs += page
        if len(page) < _PAGE:
            break
    return runs


@flow(name="reconcile", persist_result=False)
def reconcile() -> str:
    """What runs in Prefect: on a schedule, and when a campaign's run crashes."""
    with get_client(sync_client=True) as client:
        return str(reconcile_runs(client, datetime.now(UTC)))


def deploy_liveness(client: SyncPrefectClient, pool: str, campaign_id: UUID, webhook: str | None = None) -> None:
    """The reconciler and its schedule, the automation that runs it after a crash, and one that tells people. Safe to run
    again; without `webhook` what tells people stays as it is."""
    beat = {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(BEAT_S)}}
    client.update_deployment(campaign_id, DeploymentUpdate(job_variables=beat))
    flow_name, name = RECONCILER.split("/")
    deployment = reconcile.to_deployment(
        name=name,
        work_pool_name=pool,
        description="End runs that are dead, start crashed campaigns again.",
        tags=["mintmark"],
        interval=EVERY,
        concurrency_limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(deployment, RunnerDeployment) and deployment.flow_name == flow_name  # nobody awaits here
    reconciler = deployment.apply()
    assert isinstance(reconciler, UUID)
    crashed = {"prefect.flow-run.Crashed"}
    _automate(client, "Mintmark: go on after a crash", crashed, campaign_id, RunDeployment(deployment_id=reconciler))
    if webhook is not None:
        tell = CallWebhook(block_document_id=_webhook_block(webhook), payload=_TOLD)
        ended = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")}
        _automate(client, "Mintmark: tell of campaigns that end badly", ended, campaign_id, tell)
        _automate(client, "Mintmark: tell of banks that are silent", {"prefect.work-pool.not-ready"}, None, tell)


def _automate(
    client: SyncPrefectClient, name: str, events: set[str], deployment_id: UUID | None, action: ActionTypes
) -> None:
    """An automation of this name, in place of an earlier one: `action` at each of the events, of a deployment's runs or of
    work pools."""
    ours = {"prefect.resource.id": f"prefect.deployment.{deployment_id}", "prefect.resource.role": "deployment"}
    kind = "flow-run" if deployment_id else "work-pool"
    wanted = AutomationCore(
        name=name,
        trigger=EventTrigger(
            expect=events,
            match=ResourceSpecification({"prefect.resource.id": f"prefect.{kind}.*"}),
            match_related=ResourceSpecification(ours if deployment_id else {}),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[action],
    )
    known = client.read_automations_by_name(name)
    if known:
        client.update_automation(known[0].id, wanted)
    else:
        client.create_automation(wanted)


def _webhook_block(url: str) -> UUID:
    block = Webhook(method="POST", url=url, headers={"Content-Type": "application/json"})
    saved = block.save("mintmark", overwrite=True)
    assert isinstance(saved, UUID)  # nobody awaits here
    return saved
