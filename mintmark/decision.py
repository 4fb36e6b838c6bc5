"""A decision on a model: what was asked of it, what was found, who approved, and what followed; signed, and kept for ever.

Refusals are decisions too. Decisions are numbered from 1 and each names the one before it by digest, so that none can be
left out later. What makes a challenger champion is in
`mintmark/promotion.py`; by which figures, in `mlflow/promotion.toml`.

    decision = PromotionDecision.read(message, coordinator_key)
    decision.passed, decision.failed    # (False, ("held-out frauds", "approvals"))
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from mintmark.agreed import Agreed, Digest, SignedRecord
from mintmark.approval import Approval, Question, Reason
from mintmark.roster import PublicKey

DECISION_TYPE = "application/x-mintmark-decision"
MAX_DECISION_BYTES = 1024 * 1024

Share = Annotated[float, Field(ge=0, le=1)]


class Thresholds(Agreed):
    """The contents of `promotion.toml`, where every line is explained. None has a default here: fail closed."""

    rows: Annotated[int, Field(ge=1)]
    frauds: Annotated[int, Field(ge=1)]
    accepted_share: Share
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1e-2)]
    auprc_margin: Share
    recall_margin: Share
    bank_margin: Share
    calibration_error: Share
    calibration_drift: Share
    recall_gap: Share
    group_frauds: Annotated[int, Field(ge=1)]
    false_alarm_gap: Share
    group_rows: Annotated[int, Field(ge=1)]
    approvals: Annotated[int, Field(ge=2, le=100)]


class Check(Agreed):
    """One question of the gate. `value`, `low` and `high` are what was found as numbers, where it is a number."""

    name: str
    expected: str
    got: str
    passed: bool
    value: float | None = None
    low: float | None = None
    high: float | None = None


class Counted(Agreed):
    """An approval that was counted: what was said, the key that signed it, and the SHA-256 of the signed message."""

    said: Approval
    key: PublicKey
    message: Digest


class PromotionDecision(SignedRecord):
    """`question.replaces` is the champion in force before; when the decision passed, the next number is this model's.

    `previous` is the digest of the signed decision before this one (zeros for the first); `champion_evaluation` that of
    the evaluation compared with, None for a first champion and for a rollback, which compares nothing; `reason` is a
    rollback's (a promotion's are in its approvals).
    """

    payload_type = DECISION_TYPE
    most_bytes = MAX_DECISION_BYTES
    format: Annotated[str, Field(pattern=r"^mintmark/decision/1$")] = "mintmark/decision/1"
    number: Annotated[int, Field(ge=1, lt=10**6)]
    previous: Digest
    question: Question
    schema_digest: Digest
    champion_evaluation: Digest | None
    comparability: str
    thresholds: Thresholds
    checks: Annotated[tuple[Check, ...], Field(min_length=1)]
    approvals: tuple[Counted, ...]
    reason: Reason | None = None
    decided_at: AwareDatetime

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the checks that did not pass."""
        return tuple(check.name for check in self.checks if not check.passed)

    @property
    def champion(self) -> int | None:
        """The number of the champion that this decision makes; None for a refusal."""
        return self.question.replaces + 1 if self.passed else None

    def says_the_same(self, other: PromotionDecision) -> bool:
        """Whether only number, time and predecessor differ: then there is nothing new to record."""
        return self.model_copy(update=other.model_dump(include={"number", "previous", "decided_at"})) == other
