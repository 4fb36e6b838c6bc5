"""`mintmark-bank backtest` and `drift`: how models did on the bank's own rows, and whether its payments have changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from bank_node.options import HomeOption
from bank_node.settings import Home


def backtest(
    home: HomeOption,
    labels_after: Annotated[
        int, typer.Option(min=0, max=3650, help="Leave out rows younger than so many days: labels come late.")
    ] = 0,
) -> None:
    """Score the bank's held-out rows with every past champion and the deployed model, week by week.

    Writes backtest.json and backtest.png into the folder checks/. Nothing leaves the bank.
    """
    from bank_node.backtest import as_json, divide
    from bank_node.backtest import backtest as run
    from bank_node.serving.models import Site, past_models
    from bank_node.table import load_table
    from mintmark.privacy.ledger import write_durably
    from mintmark.s3 import S3Store
    from mintmark.week_plot import draw_weeks

    opened, console = Home(home), Console()
    site = Site(opened, lambda: S3Store(opened.storage()))
    weeks = divide(load_table(opened.data, site.schema), labels_after)
    with console.status("back-testing") as status:
        models, left_out = past_models(site)
        result = run({name: model.scorer for name, model in models.items()}, weeks, status.update)
    folder = opened.path / "checks"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = {"bank": opened.settings.bank, "labels_after_days": labels_after, "models": as_json(result)}
    write_durably(folder / "backtest.json", (json.dumps(facts, indent=2) + "\n").encode())
    auprc = {name: {week: found.auprc for week, found in own.items()} for name, own in result.items()}
    recall = {name: {week: found.recall for week, found in own.items()} for name, own in result.items()}
    write_durably(folder / "backtest.png", draw_weeks(auprc, recall, f"{opened.settings.bank}: held-out rows"))
    grid = Grid(title=f"{opened.settings.bank}: held-out rows, 95 % intervals")
    for heading in ("model", "week", "rows", "frauds", "AUPRC", "recall at .5 % false positives", "alerts"):
        grid.add_column(heading, justify="left" if heading in ("model", "week") else "right")
    for name, own in result.items():
        for week, found in own.items():
            told = (
                f"{found.rows:,}",
                f"{found.frauds:,}",
                found.auprc.told(),
                found.recall.told(),
                f"{found.alerts:,}",
            )
            grid.add_row(name, week, *told)
    console.print(grid)
    for sentence in left_out:
        console.print(sentence, highlight=False)
    console.print(f"Written to {folder}: backtest.json and backtest.png", highlight=False, soft_wrap=True)


def drift(
    file: Annotated[
        Path, typer.Argument(help="This month's transactions with the agreed features' columns (Parquet).")
    ],
    home: HomeOption,
    model: Annotated[
        str | None, typer.Option(help="Whose scores to look at: deployed, champion or a campaign's name.")
    ] = None,
) -> None:
    """Compare a file's features and scores with the bank's own rows: population stability index, and what is chance.

    Writes drift.json and drift.png into the folder checks/. Nothing leaves the bank.
    """
    from bank_node.serving.drift import draw_drift, measure_drift
    from bank_node.serving.models import Site, default_alias, open_model
    from bank_node.table import load_table
    from mintmark.privacy.ledger import write_durably
    from mintmark.s3 import S3Store

    opened, console = Home(home), Console()
    site = Site(opened, lambda: S3Store(opened.storage()))
    with console.status("comparing"):
        served = open_model(site, model or default_alias(opened))
        measured = measure_drift(file, load_table(opened.data, site.schema), served.scorer)
    folder = opened.path / "checks"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = {
        name: {"index": drift.index.value, "by_chance": drift.by_chance, "drift": drift.reading}
        for name, drift in measured.items()
    }
    facts = {"file": file.name, "model": served.alias, "campaign": served.campaign, "drift": found}
    write_durably(folder / "drift.json", (json.dumps(facts, indent=2) + "\n").encode())
    draw_drift(folder / "drift.png", measured, f"{opened.settings.bank}: {file.name}")
    grid = Grid(title=f"{file.name} beside {opened.settings.bank}'s own rows: population stability index")
    for heading in ("", "index", "by chance", "drift"):
        grid.add_column(heading, justify="right" if heading in ("index", "by chance") else "left")
    for name, drift in measured.items():
        grid.add_row(name, f"{drift.index.value:.4f}", f"{drift.by_chance:.4f}", drift.reading)
    console.print(grid)
    console.print(f"Written to {folder}: drift.json and drift.png", highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add both commands to `mintmark-bank`."""
    for command in (backtest, drift):
        app.command()(command)
