"""From finished cells to tables and the heat map: what each rule keeps under each attack of its own clean AUPRC."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.robustness.campaigns import HONEST

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TARGET = 0.85  # asked: what is kept under the worst attack
BASELINE = "weighted_mean"
DARK = 0.35  # below it the heat map's red needs white letters
_INCHES_A_COLUMN, _INCHES_A_ROW = 0.66, 0.34


@dataclass(frozen=True, eq=False)
class Panel:
    """One set, its banks and a learner. `auprc` [rules, attacks] is the mean over seeds, NaN where none is finished;
    `kept` the same over the rule's AUPRC without attack, of the seeds that have both; `seeds` how many."""

    title: str
    rules: tuple[str, ...]
    attacks: tuple[str, ...]
    auprc: npt.NDArray[np.float64]
    kept: npt.NDArray[np.float64]
    seeds: npt.NDArray[np.int64]

    def worst(self, rule: int) -> tuple[float, str]:
        """What is kept under the attack that does most harm, and which; NaN where none was run."""
        kept = np.where(np.array(self.attacks) == HONEST, np.nan, self.kept[rule])
        if np.isnan(kept).all():
            return float("nan"), "-"
        place = int(np.nanargmin(kept))
        return float(kept[place]), self.attacks[place]

    def as_record(self) -> dict[str, Any]:
        """For JSON: a figure a rule and attack, of how many seeds."""
        figures = {
            rule: {
                attack: {"auprc": round(self.auprc[i, j], 4), "kept": _or_none(self.kept[i, j]), "seeds": int(count)}
                for j, attack in enumerate(self.attacks)
                if (count := self.seeds[i, j])
            }
            for i, rule in enumerate(self.rules)
        }
        return {"title": self.title, "rules": figures}


def summarise(records: Iterable[dict[str, Any]], attacks: Sequence[str], rules: Sequence[str]) -> list[Panel]:
    """The panels of the cells that are there, each with the asked rules and attacks that have any."""
    panels: dict[str, dict[tuple[str, str], dict[int, float]]] = {}
    for record in records:
        title = f"{record['set']}, {record['banks']} banks, {record['learner'].replace('_', ' ')}"
        figures = panels.setdefault(title, {}).setdefault((record["rule"], record["attack"]), {})
        figures[record["seed"]] = record["auprc"]
    return [_panel(title, figures, attacks, rules) for title, figures in sorted(panels.items())]


def _panel(
    title: str, figures: dict[tuple[str, str], dict[int, float]], attacks: Sequence[str], rules: Sequence[str]
) -> Panel:
    shown = tuple(rule for rule in rules if any(rule == known for known, _ in figures))
    against = tuple(attack for attack in attacks if any(attack == known for _, known in figures))
    auprc, kept = np.full((2, len(shown), len(against)), np.nan)
    seeds = np.zeros((len(shown), len(against)), dtype=np.int64)
    for (rule, attack), by_seed in figures.items():
        at, clean = (shown.index(rule), against.index(attack)), figures.get((rule, HONEST), {})
        auprc[at], seeds[at] = mean(by_seed.values()), len(by_seed)
        if both := by_seed.keys() & clean.keys():
            kept[at] = mean(by_seed[seed] for seed in both) / mean(clean[seed] for seed in both)
    return Panel(title, shown, against, auprc, kept, seeds)


def markdown(panels: Iterable[Panel]) -> str:
    """A table a panel: AUPRC under every attack, what is kept under the worst, and the price when nobody attacks."""
    return "\n".join(_table(panel) for panel in panels)


def _table(panel: Panel) -> str:
    heads = ["rule", *(attack.replace("_", " ") for attack in panel.attacks), "kept at worst", "price"]
    lines = [f"{panel.title}:", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    clean = (
        panel.auprc[:, panel.attacks.index(HONEST)] if HONEST in panel.attacks else np.full(len(panel.rules), np.nan)
    )
    baseline = clean[panel.rules.index(BASELINE)] if BASELINE in panel.rules else np.nan
    for row, rule in enumerate(panel.rules):
        kept, which = panel.worst(row)
        figures = ["" if np.isnan(figure) else f"{figure:.3f}" for figure in panel.auprc[row]]
        worst = "" if np.isnan(kept) else f"{kept:.0%} ({which.replace('_', ' ')})"
        price = 1 - clean[row] / baseline
        lines.append("| " + " | ".join([rule, *figures, worst, "" if np.isnan(price) else f"{price:.0%}"]) + " |")
    return "\n".join([*lines, ""])


def draw_plot(panels: Sequence[Panel], file: Path) -> None:
    """The heat map: rules by attacks, what is kept of the rule's own clean AUPRC; without attack the AUPRC itself."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    widest = max(len(panel.attacks) for panel in panels)
    tallest = max(len(panel.rules) for panel in panels)
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    size = (columns * max(7.5, 2.6 + _INCHES_A_COLUMN * widest), lines * (1.9 + _INCHES_A_ROW * tallest))
    figure, axes = pyplot.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.ravel()[len(panels) :]:
        axis.set_axis_off()
    for axis, panel in zip(axes.ravel(), panels, strict=False):
        _draw(axis, panel)
    figure.suptitle(
        f"Kept of the clean AUPRC when up to 30 % lie, in % (asked: {TARGET:.0%}); none: AUPRC", fontsize=11
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def _draw(axis: Axes, panel: Panel) -> None:
    from matplotlib.colors import TwoSlopeNorm

    attacked = np.array(panel.attacks) != HONEST
    shown = np.where(attacked, panel.kept, np.nan)
    axis.imshow(shown, cmap="RdYlGn", norm=TwoSlopeNorm(TARGET, 0.2, 1.05), aspect="auto")  # yellow at what is asked
    for (row, column), kept in np.ndenumerate(panel.kept):
        text = f"{100 * kept:.0f}" if attacked[column] else f"{panel.auprc[row, column]:.3f}"
        if not np.isnan(kept):
            weight = "bold" if attacked[column] and kept < TARGET else "normal"
            colour = "white" if attacked[column] and kept < DARK else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, weight=weight, color=colour)
    axis.set_xticks(range(len(panel.attacks)), [attack.replace("_", " ") for attack in panel.attacks], fontsize=8)
    axis.tick_params(axis="x", rotation=40, length=0)
    for label in axis.get_xticklabels():
        label.set(horizontalalignment="right", rotation_mode="anchor")
    axis.set_yticks(range(len(panel.rules)), panel.rules, fontsize=8)
    axis.tick_params(axis="y", length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(panel.title, loc="left", fontsize=10)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 3)
