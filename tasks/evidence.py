"""The evidence pack: what a risk committee asks of a model, in the shape of model-risk guidance (SR 11-7) and of a data
protection impact assessment (GDPR, articles 25 and 35). Every figure is taken from a signed record and says from which.

    pack = gather(coordinator, "cards-2026-w14", card, now)   # JSON; every figure with its record's key and digest
    check(coordinator, pack)                                  # (how many figures, what is wrong with them)

The page that people read is made from the pack alone: `evidence_page.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mintmark import mailbox
from mintmark.errors import ProtocolError
from mintmark.evidence import Figure, Source, derived, open_source, problems_of
from tasks.coordinator import Coordinator

FORMAT = "mintmark/evidence/2"
MAX_PACK_BYTES = 32 * 1024 * 1024
METRICS = (
    "rows",
    "positives",
    "auprc",
    "auroc",
    "recall_at_false_positives",
    "recall_at_alerts",
    "calibration_error",
    "value_detected",
    "false_alarm_rate",
)
Pack = dict[str, Any]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]


class ModelCard(BaseModel):
    """The contents of `model_card.toml`: what people say about the model, in paragraphs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: Text
    contact: Text
    purpose: Text
    intended_use: Text
    materiality: Text
    conceptual_soundness: Text
    limits: Text
    monitoring: Text
    necessity: Text
    risks: Text


def gather(coordinator: Coordinator, campaign: str, card: ModelCard, now: datetime) -> Pack:
    """The pack of a finished campaign, as things stood at `now`. Raises `ProtocolError` when it is not evaluated, or a
    record does not verify."""
    read = _Reader(coordinator)
    plans = read.newest(f"public/campaigns/{campaign}/plans/")
    if not plans:
        raise ProtocolError(f"campaign {campaign}: expected signed plans in the mailbox, got none; see its name again")
    evaluation = read(mailbox.evaluation_key(campaign))
    decisions = [
        one
        for one in read.all("public/decisions/")
        if one.payload["question"]["model"] == evaluation.payload["model_digest"]
        and datetime.fromisoformat(one.payload["decided_at"]) <= now
    ]
    champions = [
        one for one in read.all("public/champions/") if datetime.fromisoformat(one.payload["promoted_at"]) <= now
    ]
    past, schema = _evaluated(read, champions), plans[-1].payload["campaign"]["schema_digest"]
    pack = {
        "format": FORMAT,
        "made_at": now.isoformat(),
        "consortium": coordinator.settings.consortium,
        "campaign": campaign,
        "card": card.model_dump(),
        "terms": _terms(plans[-1]),
        "windows": _windows(plans, evaluation),
        "privacy": _privacy(plans),
        "rounds": _rounds(read, campaign),
        "alarm": derived("alarm"),
        "performance": _performance(evaluation),
        "champion_before": _before(read, decisions),
        "decisions": [_decision(one) for one in decisions],
        "champions": [
            {name: one.figure(name) for name in ("number", "campaign", "model_digest", "decision", "promoted_at")}
            for one in champions
        ],
        "backtest": [_backtest(champion, found) for champion, found in past],
        "drift": [
            _drift(champion, found, evaluation)
            for champion, found in past
            if found.key != evaluation.key and champion.payload["schema_digest"] == schema
        ],
    }
    named = sorted(set(_records(pack)))
    return pack | {"records": [{"key": key, "sha256": sha256} for key, sha256 in named]}


def check(coordinator: Coordinator, pack: Any) -> tuple[int, list[str]]:
    """How many figures a pack holds, and what is wrong with them: each is compared with the mailbox, and the pack with one
    that is made anew, so that a true figure in a wrong place is found too."""
    if not isinstance(pack, dict) or pack.get("format") != FORMAT:
        raise ProtocolError(f"expected a pack of evidence of format {FORMAT}, got something else")
    count, problems = problems_of(pack, coordinator.store, coordinator.signer.public_key)
    try:
        card = ModelCard.model_validate(pack["card"])
        anew = gather(coordinator, str(pack["campaign"]), card, datetime.fromisoformat(str(pack["made_at"])))
    except (KeyError, ValueError) as error:
        raise ProtocolError(f"expected the parts of a pack of evidence, got others: {type(error).__name__}") from None
    changed = [part for part in anew.keys() | pack.keys() if anew.get(part) != pack.get(part)]
    problems += [f"/{part}: expected what the mailbox gives, got something else" for part in sorted(changed)]
    return count, problems


def campaign_of(coordinator: Coordinator, name: str) -> str:
    """The campaign of that name, or the one that made the model of that digest. Raises `ProtocolError`."""
    if not re.fullmatch("[0-9a-f]{64}", name):
        return name
    for key in coordinator.store.list("public/campaigns/"):
        if key.endswith(f"/models/{name}"):
            return key.split("/")[2]
    raise ProtocolError(f"mailbox: expected a campaign that made the model {name}, got none")


class _Reader:
    """Opens records, each once, and remembers which."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._store, self._key = coordinator.store, coordinator.signer.public_key
        self.sources: dict[str, Source] = {}

    def __call__(self, key: str) -> Source:
        if key not in self.sources:
            self.sources[key] = open_source(self._store, key, self._key)
        return self.sources[key]

    def all(self, prefix: str) -> list[Source]:
        return [self(key) for key in self._store.list(prefix)]

    def newest(self, prefix: str) -> list[Source]:
        """The last attempt of every round."""
        last = {key.rpartition("-")[0]: key for key in self._store.list(prefix)}
        return [self(last[round_]) for round_ in sorted(last)]


def _records(part: Any) -> Iterator[tuple[str, str]]:
    """Key and digest of every record that a figure was read from."""
    if isinstance(part, dict) and "sha256" in part:
        yield part["key"], part["sha256"]
    elif isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _records(inner)


def _terms(plan: Source) -> dict[str, Figure]:
    names = ("name", "learner", "rounds", "seed", "schema_digest", "cohort", "quorum", "privacy", "aggregation")
    return {name: plan.figure("campaign", name) for name in names}


def _windows(plans: list[Source], evaluation: Source) -> dict[str, Any]:
    agreed = plans[-1].payload["campaign"].get("held_out")
    return {
        "agreed": plans[-1].figure("campaign", "held_out") if agreed else None,
        "first_round_opened": plans[0].figure("opens_at"),
        "last_round_closed": plans[-1].figure("closes_at"),
        "held_out_weeks": sorted(evaluation.payload["weeks"]),
    }


def _privacy(plans: list[Source]) -> dict[str, Any]:
    terms = [plans[-1].figure("campaign", "privacy", name) for name in ("epsilon", "delta")]
    return {
        "epsilon": terms[0],
        "delta": terms[1],
        "unit": plans[-1].figure("campaign", "privacy", "unit"),
        "clip": plans[-1].figure("campaign", "privacy", "clip"),
        "advantage": derived("advantage", *terms),
        "gaussian_advantage": derived("gaussian_advantage", *terms),
        "releases": [
            {
                "round": plan.figure("round"),
                "mu": derived("release_mu", plan.figure("clipping_norm"), plan.figure("noise_scale")),
            }
            for plan in plans
        ],
    }


def _rounds(read: _Reader, campaign: str) -> list[dict[str, Any]]:
    rounds = []
    reports = read.newest(f"public/campaigns/{campaign}/reports/")
    for report, manifest in zip(reports, read.newest(f"public/campaigns/{campaign}/manifests/"), strict=False):
        rounds.append(
            {
                "accepted": [report.figure("accepted", place) for place in range(len(report.payload["accepted"]))],
                "rejected": [report.figure("rejected", place) for place in range(len(report.payload["rejected"]))],
                "late": report.figure("late"),
                "updates": manifest.figure("accepted"),
                "seconds": manifest.figure("seconds"),
                "closed_at": manifest.figure("closed_at"),
            }
        )
    return rounds


def _performance(evaluation: Source) -> dict[str, Any]:
    def figures(*path: str) -> dict[str, Figure]:
        return {metric: evaluation.figure(*path, metric) for metric in METRICS}

    def each(part: str) -> dict[str, dict[str, Figure]]:
        return {name: figures(part, name) for name in sorted(evaluation.payload[part])}

    plain = ("model_digest", "false_positive_rate", "alerts_per_day", "noise", "threshold", "score_counts")
    return {
        **{name: evaluation.figure(name) for name in plain},
        "reference": _reference(evaluation),
        "pooled": figures("pooled"),
        "banks": each("banks"),
        "groups": each("groups"),
        "weeks": each("weeks"),
    }


def _reference(evaluation: Source) -> dict[str, Figure] | None:
    """The exact figures on the coordinator's own rows; None where it has none."""
    if evaluation.payload["reference"] is None:
        return None
    return {name: evaluation.figure("reference", name) for name in evaluation.payload["reference"]}


def _before(read: _Reader, decisions: list[Source]) -> dict[str, Any] | None:
    """The performance of the champion that the last decision compared with."""
    for decision in reversed(decisions):
        if decision.payload["champion_evaluation"]:
            champion = read(mailbox.champion_key(decision.payload["question"]["replaces"]))
            found = _performance(read(mailbox.evaluation_key(champion.payload["campaign"])))
            return {"campaign": champion.figure("campaign"), "number": champion.figure("number"), **found}
    return None


def _evaluated(read: _Reader, champions: list[Source]) -> list[tuple[Source, Source]]:
    """Every model that was ever champion, oldest first, with its evaluation. Raises `ProtocolError` when that is of another
    model."""
    found: dict[str, tuple[Source, Source]] = {}
    for champion in champions:
        campaign = str(champion.payload["campaign"])
        evaluation = read(mailbox.evaluation_key(campaign))
        if evaluation.payload["model_digest"] != champion.payload["model_digest"]:
            raise ProtocolError(
                f"{champion.key}: expected its model to be the one evaluated in {campaign}, got another"
            )
        found.setdefault(campaign, (champion, evaluation))  # a rollback names an older model again
    return list(found.values())


def _backtest(champion: Source, evaluation: Source) -> dict[str, Any]:
    """How a champion did on its own held-out rows: all of them, and by week."""
    performance = _performance(evaluation)
    return {name: champion.figure(name) for name in ("number", "campaign")} | {
        part: performance[part] for part in ("pooled", "weeks")
    }


def _drift(champion: Source, before: Source, after: Source) -> dict[str, Any]:
    """How scores and features are distributed beside those that a champion was trained and judged on."""

    def inputs(*path: str, noise: str) -> list[Figure]:
        return [figure for record in (before, after) for figure in (record.figure(*path), record.figure(noise))]

    same_cells = len(before.payload["score_counts"][0]) == len(after.payload["score_counts"][0])
    known, counted = before.payload["feature_counts"], after.payload["feature_counts"]
    return {
        "number": champion.figure("number"),
        "campaign": champion.figure("campaign"),
        "scores": derived("score_drift", *inputs("score_counts", noise="noise")) if same_cells else None,
        "features": {
            name: derived("feature_drift", *inputs("feature_counts", name, noise="feature_noise"))
            for name in sorted(counted)
            if len(known.get(name, ())) == len(counted[name])
        },
    }


def _decision(decision: Source) -> dict[str, Any]:
    return {
        "number": decision.figure("number"),
        "action": decision.figure("question", "action"),
        "replaces": decision.figure("question", "replaces"),
        "decided_at": decision.figure("decided_at"),
        "comparability": decision.figure("comparability"),
        "thresholds": decision.figure("thresholds"),
        "reason": decision.figure("reason"),
        "checks": list(_each(decision, "checks")),
        "approvals": list(_each(decision, "approvals")),
    }


def _each(source: Source, part: str) -> Iterator[Figure]:
    for place in range(len(source.payload[part])):
        yield source.figure(part, place)
