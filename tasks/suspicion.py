"""The plot of a campaign's suspicion: a line a bank, and the alarm above which people ask it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mintmark.aggregation.report import ALARM, AggregationReport, suspicion_by_round


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
