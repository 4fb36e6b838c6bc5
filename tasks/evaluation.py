"""Step 10: how good the campaign's model is, from the banks' noised score histograms; the answer is signed and kept.

Pooled figures come from the round's settled sums, by the plan's robust rule; each bank's own from the update that the
manifest names, which says no more than what the coordinator opened then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from prefect import task
from prefect.cache_policies import NO_CACHE

from mintmark import mailbox
from mintmark.campaign import learner_of, replay, shape_of
from mintmark.canonical import digest
from mintmark.drift import released_features
from mintmark.errors import ProtocolError
from mintmark.evaluation import FALSE_POSITIVE_RATE, Thresholds, figures, operating_place, threshold_of
from mintmark.evaluation_record import MAX_EVALUATION_BYTES, EvaluationRecord, Figures
from mintmark.messages import ModelArtifact, decode_sums, max_update_bytes, open_update_frame, update_info
from mintmark.models.score_histogram import ScoreHistogram, ScoreQuery, read_histograms
from mintmark.plan import MAX_PLAN_BYTES, Campaign, RoundPlan
from mintmark.privacy.mechanism import LATTICE
from mintmark.round import MAX_MANIFEST_BYTES, Manifest
from tasks.coordinator import Coordinator
from tasks.reference import judge_on_reference


def evaluate_scores(coordinator: Coordinator, campaign: str, model_digest: str) -> EvaluationRecord:
    """The record of a finished campaign: made, signed and put into the mailbox, or read back from there.

    Raises `ProtocolError` before its evaluation round is settled, and when the mailbox holds another model's record.
    """
    if known := known_evaluation(coordinator, campaign):
        if known.model_digest != model_digest:
            raise ProtocolError(
                f"campaign {campaign}: the model {known.model_digest} was evaluated, not {model_digest}"
            )
        return known
    artifact = coordinator.model(campaign, model_digest)
    if len(artifact.history) != artifact.campaign.rounds + 1:
        raise ProtocolError(f"campaign {campaign}: expected its evaluation round to be settled, got a model before it")
    record = _record(coordinator, artifact, model_digest)
    mailbox.put_same(coordinator.store, mailbox.evaluation_key(campaign), record.signed(coordinator.signer))
    return record


def known_evaluation(coordinator: Coordinator, campaign: str) -> EvaluationRecord | None:
    """The campaign's signed record; None when it was not evaluated yet."""
    message = coordinator.store.get(mailbox.evaluation_key(campaign), max_bytes=MAX_EVALUATION_BYTES)
    return EvaluationRecord.read(message, coordinator.signer.public_key) if message else None


def score_query(artifact: ModelArtifact, coordinator: Coordinator) -> ScoreQuery:
    """What the campaign's evaluation round asked. Raises `ProtocolError` for a learner that asked something else."""
    before = ModelArtifact(artifact.campaign, artifact.history[: artifact.campaign.rounds])
    query = learner_of(artifact.campaign).query(replay(before, coordinator.schema))
    if not isinstance(query, ScoreQuery):
        raise ProtocolError(f"learner {artifact.campaign.learner}: expected score histograms in the last round")
    return query


def bank_histograms(coordinator: Coordinator, artifact: ModelArtifact) -> dict[str, ScoreHistogram]:
    """What each bank that the evaluation's manifest names released of all its held-out rows. Raises `ProtocolError`."""
    campaign = artifact.campaign
    plan, manifest, _ = _evaluation_round(coordinator, campaign.name, campaign.rounds)
    return _bank_histograms(coordinator, score_query(artifact, coordinator), plan, manifest)


def _bank_histograms(
    coordinator: Coordinator, query: ScoreQuery, plan: RoundPlan, manifest: Manifest
) -> dict[str, ScoreHistogram]:
    return {
        bank: read_histograms(query, sums, plan.noise_scale / LATTICE)["all"]["all"]
        for bank, sums in _bank_sums(coordinator, plan, manifest, shape_of(query))
    }


def _record(coordinator: Coordinator, artifact: ModelArtifact, model_digest: str) -> EvaluationRecord:
    campaign, query, settled = artifact.campaign, score_query(artifact, coordinator), artifact.history[-1]
    plan, manifest, manifest_digest = _evaluation_round(coordinator, campaign.name, campaign.rounds)
    pooled = read_histograms(query, settled.values, settled.noise)
    every_row = pooled["all"]["all"]
    place = operating_place(every_row)
    at = Thresholds(alert_rate=_alert_rate(coordinator.settings.alerts_per_day, campaign, every_row), place=place)

    def of(name: str, histogram: ScoreHistogram) -> Figures:
        key = int.from_bytes(hashlib.sha256(f"{model_digest}/{name}".encode()).digest()[:16], "big")
        return figures(histogram, at, np.random.Generator(np.random.Philox(key=key)))

    own = _bank_histograms(coordinator, query, plan, manifest)
    groups = {
        f"{division.name}={word}": pooled[division.name][word]
        for division in query.divisions
        if division.feature is not None
        for word in division.words
        if word != "missing" or pooled[division.name][word].counts.sum() > 0
    }
    weeks = {word: histogram for word, histogram in pooled.get("weeks", {}).items() if word != "other"}
    features, feature_noise = released_features(artifact, coordinator.schema)
    return EvaluationRecord(
        campaign=campaign.name,
        model_digest=model_digest,
        plan_digest=plan.digest(),
        manifest_digest=manifest_digest,
        false_positive_rate=FALSE_POSITIVE_RATE,
        alerts_per_day=coordinator.settings.alerts_per_day,
        score_counts=(tuple(every_row.counts[0].tolist()), tuple(every_row.counts[1].tolist())),
        noise=float(every_row.noise[1, 0]),
        threshold=None if place is None else threshold_of(place, query.score_cells),
        pooled=of("pooled", every_row),
        banks={bank: of(bank, histogram) for bank, histogram in own.items()},
        groups={name: of(name, histogram) for name, histogram in groups.items()},
        weeks={name: of(name, histogram) for name, histogram in weeks.items()},
        feature_counts=features,
        feature_noise=feature_noise,
        reference=judge_on_reference(coordinator, artifact),
    )


def _alert_rate(alerts_per_day: int | None, campaign: Campaign, every_row: ScoreHistogram) -> float | None:
    """The share of all rows that the consortium's budget of alerts a day lets become one; None when days are not known."""
    rows = float(np.maximum(every_row.counts.sum(axis=1), 0.0).sum())  # as figures count them
    if alerts_per_day is None or campaign.held_out is None or rows <= 0:
        return None
    return min(1.0, alerts_per_day * 7 * campaign.held_out.weeks / rows)


def _evaluation_round(coordinator: Coordinator, campaign: str, round: int) -> tuple[RoundPlan, Manifest, str]:
    """Plan and manifest of the round, the newest attempt that settled, and the manifest's digest."""
    store, trusted = coordinator.store, coordinator.signer.public_key
    *_, key = store.list(mailbox.manifest_key(campaign, round, 0).rpartition("-")[0])
    message = mailbox.get_required(store, key, max_bytes=MAX_MANIFEST_BYTES)
    attempt = int(key.rpartition("-")[2])
    signed = mailbox.get_required(store, mailbox.plan_key(campaign, round, attempt), max_bytes=MAX_PLAN_BYTES)
    return RoundPlan.read(signed, trusted), Manifest.read(message, trusted), digest(message)


def _bank_sums(
    coordinator: Coordinator, plan: RoundPlan, manifest: Manifest, shape: tuple[int, int, int]
) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Each accepted bank's noised sums in units of 1.0, from just the update that the manifest names."""
    keys = {member.bank: member.signing_key for member in coordinator.roster_at(plan.roster_version).members}
    coordinates = int(np.prod(shape))
    for update in manifest.accepted:
        key = mailbox.update_key(update.bank, plan.campaign.name, plan.round, plan.attempt)
        message = mailbox.get_required(coordinator.store, key, max_bytes=max_update_bytes(coordinates))
        if digest(message) != update.message_digest:
            raise ProtocolError(f"mailbox: expected the update of {update.bank} that the manifest names, got another")
        statement, sealed = open_update_frame(message, bytes.fromhex(keys[update.bank]), coordinates)
        data = coordinator.sealing_key.open(sealed, info=update_info(statement))
        yield update.bank, decode_sums(data, plan.noise_scale, coordinates).reshape(shape) / LATTICE


evaluate_model = task(name="evaluate model", cache_policy=NO_CACHE, persist_result=False)(evaluate_scores)
