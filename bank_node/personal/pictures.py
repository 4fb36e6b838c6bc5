"""Pictures for people, as PNG files in the bank's folder: what was gained, and what the models look at."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bank_node.personal.report import Explanation, Report
from mintmark.privacy.ledger import write_durably

COLOURS = {"own": "#7a869a", "global": "#3b7dd8", "deployed": "#12805c"}
SHOWN = 15  # features
_DOTS = 1500  # rows of a swarm


def draw_comparison(path: Path, report: Report, labels: npt.NDArray[np.uint8], bank: str) -> None:
    """Precision over recall of the three models on the test rows, and their gains with 95 % intervals."""
    from matplotlib.figure import Figure
    from sklearn.metrics import precision_recall_curve

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    figures = {"own": report.deployed.baseline, "global": report.shared.model, "deployed": report.deployed.model}
    for name, scores in report.scores.items():
        precision, recall, _ = precision_recall_curve(labels, scores)
        left.step(recall, precision, where="post", color=COLOURS[name], label=f"{name}  {figures[name]:.3f}")
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="Test rows: precision over recall")
    left.legend(title="AUPRC", frameon=False)
    for at, (name, gain) in enumerate({"deployed": report.deployed, "global": report.shared}.items()):
        right.plot([gain.low, gain.high], [at, at], color=COLOURS[name], linewidth=3, solid_capstyle="round")
        right.plot(gain.point, at, "o", color=COLOURS[name], markersize=9)
        right.annotate(f"{gain.point:+.3f}", (gain.point, at), (0, 10), textcoords="offset points", ha="center")
    right.axvline(0, color=COLOURS["own"], linewidth=1)
    right.set(yticks=[0, 1], yticklabels=["deployed", "global"], ylim=(-0.6, 1.6))
    right.set(xlabel="AUPRC gained over the bank's own model", title="Gain, 95 % interval (customers drawn anew)")
    kept = ": it keeps its own model" if report.keeps_own else ""
    figure.suptitle(f"{bank}{kept}")
    save_figure(figure, path)


def draw_explanation(path: Path, explanation: Explanation, bank: str) -> None:
    """Left: mean absolute contribution by feature, global and deployed. Right: the deployed model's, row by row."""
    from matplotlib.figure import Figure

    importance = explanation.importance()
    names = list(importance)[:SHOWN]
    figure = Figure(figsize=(11, 1.6 + 0.36 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(names))
    for shift, model in ((0.2, "global"), (-0.2, "deployed")):
        values = [importance[name][model] for name in names]
        left.barh(places - shift, values, height=0.38, color=COLOURS[model], label=model)
    left.set(yticks=places, yticklabels=names, xlabel="mean absolute contribution, log-odds", title="What matters")
    left.invert_yaxis()
    left.legend(frameon=False)
    _swarm(right, explanation, names)
    figure.suptitle(f"{bank}: what the models look at")
    save_figure(figure, path)


def _swarm(axes: Any, explanation: Explanation, names: list[str]) -> None:
    """One dot a row and feature: where it moved the score, coloured by the feature's value from low to high."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(explanation.features))[:_DOTS]
    for place, name in enumerate(names):
        column = explanation.names.index(name)
        values, moved = explanation.features[rows, column], explanation.deployed[rows, column]
        known = ~np.isnan(values)
        rank = np.full(len(rows), np.nan)
        if known.any():
            ordered = np.unique(values[known])
            rank[known] = np.searchsorted(ordered, values[known]) / max(len(ordered) - 1, 1)
        heights = place + rng.uniform(-0.3, 0.3, len(rows))
        axes.scatter(moved[~known], heights[~known], s=3, color="#bbbbbb", linewidths=0)
        axes.scatter(moved[known], heights[known], s=3, c=rank[known], cmap="coolwarm", vmin=0, vmax=1, linewidths=0)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set(yticks=[], ylim=(len(names) - 0.5, -0.5), xlabel="contribution to a row's score, log-odds")
    axes.set_title("Deployed model, row by row (blue: low value, red: high, grey: missing)", fontsize=10)


def save_figure(figure: Any, path: Path) -> None:
    """Write a picture, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_durably(path, picture.getvalue())
