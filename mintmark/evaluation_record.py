"""What a campaign's evaluation found, signed by the coordinator: the one record that promotion, evidence and MLflow read.

Every figure has a 95 % interval in which the banks' noise and the sample of held-out rows are both included
(`mintmark/evaluation.py`); nothing in the record is anybody's data but noised sums that banks released.

>>> Figure(value=0.5, low=0.4, high=0.6).half_width
0.1
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mintmark.agreed import Agreed, Digest, Name, SignedRecord

EVALUATION_TYPE = "application/x-mintmark-evaluation"
MAX_EVALUATION_BYTES = 4 * 1024 * 1024

Count = Annotated[float, Field(ge=0)]
Histogram = tuple[tuple[float, ...], tuple[float, ...]]


class Figure(Agreed):
    """A figure with the ends of its 95 % interval; all three None where it is not defined, as recall without frauds is."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        """Half of the interval's length."""
        return None if self.low is None or self.high is None else round((self.high - self.low) / 2, 12)

    def told(self) -> str:
        """In a few characters, for tables.

        >>> Figure(value=0.5, low=0.4, high=0.625).told()
        '0.500 (0.400 to 0.625)'
        """
        return "-" if self.value is None else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Figures(Agreed):
    """How good the model is on some held-out rows.

    `rows` and `positives` are counts; recalls are shares of the frauds that are above the threshold at which the record's
    `false_positive_rate` of the honest rows, or its budget of alerts, is flagged. `value_detected` is the share of the
    frauds' money above the first of these; `calibration_error` the expected calibration error, in probability.
    `false_alarm_rate` is the share of the honest rows above the record's `threshold`, which is the same for all parts.
    """

    rows: Figure
    positives: Figure
    auprc: Figure
    auroc: Figure
    recall_at_false_positives: Figure
    recall_at_alerts: Figure
    calibration_error: Figure
    value_detected: Figure
    false_alarm_rate: Figure


class ReferenceFigures(Agreed):
    """How good the model is on the coordinator's own rows (`tasks/reference.py`): exact, with the 95 % interval of the
    sample alone. `file` is the SHA-256 of their file."""

    file: Digest
    rows: Annotated[int, Field(ge=1)]
    positives: Annotated[int, Field(ge=0)]
    auprc: Figure
    auroc: Figure
    recall_at_false_positives: Figure


class ReferenceComparison(Agreed):
    """AUPRC of challenger and champion on the very same rows, and of `difference`, the challenger's less the champion's."""

    file: Digest
    rows: Annotated[int, Field(ge=1)]
    positives: Annotated[int, Field(ge=0)]
    challenger: Figure
    champion: Figure
    difference: Figure


class EvaluationRecord(SignedRecord):
    """The campaign's evaluation: pooled by the plan's rule, and for every bank, customer group and week by itself.

    `score_counts` [2][m] are the pooled counts of negatives and positives by score cell, noised, so single ones may lie
    below 0; m is 24 with noise and 128 without (`score_histogram.py`). `noise` is the standard deviation of the noise in
    a pooled count of frauds. `threshold` is the probability that flags `false_positive_rate` of all honest rows, None
    where there are none. `feature_counts` are the training rows by public bin of each feature, missing first, as round 0
    released them; `feature_noise` is the standard deviation of the noise in each. `groups` are named "feature=word",
    `weeks` as "2021-w14" (ISO 8601).
    """

    payload_type = EVALUATION_TYPE
    most_bytes = MAX_EVALUATION_BYTES
    format: Annotated[str, Field(pattern=r"^mintmark/evaluation/2$")] = "mintmark/evaluation/2"
    campaign: Name
    model_digest: Digest
    plan_digest: Digest
    manifest_digest: Digest
    false_positive_rate: Annotated[float, Field(gt=0, lt=1)] = 0.005
    alerts_per_day: Annotated[int, Field(ge=1)] | None = None
    score_counts: Histogram
    noise: Count
    threshold: Annotated[float, Field(gt=0, lt=1)] | None
    pooled: Figures
    banks: dict[Name, Figures]
    groups: dict[str, Figures]
    weeks: dict[str, Figures]
    feature_counts: dict[str, tuple[float, ...]]
    feature_noise: Count
    reference: ReferenceFigures | None = None
