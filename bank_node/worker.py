"""The bank's Prefect worker: it hears the bell of its work pool and lets the bank answer the plan it was rung for.

Whoever controls a Prefect server can run code in a stock worker. From this one he gets a choice between two bounded
strings, a plan's key and its digest, for the one function that the bank has installed
(`bank_node.local_round.answer_plan`, in a process that knows nothing of Prefect). What else a server steers is closed:

- Code by configuration: base job template, job variables, command, env, pull steps, entrypoint, storage, blocks and
  variables are never fetched; the job configuration is empty whatever is put in. Nothing is installed, no pool is
  created, the type is not asked of the pool. Prefect's own loops do not run: `start` is ours, `submit` has no group.
- Code by deserialisation, exhaustion, and probing the bank's network by redirects: see `bank_node.bell`.
- Commands by channel: no websocket is opened, so there are no cleanup orders, pool snapshots or cancel messages. A run
  is cancelled because the worker asks for its state.
- Occupation: one job at a time, with a deadline.
- Leaks: no log line goes to the server. It learns the states of `bank_node.bell` and a heartbeat. Its own words, even
  a run's name, are not written into the bank's log.

The server can still replay, stall, cancel, delete and choose among plans: against that stand the plan's signature and
the bank's ledger. For the same reason a job starts before the server has agreed that it runs: it is idempotent and
guarded by the signature, and a slow server does not slow the round.

A worker that is killed over a plan finds the note it made of the run when it is started again, and answers that first:
to the server the run is under way, so it would never be rung anew. A child that dies under a plan gets a successor.

Left out: consent and computation (`bank_node.local_round`); the doorbell over websockets (it would only call
`answer_due_runs`); an outcome kept on disk (a rerun sends the same bytes again).

    run_worker(Path("/srv/bank"), pool="bank-alpine", api_url="http://127.0.0.1:4200/api")
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

# Before Prefect is imported: at its first import on a terminal it would report to its makers.
os.environ["DO_NOT_TRACK"] = "true"

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import InfrastructureNotFound
from prefect.settings import temporary_settings
from prefect.workers.base import BaseJobConfiguration, BaseWorker, BaseWorkerResult
from pydantic import ValidationError
from typing_extensions import override

from bank_node import bell
from bank_node.child import LOG_FORMAT, Child, PlanParameters, Verdict, child_command, child_environment

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

WORTH_TELLING_S = 2.0
"""How long a job is at work before the server is told so. A shorter one is told of by its end alone: while all banks tell
of their beginnings, the server is slow to ring the bells that are still to be rung."""
CANCEL_POLL_S = 2.0
"""How often a job at work asks whether it is still wanted."""
GOODBYE_S = 1.5
"""How long a stopping worker may take to say so."""
UNWANTED = {"CANCELLING", "CANCELLED", bell.ABORTED, bell.DELETED}

log = logging.getLogger(__name__)


class BankJobConfiguration(BaseJobConfiguration):
    """Nothing, whatever the server says: no template, job variable, block, variable or label is looked at."""

    @classmethod
    @override
    async def from_template_and_values(
        cls, base_job_template: dict[str, Any], values: dict[str, Any], client: PrefectClient | None = None
    ) -> BankJobConfiguration:
        """The empty configuration."""
        return cls()

    @classmethod
    @override
    async def resolve_for_flow_run(cls, flow_run: object, **_: Any) -> BankJobConfiguration:
        """The empty configuration; neither deployment nor flow is fetched."""
        return cls()

    @override
    def prepare_for_flow_run(self, *_: Any, **__: Any) -> None:
        """Stay empty."""


class BankResult(BaseWorkerResult):
    """Which child answered. The status code is 0: the worker has spoken for the run itself."""


class Rung(Protocol):
    """The part of a flow run that a bank looks at."""

    @property
    def id(self) -> UUID: ...
    @property
    def parameters(self) -> Any: ...


class BankWorker(BaseWorker[BankJobConfiguration, Any, BankResult]):
    """Polls one work pool and answers one plan at a time; the module says what it closes."""

    type = "mintmark-bank"
    job_configuration = BankJobConfiguration
    cleanup_handlers = ()
    _description = "Lets a bank answer signed plans. Takes two parameters from the server, no code and no settings."

    def __init__(
        self,
        work_pool_name: str,
        *,
        command: Sequence[str],
        environment: Mapping[str, str],
        note: Path,
        poll_s: float = 1.0,
        job_timeout_s: float = 3600.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`command` and `environment` start the child; `note` is the file that names the run at work. Prefect's launcher
        gives none of them, so it cannot build a worker."""
        super().__init__(work_pool_name, name=work_pool_name, create_pool_if_not_found=False, limit=1)
        self._command, self._environment, self._note = command, environment, note
        self._poll_s, self._job_timeout_s, self._tls = poll_s, job_timeout_s, tls
        self._spare: Child | None = None
        self._busy: Child | None = None

    @classmethod
    @override
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """A template with one field that nobody reads: a server refuses an empty one."""
        field = {"type": "string", "title": "Name", "default": "unused", "description": "A bank takes no settings."}
        variables = {"type": "object", "additionalProperties": False, "properties": {"name": field}}
        return {"job_configuration": {"name": "{{ name }}"}, "variables": variables}

    @override
    async def setup(self) -> None:
        """Open the client and warm a child; the server is not asked anything yet."""
        client = await self._exit_stack.enter_async_context(get_client(httpx_settings=bell.bounded_http(self._tls)))
        self._bell = bell.Bell(client, self._work_pool_name)
        self._spare = await self._spawn()
        self.is_setup = True

    @override
    async def teardown(self, *exc_info: Any) -> None:
        """End the children and close the client."""
        self.is_setup = False
        for child in (self._busy, self._spare):
            if child is not None:
                await child.end()
        await self._exit_stack.aclose()

    @override
    async def start(self, *_: Any, **__: Any) -> None:
        """Work until cancelled. Prefect's loops give up after some failures and open a channel; these do neither."""
        async with self, asyncio.TaskGroup() as loops:
            loops.create_task(self._forever("heartbeat", self._bell.beat, bell.HEARTBEAT_S))
            loops.create_task(self._forever("polling", self.answer_due_runs, self._poll_s))

    async def answer_due_runs(self) -> None:
        """Answer the run that was left unfinished, if any; then ask once for due runs and answer each in turn: a bank's
        machine does one job at a time."""
        if left := _left_over(self._note):
            log.info("run %s was under way when the worker ended; answering it now", left.id)
            await self.run(left, BankJobConfiguration())
        for run in await self._bell.due():
            await self.run(run, BankJobConfiguration())

    @override
    async def run(self, flow_run: Rung, configuration: BankJobConfiguration, task_status: Any = None) -> BankResult:
        """Answer the plan that the run names, and report how that ended.

        The configuration is not looked at. Whatever child and server do, this returns; only a stop of the worker itself
        passes through, once the child is dead.
        """
        plan = _plan_of(flow_run)
        if plan is None:
            _started(task_status, "refused")
            await self._report(flow_run.id, bell.refused("bad_parameters"))
            return BankResult(identifier="refused", status_code=0)
        child = self._busy = self._spare if self._spare and self._spare.alive else await self._spawn()
        self._spare = None
        _started(task_status, child.pid)
        log.info("run %s: child %d answers %s", flow_run.id, child.pid, plan.plan_key)
        _write_note(self._note, flow_run.id, plan)
        try:
            state = await self._attend(flow_run.id, child, plan)
            if state == bell.FAILED and not child.alive:
                child = self._busy = await self._spawn()
                log.warning("run %s: child %d answers in its place", flow_run.id, child.pid)
                state = await self._attend(flow_run.id, child, plan)
            await self._report(flow_run.id, state)
        except asyncio.CancelledError:
            await child.end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._bell.propose(flow_run.id, bell.STOPPED)
            raise
        self._note.unlink(missing_ok=True)
        # A new one only now, so that warming does not compete with the job for the machine.
        self._spare = child if child.alive else await self._spawn()
        return BankResult(identifier=str(child.pid), status_code=0)

    @override
    async def kill_infrastructure(
        self, infrastructure_pid: str, configuration: BankJobConfiguration, grace_seconds: int = 30
    ) -> None:
        """Kill the child at work, if that is its number; no other process."""
        if self._busy is None or not self._busy.alive or str(self._busy.pid) != infrastructure_pid:
            raise InfrastructureNotFound(f"expected the number of the child at work, got {infrastructure_pid!r}")
        self._busy.kill()

    @override
    async def _initiate_run(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("a bank runs only what its work pool rings for")

    @override
    async def _submit_adhoc_run(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("a bank runs only what its work pool rings for")

    async def _spawn(self) -> Child:
        return await Child.spawn(self._command, self._environment)

    async def _attend(self, run_id: UUID, child: Child, plan: PlanParameters) -> bell.State:
        """Let the child answer and talk to the server meanwhile; the state to report."""
        async with asyncio.TaskGroup() as tasks:
            verdict = tasks.create_task(child.answer(plan, self._job_timeout_s))
            # Not cancelled by the verdict: still under way at the server, it could overtake the final state.
            running = tasks.create_task(self._tell_of_beginning(run_id, verdict))
            unwanted = tasks.create_task(self._unwanted(run_id, running))
            await asyncio.wait({verdict, unwanted}, return_when=asyncio.FIRST_COMPLETED)
            unwanted.cancel()
            verdict.cancel()
        return bell.CANCELLED if verdict.cancelled() else _final(verdict.result())

    async def _tell_of_beginning(self, run_id: UUID, verdict: asyncio.Task[Verdict]) -> str:
        """What the server holds a job as that is still at work when it is worth telling."""
        done, _ = await asyncio.wait({verdict}, timeout=WORTH_TELLING_S)
        return bell.UNKNOWN if done else await self._bell.propose(run_id, bell.RUNNING)

    async def _unwanted(self, run_id: UUID, running: asyncio.Task[str]) -> None:
        """Return when the server no longer wants the run; until then, say that it lives."""
        await asyncio.wait({running})
        held, beat_at = running.result(), 0.0
        while held not in UNWANTED:
            if (now := asyncio.get_running_loop().time()) >= beat_at:
                beat_at = now + bell.HEARTBEAT_S
                await self._bell.beat_run(run_id)
            await asyncio.sleep(CANCEL_POLL_S)
            held = await self._bell.state_of(run_id)
        log.info("run %s is no longer wanted: %s", run_id, held)

    async def _report(self, run_id: UUID, state: bell.State) -> None:
        held = await self._bell.propose(run_id, state)
        if held == "CANCELLING":
            held = await self._bell.propose(run_id, bell.CANCELLED)
        log.info("run %s: %s", run_id, state.message)
        if held != state.type:
            log.warning("run %s: expected the server to hold it as %s, got %s", run_id, state.type, held)

    async def _forever(self, name: str, step: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Repeat a step; a server that is away, or talks nonsense, slows it down and never ends it."""
        failures, told = 0, ""
        while True:
            trouble = ""
            try:
                await step()
                failures = 0
            except Exception as error:
                failures += 1
                trouble = _trouble(error, self._work_pool_name)
            if trouble != told:
                log.log(logging.WARNING if trouble else logging.INFO, "%s: %s", name, trouble or "in order again")
                told = trouble
            await asyncio.sleep(min(every_s * 2**failures, bell.MAX_PAUSE_S) if failures else every_s)


def _write_note(note: Path, run_id: UUID, plan: PlanParameters) -> None:
    """Note the run at work: whole or not at all, whenever this process is killed."""
    fresh = note.with_suffix(".part")
    fresh.write_text(bell.Run(id=run_id, parameters=plan.model_dump()).model_dump_json())
    fresh.replace(note)


def _left_over(note: Path) -> bell.Run | None:
    """The run that a killed worker had noted; a note that is not sound is put away."""
    try:
        return bell.Run.model_validate_json(note.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("%s: expected the note of a run, got %s; going on without it", note, type(error).__name__)
        note.unlink(missing_ok=True)
        return None


def _plan_of(run: Rung) -> PlanParameters | None:
    try:
        return PlanParameters.model_validate(run.parameters)
    except ValidationError as error:
        faults = sorted({fault["type"] for fault in error.errors()})
        log.warning("run %s: expected plan_key and plan_digest, got parameters with faults: %s", run.id, faults)
        return None


def _started(task_status: Any, identifier: int | str) -> None:
    if task_status is not None:
        task_status.started(identifier)


def _final(verdict: Verdict) -> bell.State:
    if verdict.status == "sent":
        return bell.SENT
    return bell.refused(verdict.reason) if verdict.status == "refused" else bell.FAILED


def _trouble(error: Exception, pool: str) -> str:
    """One line for the bank's log, without the server's own words."""
    status = bell.status_of(error)
    if status == httpx.codes.NOT_FOUND:
        return f"expected a work pool {pool!r}, got none yet; waiting for the coordinator to create it"
    answer = f"status {status}" if status else type(error).__name__
    return f"expected an answer of the Prefect server, got {answer}; trying on"


def run_worker(
    home: Path,
    pool: str,
    api_url: str,
    poll_s: float = 1.0,
    *,
    job_timeout_s: float = 3600.0,
    command: Sequence[str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Answer the plans rung in work pool `pool` of the server at `api_url`, until SIGTERM or SIGINT.

    Call it in the main thread. A pool that does not exist and a server that is away are waited for. Credentials for the
    server come from Prefect's own variables, which the child does not see, or are the certificate in `tls` where a
    gateway stands before the server. `command` starts another child than `bank_node.child`.
    """
    logging.basicConfig(format=LOG_FORMAT, force=True)  # Prefect has put a handler of its own there
    logging.getLogger("bank_node").setLevel(logging.INFO)
    with temporary_settings({"api.url": api_url, "logging.to_api.enabled": False, "client.max_retries": 0}):
        worker = BankWorker(
            pool,
            command=command or child_command(home),
            environment=child_environment(os.environ),
            note=home / "run-under-way.json",
            poll_s=poll_s,
            job_timeout_s=job_timeout_s,
            tls=tls,
        )
        asyncio.run(_work(worker))


async def _work(worker: BankWorker) -> None:
    work = asyncio.ensure_future(worker.start())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    log.info("bank worker of work pool %s is up", worker.name)
    with contextlib.suppress(asyncio.CancelledError):
        await work
    log.info("bank worker of work pool %s is stopped", worker.name)
