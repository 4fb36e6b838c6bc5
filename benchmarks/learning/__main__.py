"""How good is the model, for whom, at which price in privacy? One command, a table, plots and a JSON.

Five ways to make a model (each bank's own, the average of these, federated, deployed at the bank, centralised) on three
sets at six epsilons and with five seeds. Finished cells are kept in var/benchmarks/learning/: an interrupted run goes on
where it stopped. Results: var/benchmarks/learning.json and var/benchmarks/learning-*.png.

    python -m benchmarks.learning [--quick] [--sets sparkov] [--epsilons 1 4 none] [--seeds 2] [--jobs 2]
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.learning.cells import Cell, CellStore, Defaults, Record, compute
from benchmarks.learning.datasets import SETS, BenchmarkSet, load_set
from benchmarks.learning.plots import draw_plots
from benchmarks.learning.report import markdown, print_report, summarise
from mintmark.errors import MintmarkError

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, None)
QUICK_EPSILONS = (1.0, 4.0, None)
SEEDS = 5
TARGET = Path("var/benchmarks")

_loaded: dict[str, BenchmarkSet] = {}  # filled before the jobs are forked, which share it


@dataclass(frozen=True)
class Grid:
    """What is to be measured."""

    sets: tuple[str, ...]
    epsilons: tuple[float | None, ...]
    seeds: int

    def stages(self) -> tuple[list[Cell], list[Cell]]:
        """Baseline cells, and the federated cells that need them; the largest set first, all of a seed together."""
        order = sorted(self.sets, key=lambda name: ("sparkov", "simulator", "uci_default").index(name))
        pairs = list(itertools.product(range(self.seeds), order))
        baselines = [Cell(seed, name, kind) for (seed, name) in pairs for kind in ("own", "central")]
        federated = [
            Cell(seed, name, "federated", epsilon) for seed, name in pairs for epsilon in sorted_budgets(self.epsilons)
        ]
        return baselines, federated


def sorted_budgets(epsilons: Iterable[float | None]) -> list[float | None]:
    """From the strictest to none."""
    return sorted(epsilons, key=lambda epsilon: float("inf") if epsilon is None else epsilon)


def run(grid: Grid, data: Path, store: CellStore, jobs: int, console: Console) -> list[Record]:
    """Compute what is missing and return all records of the grid."""
    stages = grid.stages()
    missing = [cell for stage in stages for cell in stage if store.read(cell) is None]
    for name in {cell.set for cell in missing}:
        console.print(f"loading {name}")
        _loaded[name] = load_set(name, data)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} cells"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=console) as progress:
        bar = progress.add_task("measuring", total=sum(map(len, stages)), left="")
        progress.advance(bar, sum(map(len, stages)) - len(missing))
        for stage in stages:
            for cell in _computed([cell for cell in stage if cell in missing], store, jobs):
                progress.console.print(f"  {cell.name:<40}{store.seconds(cell):7.1f} s", highlight=False)
                progress.update(bar, advance=1, left=_estimate(stages, store, jobs))
    return [record for stage in stages for cell in stage for record in store.read(cell) or ()]


def _computed(cells: Sequence[Cell], store: CellStore, jobs: int) -> Iterable[Cell]:
    """Each cell once it is finished, in forked processes that share the loaded rows."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        futures: dict[Future[None], Cell] = {pool.submit(_compute, cell, store): cell for cell in cells}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _compute(cell: Cell, store: CellStore) -> None:
    os.nice(10 - os.nice(0))
    compute(cell, _loaded[cell.set], store, Defaults())


def _estimate(stages: Sequence[Sequence[Cell]], store: CellStore, jobs: int) -> str:
    """What is left, from the finished cells of the same set and kind; nothing while one of these has none."""
    known: dict[tuple[str, str], list[float]] = {}
    left: list[tuple[str, str]] = []
    for cell in itertools.chain(*stages):
        if store.path(cell).exists():
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
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="epsilon 1, 4 and none; one seed")
    parser.add_argument("--markdown", type=Path, help="also write the section for docs/benchmarks.md here")
    options = parser.parse_args()
    epsilons = options.epsilons or (QUICK_EPSILONS if options.quick else EPSILONS)
    grid = Grid(tuple(options.sets), tuple(epsilons), options.seeds or (1 if options.quick else SEEDS))
    console = Console()
    try:
        records = run(grid, options.data_dir, CellStore(TARGET / "learning"), options.jobs, console)
    except MintmarkError as error:
        sys.exit(
            f"{error}\nGive the folder of the two shared sets with --data-dir, or leave them out: --sets simulator"
        )
    except KeyboardInterrupt:
        sys.exit("Stopped. What is finished is kept; the same command goes on from there.")
    summary = summarise(records)
    print_report(summary, console)
    (TARGET / "learning.json").write_text(json.dumps(summary, indent=1) + "\n")
    for file in draw_plots(summary, TARGET):
        console.print(f"wrote {file}")
    console.print(f"wrote {TARGET / 'learning.json'}")
    if options.markdown:
        options.markdown.write_text(markdown(summary))


if __name__ == "__main__":
    main()
