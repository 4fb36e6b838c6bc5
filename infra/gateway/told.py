"""What a bank may hear from Prefect through the gateway: a model for each answer. What is not named here stays there.

ToldState.model_validate_json(answer).model_dump_json()   # a state without its data
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from infra.gateway.asked import StateType


class Told(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Kept(Told):
    """Whatever the server keeps under an id and a name."""

    id: UUID
    created: str | None = None
    updated: str | None = None
    name: str


class ToldState(Told):
    """A state without its data, and without its details: those may name other runs."""

    id: UUID
    type: StateType | Literal["PAUSED"]
    name: str | None = None
    timestamp: str
    message: str | None = None


class ToldRun(Kept):
    """A run as its bank sees it."""

    flow_id: UUID
    deployment_id: UUID | None = None
    work_pool_name: str | None = None
    work_queue_id: UUID | None = None
    work_queue_name: str | None = None
    parameters: dict[str, Any] = {}
    tags: list[str] = []
    run_count: int = 0
    expected_start_time: str | None = None
    next_scheduled_start_time: str | None = None
    start_time: str | None = None
    end_time: str | None = None
    infrastructure_pid: str | None = None
    state_type: str | None = None
    state_name: str | None = None
    state: ToldState | None = None


class DueRun(Told):
    """A run whose time has come."""

    work_pool_id: UUID
    work_queue_id: UUID
    flow_run: ToldRun


class _Details(Told):
    type: str
    reason: str | None = None
    delay_seconds: int | None = None


class Ruling(Told):
    """What the server says to a proposed state."""

    status: Literal["ACCEPT", "REJECT", "ABORT", "WAIT"]
    state: ToldState | None = None
    details: _Details


class ToldPool(Kept):
    """The bank's own pool."""

    type: str
    description: str | None = None
    base_job_template: dict[str, Any] = {}
    is_paused: bool = False
    concurrency_limit: int | None = None
    default_queue_id: UUID | None = None
    status: str | None = None


class ToldQueue(Kept):
    """A queue of the bank's own pool."""

    description: str | None = None
    is_paused: bool = False
    concurrency_limit: int | None = None
    priority: int = 1
    work_pool_id: UUID | None = None
    work_pool_name: str | None = None


class ToldDeployment(Kept):
    """The deployment on which the bank's bell hangs: no pull steps, variables or entrypoint."""

    flow_id: UUID
    description: str | None = None
    tags: list[str] = []
    work_pool_name: str | None = None
    work_queue_name: str | None = None


class ToldToken(Told):
    """A token against cross-site requests."""

    id: UUID
    token: str
    client: str
    expiration: str
