"""Who is suspicious, for people: lines for the flow run's log, and the plot of a campaign's suspicion beside its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mintmark.aggregation.report import ALARM, AggregationReport, is_suspicious, last_suspicion, suspicion_by_round


def suspicion_lines(reports: Sequence[AggregationReport]) -> list[str]:
    """Whom screening refused in the last of the campaign's rounds and why, and whom to ask.

    The reports, not empty, are those of the rounds so far, first to last.
    """
    refused = [
        f"{rejection.bank} was refused ({rejection.reason}): {rejection.detail}" for rejection in reports[-1].rejected
    ]
    suspicious = [(bank, figure) for bank, figure in sorted(last_suspicion(reports).items()) if is_suspicious(figure)]
    return refused + [f"{bank} is suspicious ({figure:.1f}, from {ALARM:g} on): ask it" for bank, figure in suspicious]


def suspicion_figure(reports: Sequence[AggregationReport]) -> Any:
    """A matplotlib figure of every bank's suspicion after each of the campaign's rounds, from the first on."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    rounds = suspicion_by_round(reports)
    for bank in sorted({bank for suspicion in rounds for bank in suspicion}):
        line = [(number, suspicion[bank]) for number, suspicion in enumerate(rounds) if bank in suspicion]
        axes.plot(*zip(*line, strict=True), marker=".", label=bank)
    axes.axhline(ALARM, color="black", linestyle="--", linewidth=1)
    axes.annotate("from here on: ask the bank", (0, ALARM), xytext=(0, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel="round", ylabel="suspicion", title="Suspicion adds up over rounds", ylim=(0, None))
    axes.legend(fontsize=8, ncols=2)
    return figure
