"""How the demonstration tells its story in a terminal: lines as rounds close, tables at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from mintmark.aggregation.report import ALARM, is_suspicious
from mintmark.schema import FeatureSchema
from mintmark.table import Columns
from tasks.progress import RoundProgress


def tell_banks(console: Console, schema: FeatureSchema, banks: Mapping[str, Columns]) -> None:
    """Who takes part, and with how much."""
    grid = Grid(box=None, padding=(0, 2))
    for heading in ("", "training rows", "held out", "fraud %"):
        grid.add_column(heading, justify="left" if not heading else "right")
    for bank, columns in sorted(banks.items()):
        test, label = columns[schema.test].astype(bool), columns[schema.label]
        grid.add_row(bank, f"{(~test).sum():,}", f"{test.sum():,}", f"{100 * float(label.mean()):.2f}")
    console.print(grid)


def tell_round(console: Console, progress: RoundProgress, last: int, banks: tuple[str, ...]) -> None:
    """One closed round: whose update counts, whose does not and why."""
    manifest = progress.manifest
    assert manifest is not None
    accepted = {update.bank for update in manifest.accepted}
    rejected = {rejection.bank: rejection.reason for rejection in manifest.rejected}
    words = []
    for bank in banks:
        if bank in accepted:
            words.append(f"[green]{bank} ✓[/green]")
        else:
            words.append(f"[yellow]{bank} {rejected.get(bank, 'late')}[/yellow]")
    what = "evaluate" if progress.round == last else "train"
    console.print(
        f"  round {progress.round:>2} of {last}  [dim]{manifest.seconds:>4.1f} s[/dim]  {what:<8}  {'  '.join(words)}",
        highlight=False,
        soft_wrap=True,
    )


def tell_open_round(progress: RoundProgress, last: int, banks: tuple[str, ...]) -> str:
    """The status line of a round that is under way."""
    waiting = [bank for bank in banks if bank not in progress.answered]
    return f"round {progress.round} of {last}: waiting for {', '.join(waiting) or 'the coordinator'}"


def tell_deployed(console: Console, report: Mapping[str, Any]) -> None:
    """What each bank gains by what it deploys: its own model and the federated one, combined inside the bank."""
    console.print("AUPRC on each bank's own test rows")
    grid = Grid()
    for heading in ("bank", "own model", "deployed", "gain", "95 % interval"):
        grid.add_column(heading, justify="left" if heading == "bank" else "right")
    for bank, gain in report["gain"].items():
        own, deployed = report["auprc"]["own"][bank], report["auprc"]["deployed"][bank]
        figures = [f"{own:.3f}", f"{deployed:.3f}"]
        if gain["keeps_own"]:
            grid.add_row(bank, *figures, "", "keeps its own", style="dim")
        else:
            style = "green" if gain["low"] > 0 else ""
            interval = f"{gain['low']:+.3f} to {gain['high']:+.3f}"
            grid.add_row(bank, *figures, f"{100 * (deployed / own - 1):+.1f} %", interval, style=style)
    console.print(grid)


def tell_report(console: Console, report: Mapping[str, Any]) -> None:
    """The closing tables and links."""
    figures = report["auprc"]
    console.print("\nAUPRC on the pooled test rows of all banks")
    grid = Grid()
    grid.add_column("model")
    grid.add_column("AUPRC", justify="right")
    grid.add_column("")
    top = max(figures["central"], figures["federated"], figures.get("honest", 0), *figures["local"].values())

    def add(name: str, figure: float, style: str = "") -> None:
        grid.add_row(name, f"{figure:.3f}", "█" * round(30 * figure / top), style=style)

    for bank, figure in figures["local"].items():
        add(f"{bank} alone", figure)
    add("federated, private", figures["federated"], "bold green")
    if report["attacks"]:
        add("the same, with nobody lying", figures["honest"])
    add("all rows in one place (not allowed)", figures["central"], "dim")
    console.print(grid)
    tell_deployed(console, report)
    console.print(f"Epsilon spent by each bank (delta {report['delta']:g})", highlight=False)
    spent = Grid()
    for heading in ("bank", "epsilon", "took part in"):
        spent.add_column(heading)
    rounds = report["rounds"]
    for bank, epsilon in report["epsilon"].items():
        part = sum(bank in entry["accepted"] for entry in rounds)
        spent.add_row(bank, f"{epsilon:.3f}", f"{part} of {len(rounds)} rounds")
    console.print(spent)
    tell_suspicion(console, report)
    console.print(f"the campaign in Prefect  {report['links']['flow_run']}", highlight=False, soft_wrap=True)
    console.print(f"the model in MLflow      {report['links']['model']}", highlight=False, soft_wrap=True)
    console.print(f"the model's URI          {report['model']['uri']}", highlight=False, soft_wrap=True)
    console.print(f"in all                   {report['seconds']['total']:.0f} s", highlight=False)


def tell_suspicion(console: Console, report: Mapping[str, Any]) -> None:
    """Whom to ask, and why; where banks were made to lie, who of them was found out and what their lies cost."""
    rounds, attacks = report["rounds"], report["attacks"]
    for bank, suspicion in report["suspicion"].items():
        reasons = [entry["rejected"][bank] for entry in rounds if bank in entry["rejected"]]
        refused = f"refused in {len(reasons)} of {len(rounds)} rounds ({reasons[-1]})" if reasons else "never refused"
        figures = f"({suspicion:.1f}, told from {ALARM:g} on; {refused})"
        line = ""
        if is_suspicious(suspicion):
            line = f"[red]{bank} is suspicious[/red] {figures}: ask what it sends. "
            line += "Where it was accepted, the rule bounds what it does."
            line += " It was honest: a false alarm." if attacks and bank not in attacks else ""
        elif bank in attacks:
            line = f"[yellow]{bank} lied and is not suspicious[/yellow] {figures}: noise could explain what it sent."
        if line:
            console.print(line, highlight=False, soft_wrap=True)
    if attacks:
        lied, honest = report["auprc"]["federated"], report["auprc"]["honest"]
        console.print(
            f"With these lies the federated model has an AUPRC of {lied:.3f}, with nobody lying {honest:.3f}: "
            f"{100 * lied / honest:.0f} % is kept. Noise alone makes two campaigns differ by .01 to .03.",
            highlight=False,
            soft_wrap=True,
        )
