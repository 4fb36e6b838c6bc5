"""What a round costs on top of the banks' computing, and what the whole consortium takes in memory.

Starts the one-machine consortium with banks of few rows, so that computing is next to nothing, and runs one campaign on
each database. A round's time runs from its plan to the next plan. Results: a table, and var/benchmarks/rounds.json.

    python -m benchmarks.rounds [--banks 5] [--rounds 12] [--database postgresql|sqlite|both] [--stock]

With `--stock`, Prefect's own process workers are measured beside ours, on the same number of banks.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from infra.embedded.consortium import EmbeddedConsortium
from infra.embedded.demo import CAMPAIGN, environment_for
from infra.embedded.interrupts import interruptible
from infra.embedded.processes import ProcessGroup
from mintmark.synthetic import SCHEMA, simulate_bank
from tasks.progress import CampaignWatch

ROWS_A_BANK = 2_500
DEADLINE_S = 900
STOCK_ROUNDS = 3


def measure(banks: int, rounds: int, database: str) -> dict[str, Any]:
    """One campaign: seconds of each round, seconds until ready, peak proportional memory of all processes in MiB."""
    from flows.deployments import campaign_state, start_campaign

    columns = {f"bank-{number:02d}": simulate_bank(3, number, ROWS_A_BANK) for number in range(banks)}
    with tempfile.TemporaryDirectory(prefix="mintmark-") as directory:
        state = Path(directory)
        environment = environment_for(state)
        os.environ.update(environment)
        with interruptible(), ProcessGroup(state / "logs") as group:
            started = time.monotonic()
            consortium = EmbeddedConsortium(group, state, SCHEMA, columns, epsilon=4.0)
            endpoints, coordinator = consortium.start(environment, lambda _: None, postgresql=database == "postgresql")
            ready = time.monotonic() - started
            idle = cpu_seconds([group.pid(bank) for bank in consortium.banks])
            parameters = {"campaign": CAMPAIGN, "rounds": rounds, "expert": {"seed": 1, "deadline_s": 120}}
            run = start_campaign(endpoints.prefect_api, parameters)
            memory, deadline = 0.0, time.monotonic() + DEADLINE_S
            while (state_now := campaign_state(endpoints.prefect_api, run)[0]) != "COMPLETED":
                if state_now in ("FAILED", "CRASHED", "CANCELLED") or time.monotonic() > deadline:
                    raise RuntimeError(f"expected the campaign to complete, got {state_now}")
                memory = max(memory, _memory_mib())
                time.sleep(1)
            used = cpu_seconds([group.pid(bank) for bank in consortium.banks]) - idle
            watch = CampaignWatch(coordinator.store, CAMPAIGN, consortium.banks, coordinator.signer.public_key)
            opened = [watch.plan(number).opens_at for number in range(len(watch.rounds()))]
    seconds = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(opened)]
    return {
        "database": endpoints.database,
        "banks": banks,
        "ready_seconds": round(ready, 1),
        "round_seconds": [round(value, 2) for value in seconds],
        "round_median": round(statistics.median(seconds), 2),
        "worker_cpu_seconds_a_round": round(used / len(opened), 2),
        "peak_memory_mib": round(memory),
    }


def cpu_seconds(roots: list[int]) -> float:
    """CPU-seconds so far of these processes and all below them, those that have ended included."""
    total = 0.0
    for root in roots:
        for process in [psutil.Process(root), *psutil.Process(root).children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])  # user, system, and those of its ended children
    return total


def _memory_mib() -> float:
    """Proportional set size of this process and all below it."""
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--banks", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--stock", action="store_true", help="measure stock process workers, too")
    parser.add_argument("--database", choices=["postgresql", "sqlite", "both"], default="both")
    arguments = parser.parse_args()
    databases = ["postgresql", "sqlite"] if arguments.database == "both" else [arguments.database]
    results = [measure(arguments.banks, arguments.rounds, database) for database in databases]
    if arguments.stock:
        from benchmarks.stock_workers import measure_stock

        results.append({"stock workers": True, **measure_stock(arguments.banks, STOCK_ROUNDS)})
    for result in results:
        whose = "stock" if "stock workers" in result else "ours"
        print(f"{whose:<6} {result['database']:<10} {result['banks']} banks", end="  ")
        print(f"round median {result['round_median']:.2f} s, max {max(result['round_seconds']):.2f} s", end="  ")
        print(f"workers' CPU {result['worker_cpu_seconds_a_round']:.2f} s a round", end="  ")
        print(f"memory {result.get('peak_memory_mib', 0)} MiB, load {os.getloadavg()[0]:.1f}")
    target = Path("var/benchmarks/rounds.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
