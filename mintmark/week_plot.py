"""Figures by week with their intervals, as one picture: for a bank's own back-test and for the consortium's.

png = draw_weeks({"champion 1": {"2021-w14": figure}}, {"champion 1": {"2021-w14": other}}, "bank-a")
"""

from __future__ import annotations

import io
from collections.abc import Mapping

from mintmark.evaluation_record import Figure

Lines = Mapping[str, Mapping[str, Figure]]
"""Model -> week -> figure."""

COLOURS = ("#3b7dd8", "#12805c", "#d97706", "#9b4dca", "#c2410c", "#0e7490", "#7a869a")


def draw_weeks(auprc: Lines, recall: Lines, title: str) -> bytes:
    """A PNG: AUPRC over recall at .5 % false positives, a line a model, its 95 % interval as a bar at every week."""
    from matplotlib.figure import Figure as Picture

    weeks = sorted({week for own in auprc.values() for week in own})
    picture = Picture(figsize=(max(7.0, 2.5 + 0.5 * len(weeks)), 6.2), layout="constrained")
    for axes, lines, name in zip(
        picture.subplots(2, 1, sharex=True), (auprc, recall), ("AUPRC", "recall at .5 % false positives"), strict=True
    ):
        for number, (model, own) in enumerate(lines.items()):
            known = [(weeks.index(week), found) for week, found in own.items() if found.value is not None]
            places = [at + 0.12 * (number - (len(lines) - 1) / 2) for at, _ in known]
            values = [found.value for _, found in known]
            low = [found.value - found.low for _, found in known]  # type: ignore[operator]
            high = [found.high - found.value for _, found in known]  # type: ignore[operator]
            colour = COLOURS[number % len(COLOURS)]
            axes.errorbar(places, values, yerr=[low, high], color=colour, marker="o", capsize=3, label=model)
        axes.set(ylabel=name, ylim=(0, 1))
        axes.grid(axis="y", color="#dddddd")
    axes.set_xticks(range(len(weeks)), weeks, rotation=60 if len(weeks) > 4 else 0)
    picture.axes[0].legend(frameon=False, ncols=min(len(auprc), 4))
    picture.suptitle(title)
    drawn = io.BytesIO()
    picture.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()
