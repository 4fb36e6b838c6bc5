"""A bank's worker and its child, with an honest server: what is told, what is kept, and that nothing is left behind.

A real Prefect server, a real worker and a real child; only `bank_node.local_round` is a stub (see `worker_stage`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
import worker_stage
from worker_stage import (
    DIES,
    DIGEST,
    HANGS,
    PATIENCE_S,
    PRINTS,
    RAISES,
    REFUSES,
    SECRET,
    SENT,
    Answers,
    BankProcess,
    PrefectServer,
    end_bank,
    eventually,
    gone,
    honest,
    plan_key,
    start_bank,
    the_server,
)

from bank_node import bell, worker
from bank_node.child import FAILED, Child, PlanParameters, Verdict
from bank_node.worker import _left_over


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> PrefectServer:
    """The session's Prefect server."""
    return the_server(pytestconfig, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def bank(server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BankProcess]:
    """A worker that serves the pool `bank`."""
    server.create_pool("bank")
    started = start_bank(server, "bank", tmp_path_factory.mktemp("bank"))
    yield started
    end_bank(started)


@pytest.mark.servers
def test_an_honest_run_completes_and_its_child_knows_the_plan_and_nothing_of_prefect(
    server: PrefectServer, bank: BankProcess
) -> None:
    """The child gets the bank's home, the plan's key and its digest, once; the server learns that it was sent."""
    assert server.final(server.ring("bank", honest())) == ("COMPLETED", "Completed", "Update sent")
    (call,) = [call for call in bank.calls() if call["key"] == plan_key(SENT)]
    assert (call["home"], call["digest"]) == (str(bank.home), DIGEST)
    assert not call["prefect"]
    assert "PATH" in call["variables"]
    assert [name for name in call["variables"] if name.startswith("PREFECT")] == []


@pytest.mark.servers
def test_a_refusal_is_reported_with_its_reason_alone(server: PrefectServer, bank: BankProcess) -> None:
    """A plan that the bank refuses ends as Failed, named Refused, with one word of reason."""
    assert server.final(server.ring("bank", honest(REFUSES))) == ("FAILED", "Refused", "Refused: over_budget")


@pytest.mark.servers
def test_what_an_exception_says_stays_at_the_bank(server: PrefectServer, bank: BankProcess) -> None:
    """The text of the job's exception is in the bank's log and in nothing that the server holds about anything."""
    run_id = server.ring("bank", honest(RAISES))
    assert server.final(run_id) == ("FAILED", "Failed", bell.FAILED.message)
    assert SECRET in bank.log()
    server.final(server.ring("bank", honest()))  # whatever was sent about the first run has arrived by now
    held = [
        server.call("GET", f"/flow_runs/{run_id}"),
        server.call("GET", f"/flow_run_states/?flow_run_id={run_id}"),
        server.call("POST", "/events/filter", {"limit": 50}),
        server.call("POST", "/logs/filter", {}),
    ]
    assert SECRET not in json.dumps(held)
    assert server.call("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}}) == []


@pytest.mark.servers
def test_a_chatty_library_cannot_spoil_an_answer(server: PrefectServer, bank: BankProcess) -> None:
    """What a job prints goes to the bank's log and not into its answer."""
    assert server.final(server.ring("bank", honest(PRINTS)))[0] == "COMPLETED"
    assert "a library's chatter" in bank.log()


@pytest.mark.servers
def test_a_child_that_dies_is_a_failed_job_and_the_next_run_is_served(server: PrefectServer, bank: BankProcess) -> None:
    """A child that exits without an answer fails its own run only."""
    assert server.final(server.ring("bank", honest(DIES)))[1] == "Failed"
    assert server.final(server.ring("bank", honest()))[0] == "COMPLETED"


@pytest.mark.servers
def test_a_cancelled_run_ends_its_child_and_the_next_run_is_served(server: PrefectServer, bank: BankProcess) -> None:
    """A run at work beats, and set to Cancelling ends as Cancelled, with its child gone."""
    run_id = server.ring("bank", honest(HANGS))
    eventually(lambda: server.state(run_id)["type"] == "RUNNING", "a running run")
    (call,) = [call for call in bank.calls() if call["key"] == plan_key(HANGS)]
    assert not gone(call["pid"])

    def beats() -> list[Any]:
        of_run = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}}
        events: list[Any] = server.call("POST", "/events/filter", {"filter": of_run})["events"]
        return events

    assert len(eventually(beats, "a heartbeat of the run")) == 1
    server.call("POST", f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
    assert server.final(run_id) == ("CANCELLED", "Cancelled", "Cancelled at the bank")
    assert gone(call["pid"])
    assert server.final(server.ring("bank", honest()))[0] == "COMPLETED"


@pytest.mark.servers
def test_a_worker_waits_for_its_pool_and_a_stop_leaves_nothing_behind(server: PrefectServer, tmp_path: Path) -> None:
    """A worker started before its pool serves it later; SIGTERM ends it with code 0, its children, and its run."""
    bank = start_bank(server, "late-pool", tmp_path / "bank")
    try:
        eventually(lambda: "waiting for the coordinator to create it" in bank.log(), "a line about the missing pool")
        server.create_pool("late-pool")
        run_id = server.ring("late-pool", honest(HANGS))
        eventually(lambda: server.state(run_id)["type"] == "RUNNING", "a running run")
        workers = eventually(lambda: server.call("POST", "/work_pools/late-pool/workers/filter", {}), "a heartbeat")
        assert [(worker["name"], worker["status"]) for worker in workers] == [("late-pool", "ONLINE")]
        (child,) = bank.children()
        bank.process.terminate()
        assert bank.process.wait(timeout=PATIENCE_S) == 0
        assert gone(child)
        assert server.final(run_id) == ("CRASHED", "Stopped", "The bank's worker was stopped")
        assert "Traceback" not in bank.log()
    finally:
        end_bank(bank)


@pytest.mark.servers
def test_a_killed_worker_takes_its_child_along_and_its_successor_goes_on(
    server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL to the worker, in the midst of a job, ends the child too; started again it answers that run first."""
    server.create_pool("killed")
    bank = start_bank(server, "killed", tmp_path / "bank")
    try:
        run_id = server.ring("killed", honest(HANGS))
        eventually(bank.calls, "a job at work")
        eventually(lambda: server.state(run_id)["type"] == "RUNNING", "a running run")  # it will not be due again
        (child,) = bank.children()
        bank.process.kill()
        eventually(lambda: gone(child), "an end of the child")
        monkeypatch.setattr(worker_stage, "STUB", worker_stage.STUB.replace("time.sleep(3600)", "pass"))
        bank = start_bank(server, "killed", tmp_path / "bank")
        assert server.final(run_id) == ("COMPLETED", "Completed", "Update sent")
        assert not list((tmp_path / "bank").glob("run-under-way*"))
    finally:
        end_bank(bank)


@pytest.mark.servers
def test_a_killed_child_has_a_successor(server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL to the child, in the midst of a job: another one answers the same run."""
    server.create_pool("orphaned")
    bank = start_bank(server, "orphaned", tmp_path / "bank")
    try:
        run_id = server.ring("orphaned", honest(HANGS))
        eventually(bank.calls, "a job at work")
        (tmp_path / "bank" / "stub.py").write_text(worker_stage.STUB.replace("time.sleep(3600)", "pass"))
        (child,) = bank.children()
        os.kill(child, signal.SIGKILL)
        assert server.final(run_id) == ("COMPLETED", "Completed", "Update sent")
    finally:
        end_bank(bank)


def test_a_note_that_is_no_note_is_put_away(tmp_path: Path) -> None:
    """Half a note, or one of something else, does not keep a worker from its work."""
    note = tmp_path / "note"
    assert _left_over(note) is None
    note.write_text('{"id": "17"')
    assert _left_over(note) is None and not note.exists()


PLAN = PlanParameters(plan_key=plan_key(SENT), plan_digest=DIGEST)
READY = 'print(\'{"event":"ready"}\', flush=True)'


def answer_of(script: str, timeout_s: float = 60) -> tuple[Verdict, int]:
    """The verdict on a child that runs `script`, and the child's process id."""

    async def ask() -> tuple[Verdict, int]:
        child = await Child.spawn([sys.executable, "-c", script], os.environ)
        return await child.answer(PLAN, timeout_s), child.pid

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "said",
    [
        "print('x' * 10**6)",
        'print(\'{"event":"answered","status":"refused","reason":"row 17: Anna"}\')',
        'print(\'{"event":"answered","status":"sent","rows":17}\')',
        "print('not json')",
        "",
    ],
    ids=["endless line", "free text", "one more field", "no json", "silence"],
)
def test_a_child_cannot_say_more_than_a_verdict(said: str) -> None:
    """A line that is too long, not JSON, or holds more than the bounded fields counts as a failed job."""
    verdict, pid = answer_of(f"{READY}\n{said}")
    assert verdict == FAILED
    assert gone(pid)


def test_a_job_beyond_its_deadline_is_killed_with_all_that_it_started() -> None:
    """A child that stalls is a failed job, and neither it nor its own child outlives the deadline."""
    script = f"import subprocess, sys, time\n{READY}\nsubprocess.Popen(['sleep', '3600']); time.sleep(3600)"
    verdict, pid = answer_of(script, timeout_s=2)
    assert verdict == FAILED
    assert [process for process in psutil.pids() if not gone(process) and os.getsid(process) == pid] == []


def test_a_state_is_offered_again_to_a_server_that_was_away() -> None:
    """A refused connection, a 503 and an empty answer only delay a report; it is offered until the server rules."""
    accepted = httpx.Response(200, json={"status": "ACCEPT", "state": {"type": "COMPLETED"}})
    client = Answers(httpx.ConnectError("away"), httpx.Response(503), httpx.Response(200), accepted)
    assert asyncio.run(bell.Bell(client, "bank").propose(uuid4(), bell.SENT)) == "COMPLETED"
    assert {request.content for request in client.asked} == {client.asked[0].content}
    assert len(client.asked) == 4


@pytest.mark.parametrize(
    ("answer", "held"),
    [
        (httpx.Response(200, json={"status": "REJECT", "state": {"type": "CANCELLING"}}), "CANCELLING"),
        (httpx.Response(200, json={"status": "ABORT", "state": None}), bell.ABORTED),
        (httpx.Response(404), bell.DELETED),
    ],
    ids=["rejected", "aborted", "deleted"],
)
def test_a_ruling_against_a_state_is_final(answer: httpx.Response, held: str) -> None:
    """A server that says no is believed at once: the state is not offered again."""
    assert asyncio.run(bell.Bell(Answers(answer), "bank").propose(uuid4(), bell.RUNNING)) == held


def test_a_poll_asks_for_the_due_runs_of_its_own_pool_and_takes_only_ids_and_parameters() -> None:
    """One question that writes nothing, about this pool's scheduled runs whose time has come; the rest is not looked at."""
    run = {"id": str(uuid4()), "parameters": {"plan_key": "k"}, "state": {"type": "SCHEDULED", "data": SECRET}}
    client = Answers(httpx.Response(200, json=[run]))
    (due,) = asyncio.run(bell.Bell(client, "mintmark-bank").due())
    assert (str(due.id), due.parameters) == (run["id"], run["parameters"])
    (request,) = client.asked
    asked = json.loads(request.content)
    assert (request.method, request.url.path) == ("POST", "/api/flow_runs/filter")
    assert asked["work_pools"] == {"name": {"any_": ["mintmark-bank"]}}
    assert asked["flow_runs"]["state"] == {"type": {"any_": ["SCHEDULED"]}}
    late_by = datetime.fromisoformat(asked["flow_runs"]["next_scheduled_start_time"]["before_"]) - datetime.now(UTC)
    assert timedelta() < late_by <= timedelta(seconds=bell.CLOCK_SKEW_S)


@pytest.mark.parametrize(("worth_telling_s", "told"), [(3600, []), (0, [bell.RUNNING])], ids=["short", "long"])
def test_only_a_long_job_is_told_of_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worth_telling_s: float, told: list[bell.State]
) -> None:
    """A job that ends at once is told of by its end alone; one at work for longer is Running at the server meanwhile."""
    monkeypatch.setattr(worker, "WORTH_TELLING_S", worth_telling_s)
    heard = HearingBell(expects=len(told))
    bank = worker.BankWorker("mintmark-bank", command=(), environment={}, note=tmp_path / "note")
    monkeypatch.setattr(bank, "_bell", heard, raising=False)
    child = SimpleNamespace(alive=True, answer=heard.answer)
    assert asyncio.run(asyncio.wait_for(bank._attend(uuid4(), cast(Any, child), PLAN), 30)) == bell.SENT
    assert heard.proposed == told


class HearingBell:
    """Stands for the bell and for the child: the child answers once so many states were proposed."""

    def __init__(self, expects: int) -> None:
        self.proposed: list[bell.State] = []
        self._expects, self._enough = expects, asyncio.Event()

    async def propose(self, _run_id: UUID, state: bell.State) -> str:
        self.proposed.append(state)
        self._enough.set()
        return state.type

    async def beat_run(self, _run_id: UUID) -> None:
        """Not told of here."""

    async def answer(self, *_: object) -> Verdict:
        if self._expects:
            await self._enough.wait()
        return Verdict(event="answered", status="sent")
