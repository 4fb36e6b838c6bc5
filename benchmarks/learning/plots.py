"""Two plots a set: what is kept of the centralised model at each epsilon, and what each bank gains."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.learning.report import METHODS, SHOWN_GAINS, WITH_BUDGET, Record, Summary, select

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "own": "#8c8c8c",
    "average": "#b08d57",
    "federated": "#2a6f97",
    "linear": "#89b6cf",
    "deployed": "#c1440e",
    "central": "#222222",
}


def draw_plots(summary: Summary, folder: Path) -> Iterable[Path]:
    """Write learning-epsilon.png and learning-gain.png, and return where they are."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    sets = sorted({entry["set"] for entry in summary["relative"]})
    for name, draw in (("epsilon", _draw_epsilon), ("gain", _draw_gain)):
        figure, axes = pyplot.subplots(1, len(sets), figsize=(max(8, 4.4 * len(sets)), 3.8), squeeze=False)
        for axis, chosen in zip(axes[0], sets, strict=True):
            axis.set_title(chosen, loc="left", fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
            draw(axis, summary, chosen)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=8, frameon=False)
        figure.tight_layout(rect=(0, 0.07, 1, 1))
        file = folder / f"learning-{name}.png"
        figure.savefig(file, dpi=110)
        pyplot.close(figure)
        yield file


def _draw_epsilon(axis: Axes, summary: Summary, name: str) -> None:
    entries = select(summary["relative"], set=name)
    budgets = sorted({_rank(entry) for entry in entries if entry["method"] in WITH_BUDGET})
    places = np.arange(len(budgets))
    for method, text in METHODS.items():
        own = sorted(select(entries, method=method), key=_rank)
        if not own:
            continue
        known = {_rank(entry): entry["auprc"] for entry in own}
        # What is not measured yet leaves a gap.
        values = [known.get(budget, np.nan) if method in WITH_BUDGET else own[0]["auprc"] for budget in budgets]
        style = "o-" if method in WITH_BUDGET else "--"
        axis.plot(places, values, style, color=COLOURS[method], label=text, linewidth=1.4, markersize=4)
    axis.set_xticks(places, ["none" if np.isinf(budget) else f"{budget:g}" for budget in budgets])
    axis.set_xlabel("epsilon", fontsize=9)
    axis.set_ylabel("AUPRC / centralised")


def _draw_gain(axis: Axes, summary: Summary, name: str) -> None:
    entries = select(summary["gains"], set=name)
    shown = [budget for budget in SHOWN_GAINS if select(entries, epsilon=budget)]
    banks = [entry["bank"] for entry in select(entries, epsilon=shown[0])] if shown else []
    for number, budget in enumerate(shown):
        found = select(entries, epsilon=budget)
        gain, low, high = (np.array([entry[field] for entry in found]) for field in ("gain", "low", "high"))
        places = np.arange(len(found)) + 0.22 * (number - (len(shown) - 1) / 2)
        reach = np.maximum([gain - low, high - gain], 0.0)
        axis.errorbar(places, gain, reach, fmt="o", capsize=2, markersize=4, label=f"epsilon {budget:g}")
    axis.axhline(0, color="#222222", linewidth=0.8)
    axis.set_xticks(np.arange(len(banks)), banks, rotation=45, fontsize=7)
    axis.set_ylabel("AUPRC gained over own model")


def _rank(entry: Record) -> float:
    return float("inf") if entry["epsilon"] is None else float(entry["epsilon"])
