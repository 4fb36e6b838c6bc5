"""Which rule keeps most of the model when banks lie? Whole campaigns in memory, a table, a heat map and a JSON.

Every cell is one campaign at epsilon 4 (`benchmarks/robustness/campaigns.py`). Finished cells are kept in
var/benchmarks/robustness/, by a digest of the code: an interrupted run goes on where it stopped, and two runs of other
sets or seeds may go beside each other. Results: var/benchmarks/robustness.json and robustness.png beside it.

    python -m benchmarks.robustness [--sets simulator] [--rules centred_clipping] [--attacks none alie] [--minutes 30]

A cell takes half a second to four of a core, the adaptive attack on coordinate-wise rules fifteen. One whose rule cannot
stand what screening leaves is a gap. Left out: infinity and NaN, which the wire cannot carry and screening refuses.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks.robustness.campaigns import HONEST, ROW_ATTACK, SETS, Cell, CellStore, compute
from benchmarks.robustness.table import draw_plot, markdown, summarise
from mintmark.errors import AggregationError, MintmarkError
from mintmark.models.boosting import GuidedBoosting
from mintmark.models.linear import LogisticRegression

TARGET = Path("var/benchmarks")
RULES = (
    "weighted_mean", "centred_clipping", "geometric_median", "trimmed_mean", "coordinate_median", "meamed", "caf",
    "multi_krum", "nnm+trimmed_mean", "arc+nnm+geometric_median",
)  # fmt: skip
ATTACKING = (
    HONEST, "adaptive", "optimal_alie", "optimal_inner_product", "alie", "inner_product", "sign_flip", "scaling",
    ROW_ATTACK, "mimic", "gaussian", "size_lie",
)  # fmt: skip


def run(cells: Sequence[Cell], data: Path, store: CellStore, *, minutes: float = math.inf) -> None:
    """Compute what is missing, in order, beginning nothing new after so many minutes."""
    stop_at = time.monotonic() + 60 * minutes
    missing = [cell for cell in cells if not store.has(cell)]
    for number, cell in enumerate(missing, 1):
        if time.monotonic() > stop_at:
            print(f"stopped after {minutes:g} minutes, {len(missing) - number + 1} cells left")
            return
        try:
            compute(cell, data, store)
        except AggregationError as error:  # too few banks were left by screening for what the rule needs: a gap
            print(f"{number:>4} of {len(missing)}  {cell.name}: {error}", flush=True)
            continue
        done = store.read(cell)
        print(
            f"{number:>4} of {len(missing)}  {cell.name:<75} {done['auprc']:.3f} {done['seconds']:>6.1f} s", flush=True
        )


def main() -> None:
    """Measure what is missing of the asked part of the table; print, plot and write what is there."""
    ask = argparse.ArgumentParser(
        prog="benchmarks.robustness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    ask.add_argument("--banks", nargs="+", type=int, default=[8, 20])
    ask.add_argument("--learners", nargs="+", default=[GuidedBoosting.name, LogisticRegression.name])
    ask.add_argument("--rules", nargs="+", default=list(RULES))
    ask.add_argument("--attacks", nargs="+", choices=ATTACKING, default=list(ATTACKING))
    ask.add_argument("--seeds", nargs="+", type=int, default=[51, 52], help="a seed is its figure: any number")
    ask.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    ask.add_argument("--minutes", type=float, default=math.inf, help="then report what is finished")
    ask.add_argument("--markdown", type=Path, help="also write the tables for docs/benchmarks.md here")
    ask.add_argument("--plot", type=Path, default=TARGET / "robustness.png", help="where the heat map goes")
    asked = ask.parse_args()
    os.nice(10)
    grid = product(asked.seeds, asked.sets, asked.banks, asked.learners, asked.attacks, asked.rules)
    cells, store = [Cell(*fields) for fields in grid], CellStore(TARGET / "robustness")
    try:
        run(cells, asked.data_dir, store, minutes=asked.minutes)
    except MintmarkError as error:
        sys.exit(f"{error}\nGive the folder of the shared sets with --data-dir, or leave them out: --sets simulator")
    except KeyboardInterrupt:
        sys.exit("Stopped. What is finished is kept; the same command goes on from there.")
    panels = summarise([store.read(cell) for cell in cells if store.has(cell)], asked.attacks, asked.rules)
    if not panels:
        sys.exit("Nothing is finished yet: give it more minutes.")
    text = markdown(panels)
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text)
    (TARGET / "robustness.json").write_text(json.dumps([panel.as_record() for panel in panels], indent=1) + "\n")
    draw_plot(panels, asked.plot)
    print(f"wrote {TARGET / 'robustness.json'} and {asked.plot}")


if __name__ == "__main__":
    main()
