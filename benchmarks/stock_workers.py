"""What Prefect's own process workers need for what `benchmarks.rounds` measures of ours: to hear the bell and answer.

A worker and a work pool a bank, a flow that does nothing, PostgreSQL; a round is a run in every pool, waited for. A stock
worker starts a new interpreter for each run, and runs what the server names: prefect.md's reasons against it are about
safety first.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from prefect import flow

from infra.embedded.demo import environment_for
from infra.embedded.interrupts import interruptible
from infra.embedded.object_storage import Credentials
from infra.embedded.processes import ProcessGroup
from infra.embedded.servers import start_servers

DEADLINE_S = 600
POLL_S = 0.2


@flow(name="stock-bank-round")
def answer(plan_key: str, plan_digest: str) -> None:
    """What a bank does in the least possible round: nothing."""


def measure_stock(banks: int, rounds: int) -> dict[str, Any]:
    """Seconds of each round, and CPU-seconds of all workers a round."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.types.entrypoint import EntrypointType

    from benchmarks.rounds import cpu_seconds

    with tempfile.TemporaryDirectory(prefix="mintmark-") as directory:
        state = Path(directory)
        environment = environment_for(state) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        os.environ.update(environment)
        with interruptible(), ProcessGroup(state / "logs") as group:
            endpoints = start_servers(
                group, state, bucket="none", storage_root=Credentials.random(), on_ready=lambda _: None,
                base_env=environment,
            )  # fmt: skip
            own = {"PREFECT_API_URL": endpoints.prefect_api, "PREFECT_WORKER_QUERY_SECONDS": "1"}
            with temporary_settings({PREFECT_API_URL: endpoints.prefect_api}), get_client(sync_client=True) as client:
                deployments, workers = [], []
                for bank in range(banks):
                    pool = f"stock-{bank}"
                    client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
                    deployed = answer.to_deployment(
                        pool, work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH
                    )
                    deployments.append(deployed.apply())
                    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
                    workers.append(group.start(pool, command, env={**environment, **own}).pid)
                _round(client, deployments)  # the first one waits for the workers' start
                before, seconds = cpu_seconds(workers), [_round(client, deployments) for _ in range(rounds)]
                used = cpu_seconds(workers) - before
    return {
        "database": endpoints.database,
        "banks": banks,
        "round_seconds": [round(value, 2) for value in seconds],
        "round_median": round(statistics.median(seconds), 2),
        "worker_cpu_seconds_a_round": round(used / rounds, 2),
    }


def _round(client: Any, deployments: list[Any]) -> float:
    began = time.monotonic()
    parameters = {"plan_key": "none", "plan_digest": "none"}
    waiting = {client.create_flow_run_from_deployment(one, parameters=parameters).id for one in deployments}
    while waiting:
        if time.monotonic() - began > DEADLINE_S:
            raise RuntimeError(
                f"expected {len(deployments)} runs to end within {DEADLINE_S} s, got {len(waiting)} open"
            )
        time.sleep(POLL_S)
        for run in tuple(waiting):
            found = client.read_flow_run(run).state
            if found is not None and found.is_final():
                if not found.is_completed():
                    raise RuntimeError(f"expected a stock run to complete, got {found.name}")
                waiting.discard(run)
    return time.monotonic() - began
