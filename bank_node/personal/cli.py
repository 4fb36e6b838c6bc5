"""`mintmark-bank personalise`, `score` and `explain`: the model a bank deploys. Nothing of it leaves the bank."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as Grid

from bank_node.options import HomeOption
from bank_node.settings import Home

SEED = 0


@dataclass(frozen=True)
class _Opened:
    home: Home
    schema: Any
    signer: Any


def personalise(
    home: HomeOption,
    campaign: Annotated[str, typer.Option(help="The finished campaign whose model to combine with the bank's own.")],
    trials: Annotated[int, typer.Option(min=1, max=6, help="How many shapes of the bank's own model to try.")] = 6,
) -> None:
    """Make the model to deploy: the bank's own and the global one, weighed by what the bank's own rows say.

    Takes minutes. Everything stays in the folder deployed/: the model, report.json and comparison.png.
    """
    from bank_node.personal.deployed import save
    from bank_node.personal.own_model import Effort
    from bank_node.personal.personalise import combine_with_shared, train_own
    from bank_node.personal.pictures import draw_comparison
    from bank_node.personal.report import compare
    from bank_node.personal.scorer import Scorer
    from bank_node.personal.shared_model import fetch_shared_model
    from bank_node.table import load_table
    from mintmark.privacy.ledger import write_durably
    from mintmark.s3 import S3Store

    opened, console = _open(home), Console()
    key = bytes.fromhex(opened.home.settings.coordinator_key)
    shared = fetch_shared_model(S3Store(opened.home.storage()), key, campaign, opened.schema)
    table = load_table(opened.home.data, opened.schema)
    rows, test = table.train(), table.test_part()
    with console.status("own model") as status:
        own = train_own(rows, Effort(trials=trials, seed=SEED), status.update)
        personal = combine_with_shared(own, rows, shared, bank=opened.home.settings.bank, tell=status.update)
        status.update("comparing on the test rows")
        report = compare(personal, Scorer(personal.deployed), test, seed=SEED)
    folder = opened.home.deployed
    save(folder, personal.deployed, opened.signer)
    facts = {"bank": opened.home.settings.bank, "campaign": campaign, "model_digest": shared.digest}
    write_durably(folder / "report.json", (json.dumps(facts | report.as_json(), indent=2) + "\n").encode())
    draw_comparison(folder / "comparison.png", report, test.labels, opened.home.settings.bank)
    _tell_comparison(console, report)
    console.print(f"Written to {folder}: the model, report.json and comparison.png", highlight=False, soft_wrap=True)


def score(
    file: Annotated[Path, typer.Argument(help="Transactions with the agreed features' columns (Parquet).")],
    out: Annotated[Path, typer.Option(help="Where the scores go (Parquet); it appears whole or not at all.")],
    home: HomeOption,
    keep: Annotated[
        list[str] | None, typer.Option(help="A column to copy beside the scores, such as an id; may be repeated.")
    ] = None,
    reasons: Annotated[
        int, typer.Option(min=0, help="How many reasons to give for each score: the features that raised it most.")
    ] = 0,
    model: Annotated[
        str, typer.Option(help="deployed (the bank's own), champion (the consortium's), or a campaign's name.")
    ] = "deployed",
) -> None:
    """Score transactions with the deployed model: a probability, log-odds, and reasons if asked for."""
    from bank_node.personal.scoring import score_file
    from bank_node.serving.models import Site, open_model
    from mintmark.s3 import S3Store

    opened = Home(home)
    site = Site(opened, lambda: S3Store(opened.storage()))
    served = open_model(site, model)
    if served.note:
        print(served.note)
    scored = score_file(file, out, served.scorer, site.schema, keep=tuple(keep or ()), reasons=reasons)
    for name, count in scored.outside.items():
        if count:
            print(f"{name}: {100 * count / scored.rows:.3f} % of the values lay outside what was agreed")
    print(f"Scored {scored.rows:,} rows into {out}")


def explain(home: HomeOption) -> None:
    """What the global and the deployed model look at: mean absolute contribution of every feature on the bank's own rows.

    Writes explanation.json and explanation.png into the folder deployed/.
    """
    from bank_node.personal.deployed import load_deployed
    from bank_node.personal.pictures import draw_explanation
    from bank_node.personal.report import explain as contributions_of
    from bank_node.personal.scorer import Scorer
    from bank_node.table import load_table
    from mintmark.privacy.ledger import write_durably

    opened, console = _open(home), Console()
    folder = opened.home.deployed
    scorer = Scorer(_fitting(load_deployed(folder, opened.signer.public_key), opened.schema))
    with console.status("explaining"):
        explanation = contributions_of(scorer, load_table(opened.home.data, opened.schema).test_part(), seed=SEED)
        importance = explanation.importance()
        write_durably(folder / "explanation.json", (json.dumps(importance, indent=2) + "\n").encode())
        draw_explanation(folder / "explanation.png", explanation, opened.home.settings.bank)
    grid = Grid(title="Mean absolute contribution to a score, log-odds")
    for heading in ("feature", "global", "deployed"):
        grid.add_column(heading, justify="left" if heading == "feature" else "right")
    for name, models in importance.items():
        grid.add_row(name, f"{models['global']:.3f}", f"{models['deployed']:.3f}")
    console.print(grid)
    console.print(f"Written to {folder}: explanation.json and explanation.png", highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the three commands to `mintmark-bank`."""
    for command in (personalise, score, explain):
        app.command()(command)


def _open(path: Path) -> _Opened:
    from mintmark.envelope import load_signer
    from mintmark.schema import parse_schema

    home = Home(path)
    return _Opened(home, parse_schema(home.schema.read_text()), load_signer(home.signing_key_uri))


def _fitting(deployed: Any, schema: Any) -> Any:
    """Raises `DataError` when the model was made for other features than the bank's schema now has."""
    from mintmark.errors import DataError

    if deployed.terms.schema_digest != schema.digest():
        raise DataError(
            "the deployed model was made for another schema than schema.toml: make it anew with mintmark-bank personalise"
        )
    return deployed


def _tell_comparison(console: Console, report: Any) -> None:
    grid = Grid(title="AUPRC on the bank's own test rows")
    for heading in ("model", "AUPRC", "gain", "95 % interval"):
        grid.add_column(heading, justify="left" if heading == "model" else "right")
    grid.add_row("own", f"{report.deployed.baseline:.4f}", "", "")
    for name, gain in (("global", report.shared), ("deployed", report.deployed)):
        grid.add_row(name, f"{gain.model:.4f}", f"{gain.point:+.4f}", f"{gain.low:+.4f} to {gain.high:+.4f}")
    console.print(grid)
    ahead = f"ahead in {100 * report.decided_by.ahead:.0f} % of the draws from the training rows"
    if report.keeps_own:
        console.print(f"Nothing was gained ({ahead}): this bank keeps its own model.", highlight=False)
    else:
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in report.weights.items())
        console.print(f"The stack is {ahead}. Weights: {weights}.", highlight=False)
