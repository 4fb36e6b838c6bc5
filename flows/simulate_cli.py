"""`mintmark simulate`: a campaign of hundreds of banks in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mintmark.aggregation.rules import DEFAULT_RULE


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(simulate)


def simulate(
    banks: Annotated[int, typer.Option(min=2, max=1000, help="How many banks, all of one size.")] = 300,
    rounds: Annotated[int, typer.Option(min=3, max=100, help="Training rounds.")] = 10,
    rows: Annotated[int, typer.Option(min=1000, help="Rows of each bank, a quarter of them held out.")] = 10_000,
    epsilon: Annotated[
        float, typer.Option(min=0.01, max=10.0, help="What the campaign may cost every customer (delta is 1e-6).")
    ] = 4.0,
    learner: Annotated[str, typer.Option(help="guided_boosting or logistic_regression.")] = "guided_boosting",
    rule: Annotated[str, typer.Option(help="How updates are aggregated (docs/aggregation.md).")] = DEFAULT_RULE,
    liars: Annotated[
        int | None, typer.Option(min=0, help="How many banks the rule must stand; a quarter unless given.")
    ] = None,
    attack: Annotated[
        str | None, typer.Option(help="What lying banks do: alie, sign_flip, scaling or another.")
    ] = None,
    attackers: Annotated[int, typer.Option(min=0, help="How many banks lie: the second one, and so on.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of rows, trees and noise: the same seed, the same figures.")] = 7,
    report: Annotated[Path | None, typer.Option(help="Write the figures to this file as JSON.")] = None,
) -> None:
    """Run a campaign of many banks in memory, without servers: for research and capacity planning.

    The same core as a real campaign; nothing here protects anybody.
    """
    from infra.simulate import SimulationOptions, run_simulation

    options = SimulationOptions(banks, rounds, rows, epsilon, learner, rule, liars, attack, attackers, seed, report)
    run_simulation(options, Console())
