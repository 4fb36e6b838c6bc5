"""What Prefect's pages show of a campaign: progress, tables, pictures, links, made from its status. Nothing is sent.

    for artifact in artifacts_of(status): ...     # key, type, data, description

A picture travels inside its artifact as a `data:` URL: it needs no server of its own, and no page of another to load.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mintmark.aggregation.report import is_suspicious
from mintmark.plan import Release
from tasks.progress import RoundProgress
from tasks.status import BankStatus, CampaignStatus, what_became
from tasks.suspicion import suspicion_figure

MOST_BANKS_DRAWN = 20  # more lines than that nobody tells apart
DPI = 90


@dataclass(frozen=True)
class Artifact:
    """One artifact: `key` is unique in the run, `kind` is one of Prefect's types, `data` what that type holds."""

    key: str
    kind: str
    data: str | float
    description: str


def artifacts_of(status: CampaignStatus, *, pictures: bool) -> Iterator[Artifact]:
    """All artifacts of a campaign as it stands; pictures only when they are asked for, since they take a moment."""
    name = status.campaign.name
    yield Artifact(f"{name}-summary", "markdown", summary(status), f"Campaign {name}")
    yield Artifact(f"{name}-banks", "table", json.dumps([bank_row(bank) for bank in status.banks]), BANKS)
    yield Artifact(f"{name}-rounds", "table", json.dumps([round_row(each) for each in status.rounds]), ROUNDS)
    for progress in status.rounds:
        yield Artifact(f"{name}-round-{progress.round:02d}", "progress", percent(progress), sentence(progress))
    if pictures and any(progress.report for progress in status.rounds):
        yield Artifact(f"{name}-shares", "image", data_url(shares_figure(status)), SHARES)
        reports = [progress.report for progress in status.rounds if progress.report]
        yield Artifact(f"{name}-suspicion", "image", data_url(suspicion_figure(reports)), SUSPICION)
    if status.model is not None:  # drawn for MLflow already, and served by it
        server = status.model.page.partition("/#/")[0]
        curves = f"{server}/get-artifact?path=curves.png&run_uuid={status.model.run_id}"
        yield Artifact(f"{name}-curves", "image", curves, CURVES)


BANKS = (
    "In how many rounds each bank's update counted (in), was rejected (out) or came late. Epsilon spent is priced from the "
    "plans that it answered. What it has left of its epsilon, for this campaign and of the year, is its own signed word; "
    "empty where its policy tells nothing."
)
ROUNDS = "Each round: whose update counts, whose does not and why."
SHARES = "How much each bank's update weighed in each round's result."
SUSPICION = "What adds up over rounds against each bank. A suspicious bank is asked; it is not dropped."

CURVES = "How good the finished model is on the banks' held-out rows, from noised score histograms. Served by MLflow."


def summary(status: CampaignStatus) -> str:
    """What is asked, how far it is, and where the model is, as Markdown."""
    campaign = status.campaign
    lines = [
        f"## Campaign {campaign.name}",
        f"{status.closed} of {campaign.rounds + 1} rounds settled. "
        f"`{campaign.learner}` for {len(campaign.cohort)} banks, a quorum of {campaign.quorum}, epsilon "
        f"{campaign.privacy.epsilon:g} at delta {campaign.privacy.delta:g} for every {campaign.privacy.unit}, "
        f"aggregated by `{campaign.aggregation.chain}`.",
    ]
    suspicious = [bank.bank for bank in status.banks if is_suspicious(bank.suspicion)]
    if suspicious:
        lines.append(
            f"**Ask what they send: {', '.join(suspicious)}.** Nobody is dropped; the rule bounds what they do."
        )
    if status.model is not None:
        model = status.model
        lines.append(f"The model: [{model.name}, version {model.version}]({model.page}) in MLflow, `{model.uri}`.")
    elif status.stage == "settled":
        lines.append("The model is settled and not registered yet.")
    lines.append(
        "How good the model is, is known after the last round: evaluating costs epsilon, so it is done once. The curves "
        "are beside the model."
    )
    return "\n\n".join(lines)


def bank_row(bank: BankStatus) -> dict[str, Any]:
    """A bank's row of the table."""
    budget = bank.budget
    return {
        "bank": bank.bank,
        "last round": bank.last,
        "in": bank.accepted,
        "out": bank.rejected,
        "late": bank.late,
        "share": "" if bank.share is None else f"{100 * bank.share:.0f} %",
        "suspicion": f"{bank.suspicion:.1f}" + (" ask it" if is_suspicious(bank.suspicion) else ""),
        "spent": f"{bank.spent:.2f}",
        "left": f"{budget.campaign_left:.2f}" if budget else "",
        "of the year": f"{budget.year_left:.2f}" if budget else "",
    }


def round_row(progress: RoundProgress) -> dict[str, Any]:
    """A round's row of the table."""
    manifest, cohort = progress.manifest, progress.plan.campaign.cohort
    became = {bank: what_became(bank, progress) for bank in cohort}
    outside = [f"{bank} {word}" for bank, word in became.items() if word not in ("accepted", "answered")]
    return {
        "round": progress.round,
        "attempt": progress.plan.attempt,
        "asks for": "scores" if progress.plan.asks_for is Release.SCORES else "training sums",
        "opened (UTC)": f"{progress.plan.opens_at:%Y-%m-%d %H:%M:%S}",
        "seconds": "" if manifest is None else f"{manifest.seconds:.1f}",
        "in it": f"{sum(word in ('accepted', 'answered') for word in became.values())} of {len(cohort)}",
        "not in it": ", ".join(outside),
    }


def percent(progress: RoundProgress) -> float:
    """How much of a round is done: banks that answered, of the cohort; 100 only when it is closed."""
    if progress.manifest is not None:
        return 100.0
    return round(95 * len(progress.answered) / len(progress.plan.campaign.cohort), 1)


def sentence(progress: RoundProgress) -> str:
    """A round in a sentence."""
    plan, last = progress.plan, progress.plan.campaign.rounds
    what = f"Round {plan.round} of {last}, {'evaluation' if plan.evaluates else 'training'}: "
    if progress.manifest is None:
        waiting = ", ".join(progress.waiting[:10]) or "the coordinator"
        return f"{what}waiting for {waiting} until {plan.closes_at:%H:%M:%S} UTC."
    row = round_row(progress)
    rest = f"; not in it: {row['not in it']}" if row["not in it"] else ""
    return f"{what}closed after {row['seconds']} s with {row['in it']} banks{rest}."


def shares_figure(status: CampaignStatus) -> Any:
    """A matplotlib figure: each round a column, stacked of the banks' shares; beyond the twenty largest none."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    reported = [(progress.round, progress.report) for progress in status.rounds if progress.report]
    rounds = np.array([number for number, _ in reported])
    shares = {bank.bank: np.zeros(len(rounds)) for bank in status.banks}
    for place, (_, report) in enumerate(reported):
        for figures in report.accepted:
            shares[figures.bank][place] = figures.share
    largest = sorted(shares, key=lambda bank: -float(shares[bank].sum()))[:MOST_BANKS_DRAWN]
    bottom = np.zeros(len(rounds))
    for bank in sorted(largest):
        axes.bar(rounds, shares[bank], bottom=bottom, label=bank)
        bottom += shares[bank]
    axes.set(xlabel="round", ylabel="share of the result", ylim=(0, None), title="Shares by bank")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def data_url(figure: Any) -> str:
    """A figure as a PNG in a `data:` URL, some 30 kB."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    return f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
