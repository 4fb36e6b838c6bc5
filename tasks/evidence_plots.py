"""The plots of an evidence pack, as SVG to be put into its page. Each takes parts of the pack and nothing else."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mintmark.drift import SOME, STRONG
from mintmark.privacy.accountant import total_mu
from mintmark.privacy.meaning import most_found

INK, MINT, AMBER, GREY = "#1f2a30", "#0f766e", "#b45309", "#94a3b8"
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name is a name, also with a dollar in it
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 8.5,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e8f0",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
PALETTE = (MINT, AMBER, "#4f46e5", "#be123c", "#0369a1", "#65a30d", "#7c3aed", "#854d0e")
Performance = Mapping[str, Any]
Floats = npt.NDArray[np.float64]


def plots_of(pack: Mapping[str, Any]) -> dict[str, str]:
    """Every plot by name; one whose figures are not there is left out."""
    performance, before = pack["performance"], pack["champion_before"]
    drawn = {
        "curves": lambda axes: _curves(axes, performance, before),
        "banks": lambda axes: _forest(axes, performance["banks"], before["banks"] if before else {}),
        "suspicion": lambda axes: _suspicion(axes, pack["rounds"], pack["alarm"]["value"]),
        "releases": lambda axes: _releases(axes, pack["privacy"]["releases"]),
    }
    sizes = {"curves": (7.2, 2.9, 2), "banks": (7.2, 0.9 + 0.34 * len(performance["banks"]), 1)}
    if pack["privacy"]["epsilon"]["value"] is not None:
        drawn["attacker"] = lambda axes: _attacker(axes, pack["privacy"])
    weeks = {one["campaign"]["value"]: one["weeks"] for one in pack["backtest"] if one["weeks"]}
    if weeks:
        drawn["backtest"] = lambda axes: _backtest(axes, weeks)
    if pack["drift"]:
        drawn["drift"] = lambda axes: _drift(axes, pack["drift"][-1])
    if performance["weeks"]:
        drawn["weeks"] = lambda axes: _weeks(axes, performance["weeks"])
    narrow = {"attacker": (3.5, 2.8, 1), "releases": (3.5, 2.8, 1), "weeks": (7.2, 2.5, 1), "suspicion": (7.2, 2.6, 1)}
    narrow |= {"backtest": (7.2, 2.7, 1)}
    if pack["drift"]:
        narrow["drift"] = (7.2, 1.0 + 0.22 * len(drift_rows(pack["drift"][-1])), 1)
    return {name: _svg(name, draw, *(sizes | narrow)[name]) for name, draw in drawn.items()}


def _svg(name: str, draw: Callable[[Any], None], width: float, height: float, columns: int) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns)
        draw(axes)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = written.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(
        r'(<svg [^>]*?)height="[^"]*"([^>]*?)width="[^"]*"|(<svg [^>]*?)width="[^"]*"', r"\1\2\3", text, count=1
    )


def _curves(axes: Any, performance: Performance, before: Performance | None) -> None:
    left, right = axes
    for part, colour, name in ((before, GREY, "champion before"), (performance, MINT, "this model")):
        if part is None:
            continue
        recall, precision, false_rate = _curve(np.asarray(part["score_counts"]["value"], dtype=np.float64))
        left.step(recall, precision, where="post", color=colour, label=name, linewidth=1.6)
        right.plot(false_rate, recall, color=colour, label=name, linewidth=1.6)
    counts = np.maximum(np.asarray(performance["score_counts"]["value"], dtype=np.float64), 0.0)
    rate = performance["false_positive_rate"]["value"]
    base = counts[1].sum() / max(counts.sum(), 1.0)
    left.axhline(base, color=AMBER, linewidth=1, linestyle=":", label="flagging at random")
    right.axvline(rate, color=AMBER, linewidth=1, linestyle=":", label=f"{rate:.2%} false alarms")
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="Precision and recall")
    right.set(xlabel="false alarms (log scale)", ylabel="recall", ylim=(0, 1.02), title="Recall and false alarms")
    right.set_xscale("log")
    right.set_xlim(1e-4, 1)
    right.set_xticks((1e-4, 1e-3, 1e-2, 1e-1, 1), ("0.01 %", "0.1 %", "1 %", "10 %", "100 %"))
    left.legend(fontsize=7.5, loc="lower left")
    right.legend(fontsize=7.5, loc="lower right")


def _curve(counts: Floats) -> tuple[Floats, Floats, Floats]:
    """Recall, precision and false positive rate [m] from noised counts [2, m], the strictest threshold first."""
    false, true = np.cumsum(np.maximum(counts, 0.0)[:, ::-1], axis=1)
    flagged = np.maximum(true + false, 1e-12)
    return true / max(true[-1], 1e-12), true / flagged, false / max(false[-1], 1e-12)


def _forest(axes: Any, banks: Performance, before: Performance) -> None:
    names = sorted(banks, reverse=True)
    for part, colour, shift, label in ((before, GREY, -0.16, "champion before"), (banks, MINT, 0.1, "this model")):
        rows = [(place, part[name]["auprc"]["value"]) for place, name in enumerate(names) if name in part]
        rows = [(place, found) for place, found in rows if None not in found.values()]
        if rows:
            values = np.array([found["value"] for _, found in rows])
            arms = np.array([[v["value"] - v["low"], v["high"] - v["value"]] for _, v in rows]).T
            places = np.array([place for place, _ in rows]) + shift
            axes.errorbar(values, places, xerr=np.maximum(arms, 0.0), fmt="o", color=colour, markersize=4, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="AUPRC with its 95 % interval", xlim=(0, 1), ylim=(-0.6, len(names) - 0.4))
    axes.legend(fontsize=7.5)


def _weeks(axes: Any, weeks: Performance) -> None:
    names = sorted(weeks)
    for metric, colour, label in (
        ("auprc", MINT, "AUPRC"),
        ("recall_at_false_positives", AMBER, "recall at fixed false alarms"),
    ):
        found = [weeks[name][metric]["value"] for name in names]
        rows = np.array([[np.nan if end is None else end for end in one.values()] for one in found], dtype=np.float64)
        order = [list(found[0]).index(end) for end in ("value", "low", "high")]
        value, low, high = rows[:, order].T
        axes.fill_between(range(len(names)), low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(range(len(names)), value, color=colour, marker="o", markersize=3.5, label=label)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylim=(0, 1), xlabel="week of the held-out payments")
    axes.legend(fontsize=7.5, ncols=2)


def _suspicion(axes: Any, rounds: list[Any], alarm: float) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for number, one in enumerate(rounds):
        for accepted in one["accepted"]:
            bank = accepted["value"]
            lines.setdefault(bank["bank"], []).append((number, bank["suspicion"]))
    for place, bank in enumerate(sorted(lines)):
        x, y = zip(*lines[bank], strict=True)
        axes.plot(x, y, color=PALETTE[place % len(PALETTE)], marker="o", markersize=3, linewidth=1.3, label=bank)
    highest = max((value for line in lines.values() for _, value in line), default=0.0)
    axes.axhline(alarm, color="#be123c", linewidth=1, linestyle="--")
    axes.annotate(
        "from here on: ask the bank", (0, alarm), (0, 3), textcoords="offset points", color="#be123c", fontsize=7.5
    )
    axes.set(xlabel="round", ylabel="suspicion", ylim=(0, max(alarm, highest) * 1.15))
    axes.set_xticks(range(len(rounds)))
    axes.legend(fontsize=7.5, ncols=8, loc="lower left", bbox_to_anchor=(0, 1))


def _backtest(axes: Any, champions: Mapping[str, Performance]) -> None:
    """Recall at fixed false alarms of every champion, by the weeks that it was judged on."""
    names = sorted({week for weeks in champions.values() for week in weeks})
    for number, (campaign, weeks) in enumerate(champions.items()):
        colour, own = PALETTE[number % len(PALETTE)], sorted(weeks)
        found = [weeks[week]["recall_at_false_positives"]["value"] for week in own]
        low, value, high = (
            np.array([np.nan if one[end] is None else one[end] for one in found]) for end in ("low", "value", "high")
        )
        places = [names.index(week) for week in own]
        arms = np.maximum([value - low, high - value], 0.0)
        axes.errorbar(places, value, yerr=arms, fmt="o-", color=colour, markersize=3.5, linewidth=1.2, label=campaign)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylim=(0, 1), ylabel="recall at fixed false alarms", xlabel="week of the held-out payments")
    axes.legend(fontsize=7.5, ncols=4)


def drift_rows(drift: Performance) -> list[tuple[str, Mapping[str, Any]]]:
    """What a drift tells, by name: scores, then features, the largest index first."""
    scores = drift["scores"]["value"] if drift["scores"] else {}
    features = [(name, found["value"]) for name, found in drift["features"].items()]
    ranked = sorted(features, key=lambda row: -row[1]["value"])
    return [(f"score of {name}", found) for name, found in scores.items()] + ranked


def _drift(axes: Any, drift: Performance) -> None:
    rows = drift_rows(drift)
    places = np.arange(len(rows))
    values = [found["value"] for _, found in rows]
    colours = [AMBER if found["drift"] in ("some", "strong") else MINT for _, found in rows]
    axes.barh(places, values, color=colours, height=0.62)
    chance = [found["by_chance"] for _, found in rows]
    axes.plot(chance, places, "|", color=INK, markersize=9, label="by noise and chance, 95 %")
    for bound in (SOME, STRONG):
        axes.axvline(bound, color=GREY, linewidth=1, linestyle=":")
    axes.set_yticks(places, [name for name, _ in rows])
    axes.set(xlabel="population stability index (dotted: .1 and .25)", ylim=(len(rows) - 0.5, -0.5))
    axes.legend(fontsize=7.5, loc="lower right")


def _releases(axes: Any, releases: list[Any]) -> None:
    spent = [(one["round"]["value"], one["mu"]["value"]) for one in releases if one["mu"]["value"] is not None]
    total = sum(mu**2 for _, mu in spent) or 1.0
    colours = [MINT] * (len(spent) - 1) + [AMBER]
    axes.bar([str(number) for number, _ in spent], [100 * mu**2 / total for _, mu in spent], color=colours, width=0.7)
    axes.set(xlabel="round (the last one evaluates)", ylabel="% of the budget", title="Where the budget goes")
    axes.grid(visible=False, axis="x")


def _attacker(axes: Any, privacy: Mapping[str, Any]) -> None:
    mu = total_mu(privacy["epsilon"]["value"], privacy["delta"]["value"])
    wrong = np.linspace(1e-4, 1 - 1e-4, 200)
    axes.fill_between(wrong, wrong, [most_found(mu, alpha) for alpha in wrong], color=MINT, alpha=0.15, linewidth=0)
    axes.plot(
        wrong, [most_found(mu, alpha) for alpha in wrong], color=MINT, linewidth=1.6, label="the most they can find"
    )
    axes.plot((0, 1), (0, 1), color=GREY, linewidth=1, linestyle="--", label="guessing")
    axes.set(xlabel="share of others named wrongly", ylabel="share of members found", title="Any attacker, at most")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize=7.5, loc="lower right")
