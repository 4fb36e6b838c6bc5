"""Zombies are ended, crashed campaigns go on, people are told: against a real Prefect server, without a worker."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from worker_stage import PrefectServer, eventually, the_server

from flows.deployments import deploy, start_campaign
from flows.liveness import MOST_RUNS, RECONCILER, ZOMBIE_AFTER, Reconciled, reconcile_runs
from tasks.training import ring, ring_again

pytestmark = pytest.mark.servers


@contextmanager
def listener() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A place on this machine where webhooks arrive."""
    heard: list[dict[str, Any]] = []

    class Hear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", heard
    server.shutdown()


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> PrefectServer:
    """The session's Prefect server."""
    return the_server(pytestconfig, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def heard(server: PrefectServer) -> Iterator[list[dict[str, Any]]]:
    """What the webhook is told; everything is deployed, twice."""
    with listener() as (url, heard):
        for _ in range(2):
            deploy(server.url, ("bank-a",), webhook=url)
        yield heard


@pytest.fixture
def client(server: PrefectServer, heard: list[dict[str, Any]]) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        yield client


def begin(server: PrefectServer, campaign: str) -> str:
    """A campaign's run that is under way."""
    run_id = str(start_campaign(server.url, {"campaign": campaign}))
    set_state(server, run_id, "RUNNING")
    return run_id


def set_state(server: PrefectServer, run_id: str, kind: str) -> None:
    server.call("POST", f"/flow_runs/{run_id}/set_state", {"state": {"type": kind}, "force": True})


def runs_of(server: PrefectServer, campaign: str) -> list[dict[str, Any]]:
    """Newest first."""
    wanted = {"flow_runs": {"tags": {"all_": [f"campaign:{campaign}"]}}}
    found: list[dict[str, Any]] = server.call("POST", "/flow_runs/filter", wanted)
    return sorted(found, key=lambda run: run["created"], reverse=True)


def test_deploying_twice_makes_nothing_twice(server: PrefectServer, client: SyncPrefectClient) -> None:
    """One automation for each purpose, and one schedule of the reconciler."""
    names = [one["name"] for one in server.call("POST", "/automations/filter", {})]
    assert sorted(names) == sorted(set(names))
    assert len([name for name in names if name.startswith("Mintmark: ")]) >= 3
    reconciler = server.call("GET", f"/deployments/name/{RECONCILER}")
    assert len(reconciler["schedules"]) == 1


def test_a_schedule_makes_runs(server: PrefectServer, client: SyncPrefectClient) -> None:
    """Prefect plans the reconciler's next runs: with SQLAlchemy 2.1 it fails to, in its log and nowhere else."""
    planned = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}, "flows": {"name": {"any_": ["reconcile"]}}}
    eventually(
        lambda: [run for run in server.call("POST", "/flow_runs/filter", planned) if run["auto_scheduled"]],
        "runs by the schedule",
    )


def test_a_run_that_is_silent_is_ended_and_its_campaign_goes_on_once(
    server: PrefectServer, client: SyncPrefectClient, heard: list[dict[str, Any]]
) -> None:
    """No heartbeat for two minutes: the run is Crashed, the campaign is started again, once, and somebody is told."""
    silent, later = begin(server, "silent"), datetime.now(UTC) + ZOMBIE_AFTER + timedelta(minutes=1)
    beating = begin(server, "beating")
    beat = {
        "id": str(uuid4()),
        "occurred": (later - timedelta(seconds=20)).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{beating}"},
    }
    server.call("POST", "/events", [beat])
    wanted = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}, "occurred": {"until": later.isoformat()}}}
    eventually(lambda: server.call("POST", "/events/filter", wanted)["events"], "the beat to be kept")

    assert str(reconcile_runs(client, datetime.now(UTC))) == "all in order"  # nothing is silent for long yet
    done = reconcile_runs(client, later)
    assert (done.ended, done.resumed) == (["silent"], ["silent"])
    assert server.state(silent)["type"] == "CRASHED"
    assert server.state(beating)["type"] == "RUNNING"
    newest, oldest = runs_of(server, "silent")
    assert (newest["state_type"], newest["parameters"]) == ("SCHEDULED", oldest["parameters"])
    assert reconcile_runs(client, datetime.now(UTC)) == Reconciled()
    assert len(runs_of(server, "silent")) == 2
    eventually(lambda: {"text": "prefect.flow-run.Crashed: silent"} in heard, "a word by webhook")
    flow_name, deployment_name = RECONCILER.split("/")
    rung = {"deployments": {"name": {"any_": [deployment_name]}}, "flows": {"name": {"any_": [flow_name]}}}
    triggered = eventually(
        lambda: [run for run in server.call("POST", "/flow_runs/filter", rung) if not run["auto_scheduled"]],
        "the reconciler to be rung",
    )
    assert triggered


def test_a_bank_that_was_rung_in_vain_is_rung_again(server: PrefectServer, client: SyncPrefectClient) -> None:
    """Not while its run is under way, nor when its policy said no; after a crash or a passing refusal, once each time."""
    campaign = SimpleNamespace(name="bells")
    plan: Any = SimpleNamespace(campaign=campaign, round=1, attempt=0, digest=lambda: "0" * 64)

    def runs() -> list[dict[str, Any]]:
        return runs_of(server, "bells")

    def end(kind: str, name: str, message: str) -> None:
        state = {"type": kind, "name": name, "message": message}
        server.call("POST", f"/flow_runs/{runs()[0]['id']}/set_state", {"state": state, "force": True})

    ring(plan, ["bank-a"])
    ring_again(plan, ["bank-a"])
    assert len(runs()) == 1
    for number, ending in enumerate(
        (("CRASHED", "Stopped", ""), ("FAILED", "Refused", "Refused: storage_unreachable"))
    ):
        end(*ending)
        ring_again(plan, ["bank-a"])
        ring_again(plan, ["bank-a"])
        assert len(runs()) == number + 2
    end("FAILED", "Refused", "Refused: over_year_budget")
    ring_again(plan, ["bank-a"])
    assert len(runs()) == 3


def test_a_campaign_that_failed_or_crashes_again_and_again_is_left_to_people(
    server: PrefectServer, client: SyncPrefectClient
) -> None:
    """A failure is an answer, not a crash; and nothing is started for ever."""
    set_state(server, begin(server, "refused"), "FAILED")
    set_state(server, begin(server, "hopeless"), "CRASHED")
    for _ in range(MOST_RUNS - 1):
        assert reconcile_runs(client, datetime.now(UTC)).resumed == ["hopeless"]
        set_state(server, runs_of(server, "hopeless")[0]["id"], "CRASHED")
    assert reconcile_runs(client, datetime.now(UTC)) == Reconciled(given_up=["hopeless"])
    assert len(runs_of(server, "refused")) == 1
