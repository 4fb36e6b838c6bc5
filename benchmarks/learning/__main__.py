"""How good is the model, for whom, at which price in privacy? One command, a table, plots and a JSON.

Five ways to make a model (each bank's own, the average of these, federated, deployed at the bank, centralised) on three
sets at six epsilons and with five seeds. Finished cells are kept in var/benchmarks/learning/: an interrupted run goes on
where it stopped. Results: var/benchmarks/learning.json and var/benchmarks/learning-*.png.

    python -m benchmarks.learning [--quick] [--sets sparkov] [--epsilons 1 4 none] [--seeds 2] [--jobs 2]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.learning import tuning
from benchmarks.learning.cells import Cell, CellStore, Defaults, Record, compute
from benchmarks.learning.datasets import SETS, BenchmarkSet, load_set
from benchmarks.learning.plots import draw_plots
from benchmarks.learning.report import markdown, print_report, summarise
from mintmark.errors import MintmarkError
from mintmark.plan import PrivacyUnit

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, None)
QUICK_EPSILONS = (1.0, 4.0, None)
MAIN_EPSILONS = (1.0, 4.0)
GLOBAL = ("federated", "linear")
SEEDS = 5
TARGET = Path("var/benchmarks")

_loaded: dict[str, BenchmarkSet] = {}  # filled before the jobs are forked, which share it


@dataclass(frozen=True)
class Grid:
    """What is to be measured. The deployed model is by far the dearest: all seeds at `MAIN_EPSILONS`, one elsewhere."""

    sets: tuple[str, ...]
    epsilons: tuple[float | None, ...]
    seeds: int
    unit: PrivacyUnit = PrivacyUnit.CUSTOMER

    def cells(self) -> list[Cell]:
        """In the order in which they should be computed: what is cheap, then the first seed whole, then seed by seed."""
        sets = [name for name in ("sparkov", "simulator", "uci_default") if name in self.sets]
        every = [(seed, name) for seed in range(self.seeds) for name in sets]
        cells = [Cell(0, name, "tuned") for name in sets]
        cells += [Cell(*pair, kind, budget, self.unit) for pair in every for kind in GLOBAL for budget in self.epsilons]
        for seed, name in every:
            deployed = [budget for budget in self.epsilons if seed == 0 or budget in MAIN_EPSILONS]
            cells += [Cell(seed, name, "own"), Cell(seed, name, "central")]
            cells += [Cell(seed, name, "deployed", budget, self.unit) for budget in deployed]
        return cells


def run(
    grid: Grid, data: Path, store: CellStore, console: Console, *, jobs: int, minutes: float = math.inf
) -> list[Record]:
    """Compute what is missing, beginning nothing new after so many minutes; return the records of all finished cells."""
    stop_at = time.monotonic() + 60 * minutes
    cells = grid.cells()
    missing = [cell for cell in cells if not store.has(cell)]
    for name in {cell.set for cell in missing}:
        console.print(f"loading {name}")
        _loaded[name] = load_set(name, data)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} cells"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=console) as progress:
        bar = progress.add_task("measuring", total=len(cells), completed=len(cells) - len(missing), left="")
        for cell in _computed(missing, store, jobs, stop_at):
            progress.console.print(f"  {cell.name:<40}{store.seconds(cell):7.1f} s", highlight=False)
            progress.update(bar, advance=1, left=_estimate(cells, store, jobs))
    return [record for cell in cells if cell.kind != "tuned" and store.has(cell) for record in store.read(cell)]


def _computed(cells: Sequence[Cell], store: CellStore, jobs: int, stop_at: float) -> Iterable[Cell]:
    """Each cell once it is finished, in forked processes that share the loaded rows; a cell waits for what it needs."""
    waiting, running = list(cells), dict[Future[None], Cell]()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        try:
            while running or (waiting and time.monotonic() < stop_at):
                ready = [cell for cell in waiting if all(store.has(needed) for needed in cell.needs)]
                for cell in ready[: jobs - len(running)] if time.monotonic() < stop_at else ():
                    waiting.remove(cell)
                    running[pool.submit(_compute, cell, store)] = cell
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    yield running.pop(future)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _compute(cell: Cell, store: CellStore) -> None:
    compute(cell, _loaded[cell.set], store, Defaults())


def _estimate(cells: Sequence[Cell], store: CellStore, jobs: int) -> str:
    """What is left, from the finished cells of the same set and kind; nothing while one of these has none."""
    known: dict[tuple[str, str], list[float]] = {}
    left: list[tuple[str, str]] = []
    for cell in cells:
        if store.has(cell):
            known.setdefault((cell.set, cell.kind), []).append(store.seconds(cell))
        else:
            left.append((cell.set, cell.kind))
    if any(key not in known for key in left):
        return ""
    seconds = sum(sum(known[key]) / len(known[key]) for key in left) / jobs
    return f"about {seconds / 60:.0f} min left"


def _epsilon(text: str) -> float | None:
    return None if text == "none" else float(text)


def main() -> None:
    """Measure, print, plot and write."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.learning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--epsilons", nargs="+", type=_epsilon, help="numbers, or none", metavar="EPSILON")
    parser.add_argument("--seeds", type=int, help=f"how many, {SEEDS} unless given")
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument(
        "--unit",
        type=PrivacyUnit,
        choices=list(PrivacyUnit),
        default=PrivacyUnit.CUSTOMER,
        help="whom the noise hides; transaction is for comparison only: the sets' features look at a customer's other rows",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes of one core each")
    parser.add_argument("--minutes", type=float, default=math.inf, help="then report what is finished")
    parser.add_argument("--quick", action="store_true", help="epsilon 1, 4 and none; one seed")
    parser.add_argument("--markdown", type=Path, help="also write the section for docs/benchmarks.md here")
    options = parser.parse_args()
    os.nice(10)
    os.environ["OMP_NUM_THREADS"] = "1"  # before a job loads LightGBM: the jobs share the cores already
    epsilons = options.epsilons or (QUICK_EPSILONS if options.quick else EPSILONS)
    grid = Grid(tuple(options.sets), tuple(epsilons), options.seeds or (1 if options.quick else SEEDS), options.unit)
    console = Console()
    try:
        store = CellStore(TARGET / "learning")
        records = run(grid, options.data_dir, store, console, jobs=options.jobs, minutes=options.minutes)
    except MintmarkError as error:
        sys.exit(
            f"{error}\nGive the folder of the two shared sets with --data-dir, or leave them out: --sets simulator"
        )
    except KeyboardInterrupt:
        sys.exit("Stopped. What is finished is kept; the same command goes on from there.")
    tuned = json.loads(tuning.TUNED.read_text())
    summary = summarise(records, options.unit, {name: tuned[name] for name in options.sets})
    print_report(summary, console)
    (TARGET / "learning.json").write_text(json.dumps(summary, indent=1) + "\n")
    for file in draw_plots(summary, TARGET):
        console.print(f"wrote {file}")
    console.print(f"wrote {TARGET / 'learning.json'}")
    if options.markdown:
        options.markdown.write_text(markdown(summary))


if __name__ == "__main__":
    main()
