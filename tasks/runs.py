"""A campaign as MLflow shows it: one run with its terms, figures, pictures and signed records, and a child run a round.

Everything is derived from signed objects in the mailbox, so a run that a crash left half written is written to its end,
with the same values, by whoever comes next: runs are found by their tags.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from mintmark import mailbox
from mintmark.campaign import replay
from mintmark.canonical import digest
from mintmark.evaluation import curves
from mintmark.evaluation_record import EVALUATION_TYPE, MAX_EVALUATION_BYTES, EvaluationRecord, Figure, Figures
from mintmark.messages import ModelArtifact
from mintmark.models.linear import LinearState, coefficients_csv
from mintmark.models.score_histogram import read_histograms
from mintmark.plan import Campaign
from tasks.coordinator import Coordinator
from tasks.evaluation import bank_histograms, score_query
from tasks.plots import bank_curves_figure, curves_figure, parts_figure, spoken
from tasks.records import RoundRecord, lineage, privacy_statement, read_rounds, signed_json
from tasks.suspicion import suspicion_figure

MOST_BANK_CURVES = 12  # of the largest banks; every bank's figures are in the record
CAMPAIGN_TAG, DIGEST_TAG, ROUND_TAG = "mintmark.campaign", "mintmark.model_digest", "mintmark.round"
_COMPLETE_TAG = "mintmark.complete"
_PARENT_TAG, _NOTE_TAG = "mlflow.parentRunId", "mlflow.note.content"


def open_run(coordinator: Coordinator, client: Any, campaign: Campaign, model_digest: str) -> str:
    """The campaign's run, made unless it is there; returns its id."""
    consortium = coordinator.settings.consortium
    experiment = client.get_experiment_by_name(consortium)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(consortium)
    for run in client.search_runs([experiment_id], _mine(campaign.name, model_digest)):
        if ROUND_TAG not in run.data.tags:
            return str(run.info.run_id)
    opened = read_rounds(coordinator, campaign.name)[0].plan.opens_at
    return str(
        client.create_run(
            experiment_id, _milliseconds(opened), _tags(campaign.name, model_digest), campaign.name
        ).info.run_id
    )


def write_run(
    coordinator: Coordinator,
    client: Any,
    run_id: str,
    artifact: ModelArtifact,
    record: EvaluationRecord,
    flow_run_page: str,
) -> None:
    """Write all that the campaign's run tells, unless it is complete. Call it after the model is stored: MLflow copies to a
    model every metric that its run has."""
    run, campaign = client.get_run(run_id), artifact.campaign
    if _COMPLETE_TAG in run.data.tags:
        return
    found = {
        child.data.tags.get(ROUND_TAG): child
        for child in client.search_runs([run.info.experiment_id], _mine(campaign.name, record.model_digest))
    }
    rounds = read_rounds(coordinator, campaign.name)
    for number, each in enumerate(rounds):
        tags = {ROUND_TAG: str(number), _PARENT_TAG: run_id, _NOTE_TAG: _round_note(each)}
        child = found.get(str(number)) or client.create_run(
            run.info.experiment_id,
            _milliseconds(each.plan.opens_at),
            _tags(campaign.name, record.model_digest) | tags,
            f"round {number}: evaluation" if each.plan.evaluates else f"round {number}",
        )
        _write_round(client, str(child.info.run_id), each)
    with tempfile.TemporaryDirectory(prefix="mintmark-run-") as folder:
        _write_files(Path(folder), coordinator, artifact, record, rounds)
        client.log_artifacts(run_id, folder)
    _log(client, run_id, _campaign_metrics(record, rounds), _terms(campaign, rounds))
    client.set_tag(run_id, _NOTE_TAG, run_note(campaign, record, rounds, flow_run_page))
    client.set_terminated(run_id, end_time=_milliseconds(rounds[-1].manifest.closed_at))
    client.set_tag(run_id, _COMPLETE_TAG, "yes")


def _tags(campaign: str, model_digest: str) -> dict[str, str]:
    return {CAMPAIGN_TAG: campaign, DIGEST_TAG: model_digest}


def _mine(campaign: str, model_digest: str) -> str:
    """The search for a campaign's runs."""
    return f"tags.`{CAMPAIGN_TAG}` = '{campaign}' and tags.`{DIGEST_TAG}` = '{model_digest}'"


def run_note(campaign: Campaign, record: EvaluationRecord, rounds: Sequence[RoundRecord], flow_run_page: str) -> str:
    """The run's description: what was made, how good it is, and what it cost, for people who decide about it."""
    pooled, privacy, window = record.pooled, campaign.privacy, campaign.held_out
    rate = f"{record.false_positive_rate:.1%}"
    lines = [
        f"**{spoken(pooled.recall_at_false_positives)} of the frauds caught at {rate} false alarms; AUPRC "
        f"{spoken(pooled.auprc)}.** {campaign.learner}, {len(campaign.cohort)} banks, {campaign.rounds} training rounds; "
        "no bank showed a row to anybody.",
        "",
        "| on held-out rows | value (95 % interval, noise included) |",
        "|---|---|",
        f"| AUPRC | {spoken(pooled.auprc)} |",
        f"| AUROC | {spoken(pooled.auroc)} |",
        f"| frauds caught at {rate} false alarms | {spoken(pooled.recall_at_false_positives)} |",
        f"| their money | {spoken(pooled.value_detected)} |",
        f"| frauds caught within the alert budget | {spoken(pooled.recall_at_alerts)} |",
        f"| expected calibration error | {spoken(pooled.calibration_error)} |",
        "",
        f"Privacy: every {privacy.unit} of every bank; the campaign costs epsilon {privacy.epsilon} at delta "
        f"{privacy.delta:g}.",
        f"Aggregation: {campaign.aggregation.chain}, up to {campaign.aggregation.byzantine} of "
        f"{campaign.aggregation.banks} banks may lie.",
        f"Data: trained on {window.trained_from} to {window.first_day} (excluded), judged on {window.first_day} to "
        f"{window.last_day}."
        if window
        else "Data: held-out rows as each bank marks them; the campaign states no window.",
    ]
    suspicious = rounds[-1].report.suspicious
    lines += [f"**To be asked: {', '.join(suspicious)}** (suspicion reached the alarm)."] if suspicious else []
    lines += ["", f"[The campaign's flow run in Prefect]({flow_run_page})"] if flow_run_page else []
    return "\n".join(lines)


def _round_note(each: RoundRecord) -> str:
    """Who was in the round, who was not, and why."""
    refused = [f"{rejection.bank} ({rejection.reason})" for rejection in each.manifest.rejected]
    return "\n".join(
        [
            f"In it: {', '.join(update.bank for update in each.manifest.accepted)}.",
            f"Rejected: {', '.join(refused) or 'nobody'}. Late: {', '.join(each.manifest.late) or 'nobody'}.",
        ]
    )


def _write_round(client: Any, run_id: str, each: RoundRecord) -> None:
    plan, closed = each.plan, _milliseconds(each.manifest.closed_at)
    terms = {
        "plan_digest": plan.digest(),
        "manifest_digest": digest(each.messages["manifest"][1]),
        "model_before": plan.model_digest,
        "attempt": plan.attempt,
        "roster_version": plan.roster_version,
        "noise_scale": plan.noise_scale,
        "clipping_norm": plan.clipping_norm,
    }
    _log(client, run_id, [(name, value, 0, closed) for name, value in _round_metrics(each)], terms)
    client.set_terminated(run_id, end_time=closed)


def _round_metrics(each: RoundRecord) -> Iterator[tuple[str, float]]:
    """What a round is told by; every name is that of a metric, the same on the round's run and, by step, the campaign's."""
    yield "rounds/accepted", len(each.manifest.accepted)
    yield "rounds/rejected", len(each.manifest.rejected)
    yield "rounds/late", len(each.manifest.late)
    yield "rounds/seconds", each.manifest.seconds
    for figures in each.report.accepted:
        yield f"rounds/share/{figures.bank}", figures.share
        yield f"rounds/distance/{figures.bank}", figures.distance
        yield f"rounds/suspicion/{figures.bank}", figures.suspicion


def _campaign_metrics(record: EvaluationRecord, rounds: Sequence[RoundRecord]) -> list[tuple[str, float, int, int]]:
    """(name, value, step, milliseconds) of all the campaign's metrics."""
    end = _milliseconds(rounds[-1].manifest.closed_at)
    parts = {"evaluation": record.pooled, **{f"evaluation of {bank}": own for bank, own in record.banks.items()}}
    found = [(name, value, 0, end) for part, own in parts.items() for name, value in _figures(part, own)]
    if record.reference is not None:
        for metric in ("auprc", "auroc", "recall_at_false_positives"):
            ends = _ends("reference set", metric, getattr(record.reference, metric))
            found += [(name, value, 0, end) for name, value in ends]
    for step, own in enumerate(record.weeks.values()):
        found += [(name, value, step, end) for name, value in _figures("evaluation by week", own)]
    for number, each in enumerate(rounds):
        at = _milliseconds(each.manifest.closed_at)
        found += [(name, float(value), number, at) for name, value in _round_metrics(each)]
    return found


def _figures(part: str, figures: Figures) -> Iterator[tuple[str, float]]:
    for name in Figures.model_fields:
        yield from _ends(part, name, getattr(figures, name))


def _ends(part: str, name: str, figure: Figure) -> Iterator[tuple[str, float]]:
    """The figure and its interval, unless it is not defined; the signed record has all digits."""
    for end, value in (("", figure.value), (".low", figure.low), (".high", figure.high)):
        if value is not None:
            yield f"{part}/{name}{end}", round(value, 4)


def _terms(campaign: Campaign, rounds: Sequence[RoundRecord]) -> dict[str, object]:
    """The campaign's parameters. What a bank's ledger says stays at the bank: the price here is the campaign's."""
    flat = {"learner": campaign.learner, "rounds": campaign.rounds, "seed": campaign.seed, "quorum": campaign.quorum}
    privacy = {f"privacy.{key}": value for key, value in campaign.privacy.model_dump(mode="json").items()}
    rule = {f"aggregation.{key}": value for key, value in campaign.aggregation.model_dump(mode="json").items()}
    window = campaign.held_out.model_dump(mode="json") if campaign.held_out else {}
    return {
        **flat,
        **privacy,
        **rule,
        **{f"held_out.{key}": value for key, value in window.items()},
        "cohort": ",".join(campaign.cohort),
        "schema_digest": campaign.schema_digest,
        "roster_version": rounds[-1].plan.roster_version,
    }


def _log(client: Any, run_id: str, metrics: Sequence[tuple[str, float, int, int]], terms: dict[str, object]) -> None:
    """Write terms and (name, value, step, milliseconds); MLflow takes a thousand metrics at once."""
    from mlflow.entities import Metric, Param

    client.log_batch(run_id, params=[Param(name, str(value)[:6000]) for name, value in terms.items()])
    for at in range(0, len(metrics), 1000):
        rows = [Metric(name, value, when, step) for name, value, step, when in metrics[at : at + 1000]]
        client.log_batch(run_id, metrics=rows)


def _write_files(
    folder: Path,
    coordinator: Coordinator,
    artifact: ModelArtifact,
    record: EvaluationRecord,
    rounds: Sequence[RoundRecord],
) -> None:
    """What the run keeps: the signed records as JSON, the lineage, the pictures and the schema."""
    store, campaign = coordinator.store, artifact.campaign
    signed = folder / "signed"
    signed.mkdir()
    message = mailbox.get_required(store, mailbox.evaluation_key(campaign.name), max_bytes=MAX_EVALUATION_BYTES)
    (signed / "evaluation.json").write_text(signed_json(coordinator, EVALUATION_TYPE, message))
    for each in rounds:
        for name, (kind, own) in each.messages.items():
            (signed / f"round-{each.plan.round:04d}-{name}.json").write_text(signed_json(coordinator, kind, own))
    (folder / "lineage.json").write_text(json.dumps(lineage(record, rounds), indent=1))
    (folder / "privacy.json").write_text(json.dumps(privacy_statement(coordinator, campaign, rounds), indent=1))
    (folder / "schema.json").write_bytes(coordinator.schema.canonical_bytes())
    state = replay(artifact, coordinator.schema)
    if isinstance(state, LinearState):
        (folder / "coefficients.csv").write_text(coefficients_csv(state))
    for name, picture in _pictures(coordinator, artifact, record, rounds):
        picture.savefig(folder / f"{name}.png", dpi=110)


def _pictures(
    coordinator: Coordinator, artifact: ModelArtifact, record: EvaluationRecord, rounds: Sequence[RoundRecord]
) -> Iterator[tuple[str, Any]]:
    settled, query = artifact.history[-1], score_query(artifact, coordinator)
    pooled = read_histograms(query, settled.values, settled.noise)["all"]["all"]
    generator = np.random.Generator(np.random.Philox(key=int(record.model_digest[:32], 16)))
    yield "curves", curves_figure(record, curves(pooled, generator))
    own = sorted(bank_histograms(coordinator, artifact).items(), key=lambda item: -float(item[1].counts.sum()))
    drawn = {bank: curves(histogram, generator, draws=100) for bank, histogram in own[:MOST_BANK_CURVES]}
    yield "curves-by-bank", bank_curves_figure(record, drawn)
    for name, parts in (("banks", record.banks), ("groups", record.groups), ("weeks", record.weeks)):
        if parts:
            yield name, parts_figure(record, parts, {"banks": "bank", "groups": "group", "weeks": "week"}[name])
    yield "suspicion", suspicion_figure([each.report for each in rounds])


def _milliseconds(when: datetime) -> int:
    return int(when.timestamp() * 1000)
