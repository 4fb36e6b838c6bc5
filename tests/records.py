"""Evaluation records and people, made by hand, for tests of what is decided by them."""

from __future__ import annotations

from datetime import UTC, datetime

from mintmark.approval import Action, Approval, Approver, Approvers, Question, Verdict
from mintmark.canonical import digest
from mintmark.decision import Counted, Thresholds
from mintmark.envelope import Ed25519Signer, generate_signer
from mintmark.evaluation_record import EvaluationRecord, Figure, Figures
from mintmark.settings import read_toml
from tasks.shipped import shipped

NOW = datetime(2026, 3, 9, 9, 0, tzinfo=UTC)
LIMITS = read_toml(shipped("promotion.toml"), Thresholds)
NOBODY = Figure(value=None, low=None, high=None)


def figure(value: float, half: float = 0.02) -> Figure:
    return Figure(value=value, low=round(value - half, 9), high=round(value + half, 9))


def figures(
    auprc: float = 0.5,
    *,
    half: float = 0.02,
    recall: float = 0.6,
    calibration: float = 0.005,
    frauds: float = 400.0,
    alarms: float = 0.005,
) -> Figures:
    return Figures(
        rows=figure(frauds * 100, 50),
        positives=figure(frauds, 20),
        auprc=figure(auprc, half),
        auroc=figure(0.9, half),
        recall_at_false_positives=figure(recall, half),
        recall_at_alerts=figure(recall, half),
        calibration_error=figure(calibration, 0.001),
        value_detected=figure(recall, half),
        false_alarm_rate=figure(alarms, 0.001),
    )


def evaluation(
    campaign: str = "cards",
    model: str = "a" * 64,
    *,
    auprc: float = 0.5,
    pooled: Figures | None = None,
    banks: dict[str, Figures] | None = None,
    groups: dict[str, Figures] | None = None,
    weeks: tuple[str, ...] = ("2026-w08", "2026-w09"),
) -> EvaluationRecord:
    counts = tuple(float(round(2000 * 0.95**cell)) for cell in range(128))
    return EvaluationRecord(
        campaign=campaign,
        model_digest=model,
        plan_digest="c" * 64,
        manifest_digest="d" * 64,
        score_counts=(counts, tuple(value / 60 for value in reversed(counts))),
        noise=3.0,
        threshold=0.4,
        pooled=pooled or figures(auprc),
        banks=banks or {f"bank-{number}": figures(auprc, half=0.05) for number in range(3)},
        groups=groups or {},
        weeks={week: figures(auprc, half=0.06) for week in weeks},
        feature_counts={"amount": (5.0, 4000.0, 2000.0, 1000.0)},
        feature_noise=40.0,
    )


class People:
    """Ada, Ben and Cy, with their keys."""

    def __init__(self) -> None:
        self.keys: dict[str, Ed25519Signer] = {name: generate_signer() for name in ("ada", "ben", "cy")}
        self.list = Approvers(
            approver=tuple(Approver(name=name, key=key.public_key.hex()) for name, key in self.keys.items())
        )

    def say(
        self, question: Question, *names: str, verdict: Verdict = Verdict.APPROVE, resolved: tuple[str, ...] = ()
    ) -> tuple[Counted, ...]:
        """What these people say, signed and counted."""
        made = []
        for name in names:
            said = Approval(
                question=question, approver=name, verdict=verdict, reason="looked at it", resolved=resolved, at=NOW
            )
            key = self.keys[name]
            made.append(Counted(said=said, key=key.public_key.hex(), message=digest(said.signed(key))))
        return tuple(made)


def question(model: str = "a" * 64, *, replaces: int = 0, action: Action = Action.PROMOTE) -> Question:
    return Question(action=action, campaign="cards", model=model, evaluation="e" * 64, replaces=replaces)
