"""`make chaos`: the fault matrix against real processes; a table here, and `var/chaos.json` (cell, outcome, seconds).

python -m infra.chaos [--only WORD] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from infra.chaos.consortium import open_theatre
from infra.chaos.matrix import Scene, scenes, small
from infra.chaos.play import Outcome, Player
from infra.chaos.supervisor import Supervisor
from infra.embedded.demo import environment_for
from infra.embedded.interrupts import interruptible
from mintmark.errors import MintmarkError

OUTPUT = Path("var/chaos.json")


def run(played: Iterable[Scene], console: Console, state: Path, output: Path) -> list[Outcome]:
    """Play the scenes in one consortium under `state`; what is known so far is always in `output`."""
    os.environ.update(environment_for(state))  # before Prefect is imported here
    (state / "tmp").mkdir(parents=True)
    outcomes: list[Outcome] = []
    with interruptible(), Supervisor(state / "logs") as group, ExitStack() as stack:
        theatre = open_theatre(stack, state, group, lambda what: console.print(f"  ready {what}", highlight=False))
        for scene in played:
            began = time.monotonic()
            player = Player(theatre, scene)
            for outcome in player.play():
                outcomes.append(outcome)
                console.print(
                    f"  {outcome.cell}: {outcome.outcome}, {outcome.seconds} s", highlight=False, soft_wrap=True
                )
            output.write_text(json.dumps([asdict(one) for one in outcomes], indent=2) + "\n")
            also = f", started again {', '.join(player.revived)}" if player.revived else ""
            console.print(f"[dim]{scene.name}: {time.monotonic() - began:.0f} s{also}[/dim]", highlight=False)
    return outcomes


def table(outcomes: list[Outcome]) -> Table:
    """The matrix as it is printed."""
    grid = Table("fault", "outcome", "seconds", title="Fault matrix")
    for one in outcomes:
        style = "red" if one.outcome.startswith("BROKEN") else ""
        grid.add_row(one.cell, one.outcome, "" if one.seconds is None else f"{one.seconds:.1f}", style=style)
    return grid


def main() -> int:
    """Exit code 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m infra.chaos", description=__doc__)
    parser.add_argument(
        "--only", nargs="*", help="Play the scenes whose names begin so, in this order; `small` plays four cells."
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    console = Console()
    known = [*scenes(), *(small() if options.only else ())]
    chosen = [scene for word in options.only or ("",) for scene in known if scene.name.startswith(word)]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    state = Path(tempfile.mkdtemp(prefix="mintmark-chaos-"))
    outcomes: list[Outcome] = []
    try:
        outcomes = run(chosen, console, state, options.output)
    except MintmarkError as error:
        console.print(f"chaos: {error}", soft_wrap=True)
        return 1
    broken = [one for one in outcomes if one.outcome.startswith("BROKEN")]
    console.print(table(outcomes))
    console.print(f"{len(outcomes)} cells, {len(broken)} broken; {options.output}")
    if broken:
        console.print(f"The logs are in {state / 'logs'}.", soft_wrap=True)
        return 1
    shutil.rmtree(state, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
