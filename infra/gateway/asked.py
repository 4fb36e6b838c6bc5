"""What a bank may say to Prefect through the gateway: a model for each body. What it may hear is in `told.py`.

A body is parsed into its model and written anew from it, so that whatever a model does not name (the `data` of a
state, which can carry code, above all) does not pass. What a bank asks for beyond its part (`parameters`
of a run, a forced state) is refused, not dropped. Bodies are JSON and bounded before they come here.

    asked = Proposal.model_validate_json(b'{"state": {"type": "RUNNING", "name": "Running"}, "force": false}')
    asked.wire()   # b'{"state":{"type":"RUNNING","name":"Running"},"force":false}'
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, RootModel

MAX_ITEMS = 200
"""How many log lines, events or names one request may hold."""

Word = Annotated[str, Field(pattern=r"^[\w .,:()/-]{1,120}$")]
Text = Annotated[str, Field(max_length=4096)]
StateType = Literal["RUNNING", "PENDING", "COMPLETED", "FAILED", "CANCELLED", "CANCELLING", "CRASHED", "SCHEDULED"]
BankState = Literal["PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED"]


class Asked(BaseModel):
    """The body of a request. A field that is not named here is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def runs(self) -> Iterable[UUID]:
        """The flow runs that it speaks of."""
        return ()

    def foreign(self, pool: str) -> bool:
        """Whether it speaks of anything but this work pool and its worker."""
        return False

    def wire(self) -> bytes:
        """What is sent on."""
        return self.model_dump_json(exclude_unset=True).encode()


class Due(Asked):
    """Which runs of the pool are due."""

    work_queue_names: Annotated[list[Word], Field(max_length=MAX_ITEMS)] | None = None
    scheduled_before: AwareDatetime | None = None
    scheduled_after: AwareDatetime | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_ITEMS)] | None = None


class Names(Asked):
    """One of these names."""

    any_: Annotated[list[Word], Field(max_length=MAX_ITEMS)]


class NameFilter(Asked):
    """Whatever has one of these names."""

    name: Names


class Queues(Asked):
    """Which queues of the pool to tell of."""

    work_queues: NameFilter | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_ITEMS)] | None = None
    offset: Annotated[int, Field(ge=0, le=10_000)] = 0


class WorkerBeat(Asked):
    """The worker of the pool lives."""

    name: Word
    heartbeat_interval_seconds: Annotated[float, Field(ge=1, le=3600)] | None = None


class _StateTypes(Asked):
    any_: list[Literal["SCHEDULED"]]


class _StateFilter(Asked):
    type: _StateTypes


class _Until(Asked):
    before_: AwareDatetime


class _RunFilter(Asked):
    state: _StateFilter
    next_scheduled_start_time: _Until


class DueInPool(Asked):
    """Which runs of the pool are due, without writing that somebody asked."""

    work_pools: NameFilter | None = None
    flow_runs: _RunFilter | None = None
    sort: Literal["NEXT_SCHEDULED_START_TIME_ASC"] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_ITEMS)] | None = None

    def foreign(self, pool: str) -> bool:
        """Without its own pool as the only one, it would list everybody's runs."""
        return self.work_pools is None or self.work_pools.name.any_ != [pool]


class ProposedState(Asked):
    """A state as a bank may offer it. Prefect's client sends more (data, details, an id): that stays here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: BankState
    name: Word | None = None
    message: Text | None = None


class Proposal(Asked):
    """A state for a run; never by force."""

    state: ProposedState
    force: Literal[False] = False


class RunChange(Asked):
    """What a worker may write into a run: by which number its machine knows it."""

    infrastructure_pid: Annotated[str, Field(max_length=200)]


class Labels(RootModel[dict[Word, Word | int | float | bool]], Asked):
    """Labels of a run."""

    model_config = ConfigDict(frozen=True, extra=None)
    root: Annotated[dict[Word, Word | int | float | bool], Field(max_length=20)]


class LogLine(Asked):
    """A line of a run's log; lines of no run are refused."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Word
    level: Annotated[int, Field(ge=0, le=100)]
    message: Text
    timestamp: AwareDatetime
    flow_run_id: UUID
    task_run_id: None = None


class Logs(RootModel[list[LogLine]], Asked):
    """Lines of the logs of the bank's runs."""

    model_config = ConfigDict(frozen=True, extra=None)
    root: Annotated[list[LogLine], Field(max_length=MAX_ITEMS)]

    def runs(self) -> Iterable[UUID]:
        """One a line."""
        return (line.flow_run_id for line in self.root)


class _Resource(Asked):
    model_config = ConfigDict(extra="ignore", frozen=True)

    id: Annotated[str, Field(alias="prefect.resource.id", pattern=r"^prefect\.[a-z.-]+\.[a-z0-9-]{1,80}$")]


class Event(Asked):
    """That a run lives, or that the worker took or ended one. Payload and related resources stay here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: UUID
    occurred: AwareDatetime
    event: Literal[
        "prefect.flow-run.heartbeat", "prefect.worker.submitted-flow-run", "prefect.worker.executed-flow-run"
    ]
    resource: _Resource

    @property
    def _of_a_run(self) -> bool:
        return self.event == "prefect.flow-run.heartbeat"

    def runs(self) -> Iterable[UUID]:
        """The run that lives; `ValueError` where the resource is none."""
        if self._of_a_run:
            yield UUID(self.resource.id.removeprefix("prefect.flow-run."))

    def foreign(self, pool: str) -> bool:
        """Whether another worker speaks."""
        return not self._of_a_run and self.resource.id != f"prefect.worker.mintmark-bank.{pool}"

    def wire(self) -> bytes:
        """With the resource's name as Prefect writes it."""
        return self.model_dump_json(by_alias=True).encode()


class Events(RootModel[list[Event]], Asked):
    """Events of the bank's runs and worker."""

    model_config = ConfigDict(frozen=True, extra=None)
    root: Annotated[list[Event], Field(max_length=MAX_ITEMS)]

    def runs(self) -> Iterable[UUID]:
        """The runs of all of them."""
        return (run for event in self.root for run in event.runs())

    def foreign(self, pool: str) -> bool:
        """Whether any is another worker's."""
        return any(event.foreign(pool) for event in self.root)

    def wire(self) -> bytes:
        """With the resources' names as Prefect writes them."""
        return self.model_dump_json(by_alias=True).encode()
