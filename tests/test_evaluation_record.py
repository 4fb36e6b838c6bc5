"""The signed record of an evaluation: what is written is what is read, and only the coordinator's."""

from __future__ import annotations

import pytest

from mintmark.envelope import generate_signer
from mintmark.errors import ProtocolError
from mintmark.evaluation_record import EvaluationRecord, Figure, Figures

HALF = Figure(value=0.5, low=0.4, high=0.6)
NONE = Figure(value=None, low=None, high=None)
FIGURES = Figures(
    rows=HALF,
    positives=HALF,
    auprc=HALF,
    auroc=HALF,
    recall_at_false_positives=HALF,
    recall_at_alerts=NONE,
    calibration_error=HALF,
    value_detected=NONE,
    false_alarm_rate=HALF,
)
RECORD = EvaluationRecord(
    campaign="cards",
    model_digest="a" * 64,
    plan_digest="b" * 64,
    manifest_digest="c" * 64,
    score_counts=((1.0, -0.5), (0.25, 2.0)),
    noise=1.5,
    threshold=0.4,
    pooled=FIGURES,
    banks={"bank-a": FIGURES},
    groups={"gender=F": FIGURES},
    weeks={"2021-w14": FIGURES},
    feature_counts={"amount": (0.5, 10.0)},
    feature_noise=2.0,
)


def test_what_is_signed_is_what_is_read() -> None:
    """A record survives signing and reading; another's signature, or one changed byte, does not."""
    signer = generate_signer()
    message = RECORD.signed(signer)
    assert EvaluationRecord.read(message, signer.public_key) == RECORD
    with pytest.raises(ProtocolError, match="signature"):
        EvaluationRecord.read(message, generate_signer().public_key)
    with pytest.raises(ProtocolError, match="signature"):
        EvaluationRecord.read(message.replace(b'"noise":1.5', b'"noise":0.5'), signer.public_key)
