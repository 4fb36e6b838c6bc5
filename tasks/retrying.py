"""When a step that failed is worth another try: the store or the Prefect server was away. Everything else would only fail
again, and every step lands on the same objects however often it runs."""

from __future__ import annotations

from typing import Any

import httpx
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from mintmark.errors import ConflictError, StorageError, TooLargeError

DELAYS_S = [2.0, 4.0, 8.0, 16.0, 30.0]
"""Between the tries of a step: a minute for what was killed to be started again."""


def worth_retrying(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`: the state's data is the exception."""
    return is_passing(state.data)


def is_passing(error: object) -> bool:
    """Whether an error is trouble that passes.

    >>> is_passing(StorageError("503")), is_passing(ConflictError("other bytes")), is_passing(ValueError())
    (True, False, False)
    """
    final = isinstance(error, ConflictError | TooLargeError)
    return isinstance(error, StorageError | httpx.HTTPError) and not final
