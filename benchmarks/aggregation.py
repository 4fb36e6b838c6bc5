"""Time and memory of every aggregation rule: `python -m benchmarks.aggregation`; figures go to var/benchmarks/.

One thread, float32 updates, each figure in a process of its own: medians of five runs, of CPU and of wall time (they differ
where others use the machine), and by how much the process's peak of memory grew over holding the updates. Reading is
numpy's sum over the same updates, measured beside each rule.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

OUTPUT = Path("var/benchmarks/aggregation.json")
COORDINATES = 1_000_000
RUNS = 5
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
SECONDS = {50: {"trimmed_mean": 0.4}, 200: {"trimmed_mean": 1.5, "krum": 2.0, "geometric_median": 2.0}}
MEGABYTES = {50: 100.0, 200: 200.0}
CHAINS = {
    50: (
        "weighted_mean", "trimmed_mean", "geometric_median", "krum", "multi_krum", "caf", "nnm+geometric_median",
        "nnm+krum", "nnm+multi_krum", "nnm+caf", "arc+geometric_median", "arc+nnm+geometric_median", "coordinate_median",
        "meamed", "centred_clipping", "monna", "bulyan", "bucketing+geometric_median",
    ),
    200: ("weighted_mean", "trimmed_mean", "krum", "geometric_median"),
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One rule at one size: medians of five runs. `read_s` is what reading the updates once took (CPU), `target_s` None
    where none was set."""

    chain: str
    banks: int
    cpu_s: float
    wall_s: float
    read_s: float
    extra_mb: float
    target_s: float | None
    target_mb: float


def measure(chain: str, banks: int) -> Figure:
    """Run one rule here; meant for a process of its own."""
    import numpy as np

    from mintmark.aggregation import aggregate

    f = (banks - 3) // 4 if "bulyan" in chain else 0 if chain == "weighted_mean" else banks // 5
    updates = np.empty((banks, COORDINATES), dtype=np.float32)
    generator = np.random.default_rng(0)
    for row in updates:
        generator.standard_normal(out=row, dtype=np.float32)
    aggregate(chain, updates[:, :5000], f=f)  # loads what is loaded once
    read_s, _ = _medians(updates.sum)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu_s, wall_s = _medians(lambda: aggregate(chain, updates, f=f))
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    mean = chain == "weighted_mean"
    target_s = 1.5 * read_s if mean else SECONDS[banks].get(chain, 1.2 if banks == 50 else None)
    return Figure(chain, banks, cpu_s, wall_s, read_s, extra, target_s, 20.0 if mean else MEGABYTES[banks])


def _medians(run: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = [], []
    for _ in range(RUNS):
        started = time.process_time(), time.perf_counter()
        run()
        cpu.append(time.process_time() - started[0])
        wall.append(time.perf_counter() - started[1])
    return median(cpu), median(wall)


def main() -> None:
    """Measure all, print a table (Markdown), write JSON."""
    if len(sys.argv) == 3:
        print(json.dumps(asdict(measure(sys.argv[1], int(sys.argv[2])))))
        return
    figures = []
    print("| n | rule | CPU, s | asked | wall, s | extra MB | asked | reading once, s |\n" + "|---" * 8 + "|")
    for banks, chains in CHAINS.items():
        for chain in chains:
            command = [sys.executable, "-m", "benchmarks.aggregation", chain, str(banks)]
            done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, check=True, text=True)
            figure = Figure(**json.loads(done.stdout))
            figures.append(figure)
            target = f"{figure.target_s:.3g}" if figure.target_s else "-"
            print(
                f"| {banks} | {chain.replace('_', ' ')} | {figure.cpu_s:.3f} | {target} | {figure.wall_s:.3f} "
                f"| {figure.extra_mb:.0f} | {figure.target_mb:.0f} | {figure.read_s:.3f} |",
                flush=True,
            )
            OUTPUT.parent.mkdir(parents=True, exist_ok=True)
            OUTPUT.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")


if __name__ == "__main__":
    main()
