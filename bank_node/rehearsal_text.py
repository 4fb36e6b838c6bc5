"""A rehearsal told to people: what was checked, what would leave, what it would cost and what that means."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as Grid

from bank_node.rehearsal import Outgoing, Rehearsal
from mintmark.plan import Release, RoundPlan

CONTENTS = {
    Release.TRAINING_SUMS: "sums over rows: for each group that the plan makes of them, how far the model is off there",
    Release.SCORES: "counts of held-out rows: how many of each class fall in each range of the model's score",
}


def tell(console: Console, rehearsal: Rehearsal) -> None:
    """Print it. Nothing printed is read by a program; the exit code says whether the plan would be answered."""
    if rehearsal.plan is not None:
        plan = rehearsal.plan
        console.rule(f"Rehearsal: campaign {plan.campaign.name}, round {plan.round}, attempt {plan.attempt}")
    for finding in rehearsal.findings:
        mark = "[red]no [/red]" if finding.refusal else "[green]yes[/green]"
        console.print(f"  {mark}  {finding.question}", highlight=False)
        if finding.refusal:
            console.print(f"       {finding.refusal.reason}: {finding.refusal}", highlight=False, style="red")
    if rehearsal.plan is not None and rehearsal.outgoing is not None:
        _tell_outgoing(console, rehearsal.plan, rehearsal.outgoing)
        _tell_cost(console, rehearsal, rehearsal.plan)
    if rehearsal.refused:
        console.print("\n[bold red]This plan would be refused, and nothing would leave.[/bold red]")
    elif rehearsal.answered:
        console.print(
            "\n[bold]This was charged before: the same numbers would be sent again, at no further cost.[/bold]"
        )
    else:
        console.print("\n[bold]This plan would be answered.[/bold] Nothing was charged, drawn or sent now.")


def _tell_outgoing(console: Console, plan: RoundPlan, outgoing: Outgoing) -> None:
    slots, cells, width = outgoing.shape
    console.print("\n[bold]What would leave[/bold]: one message, once, and nothing else", highlight=False)
    grid = Grid(show_header=False, box=None, padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    grid.add_row("to", "the coordinator alone can open it; the store and other banks see its size and time")
    alike = "" if outgoing.statement.budget else ", the same for every bank of the round"
    grid.add_row("size", f"{outgoing.message_bytes:,} bytes{alike}")
    grid.add_row("in clear, signed", outgoing.statement.canonical_bytes().decode())
    grid.add_row("sealed", f"{outgoing.numbers:,} whole numbers: {slots} x {cells} x {width}")
    grid.add_row("they are", CONTENTS[plan.asks_for])
    grid.add_row(
        "noise", f"on every one, drawn anew, of standard deviation {outgoing.noise_rows:,.4g} (one row adds at most 1)"
    )
    unit = plan.campaign.privacy.unit
    grid.add_row("clipping", f"all that one {unit} adds is shortened to the length {outgoing.clipping_rows:,.4g}")
    console.print(grid)
    console.print(
        f"\n[bold]What would stay[/bold]: the {outgoing.rows:,} rows of {outgoing.customers:,} customers it was computed "
        "from, these two figures, the sums without noise, every identifier, this text.",
        highlight=False,
    )


def _tell_cost(console: Console, rehearsal: Rehearsal, plan: RoundPlan) -> None:
    if rehearsal.budget:
        console.print()
        grid = Grid(title="What it would cost, in epsilon", title_justify="left")
        for heading in ("budget of", "at delta", "spent", "reserved", "with this plan", "allowed"):
            grid.add_column(heading, justify="left" if heading == "budget of" else "right")
        for line in rehearsal.budget:
            figures = (line.delta, line.spent, line.reserved, line.after, line.limit)
            style = "" if line.after <= line.limit else "red"
            grid.add_row(line.what, *(f"{figure:.4g}" for figure in figures), style=style)
        console.print(grid)
        console.print("A campaign is consented to as a whole: its first round must leave room for all its terms allow.")
    console.print(
        f"In plain words: somebody who knows everything but whether one {plan.campaign.privacy.unit} is in our data, "
        f"and sees all that this campaign has taken from us, would be right about it in at most "
        f"{100 * rehearsal.best_guess:.0f} of 100 cases (50 is tossing a coin).",
        highlight=False,
    )
