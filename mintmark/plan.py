"""What a bank is asked to consent to: a campaign's terms and one round's plan (protocol, steps 1 and 3).

A `RoundPlan` holds everything that decides what a bank would send. Its digest names the round: two banks that hold
the same digest were asked the same thing. The values check themselves when made, so an infeasible plan does not
exist; whether a bank *accepts* a plan is that bank's policy, not this file.

>>> AggregationTerms(rule="trimmed_mean", banks=8, byzantine=2, trim=0.35).byzantine
2
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, model_validator

from mintmark.aggregation.rules import check_feasible
from mintmark.agreed import Agreed, Digest, Name, SignedRecord
from mintmark.errors import AggregationError

PLAN_TYPE = "application/x-mintmark-plan"
MAX_PLAN_BYTES = 256 * 1024
MAX_ROUNDS = 1000
MAX_ATTEMPTS = 100  # of a round
MAX_BANKS = 1000
MAX_WEEKS = 7
MAX_EPSILON = 10.0  # beyond, a guarantee says nothing


class PrivacyUnit(StrEnum):
    """Whose presence a release hides: one transaction, or a customer with all of theirs."""

    TRANSACTION = "transaction"
    CUSTOMER = "customer"


class Release(StrEnum):
    """What a round asks a bank to release: sums to learn from, or counts of scores."""

    TRAINING_SUMS = "training_sums"
    SCORES = "scores"


class PrivacyTerms(Agreed):
    """The guarantee a campaign works under: (epsilon, delta) for every unit, over the whole campaign.

    `clip` is the clipping norm of one unit as a fraction of the most that a single row can contribute: at 1 and the
    transaction as unit nothing is ever clipped. For customers .25 costs little (docs/learning.md) and quarters the noise.
    `epsilon` of None asks for no noise at all: simulations only, no bank's policy allows it.
    """

    epsilon: Annotated[float, Field(gt=0, le=MAX_EPSILON)] | None
    delta: Annotated[float, Field(gt=0, lt=1e-2)]
    unit: PrivacyUnit
    clip: Annotated[float, Field(gt=0, le=100)] = 1.0


class AggregationTerms(Agreed):
    """The rule, and how many liars it must stand. Feasibility is checked here, once, and never clamped later.

    `rule` is a chain by name (`mintmark.aggregation.rules`), `banks` is n, `byzantine` is f. `trim`, for the trimmed mean
    only, is the share of the weight it cuts from each side; at 0 it cuts what the f heaviest banks hold.
    Raises `AggregationError` with both numbers when the chain cannot stand f of n.
    """

    rule: str
    banks: Annotated[int, Field(ge=1, le=MAX_BANKS)]
    byzantine: Annotated[int, Field(ge=0)] = 0
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.0

    @model_validator(mode="after")
    def _feasible(self) -> Self:
        check_feasible(self.chain, self.banks, self.byzantine)
        return self

    @property
    def chain(self) -> str:
        """The rule's full name, its trim included."""
        return f"{self.rule}:{self.trim}" if self.trim else self.rule


class HeldOutWindow(Agreed):
    """Which days the campaign's rows are of: training rows from `trained_from` to the day before `first_day`, held-out ones
    from `first_day` on, told by each of `weeks` weeks. Agreed on, not read off data: it costs no privacy.

    >>> HeldOutWindow(trained_from=date(2021, 1, 4), first_day=date(2021, 4, 5), weeks=2).week_names
    ('2021-w14', '2021-w15')
    """

    trained_from: Annotated[date, Field(strict=False)]  # a flow's parameters are texts; bytes are read as strictly
    first_day: Annotated[date, Field(strict=False)]
    weeks: Annotated[int, Field(ge=1, le=MAX_WEEKS)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.trained_from >= self.first_day:
            raise ValueError("expected trained_from before first_day")
        return self

    @property
    def last_day(self) -> date:
        return self.first_day + timedelta(days=7 * self.weeks - 1)

    @property
    def week_names(self) -> tuple[str, ...]:
        """ISO 8601's names of the weeks, each by its first day."""
        starts = (self.first_day + timedelta(days=7 * week) for week in range(self.weeks))
        return tuple(f"{start:%G}-w{start:%V}" for start in starts)


class Campaign(Agreed):
    """Everything that stays the same from the first round to the last.

    `seed` is public: with the published aggregates it decides every tree's structure. `rounds` counts the training
    rounds, the bins' included; the round after the last evaluates the result with score histograms. A round settles with
    `quorum` updates that together hold `quorum_share` of the cohort's weight, by the roster's row bands. With `held_out`
    the held-out rows are later than the training rows at every bank.
    """

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    learner: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]
    schema_digest: Digest
    rounds: Annotated[int, Field(ge=3, le=MAX_ROUNDS)]
    privacy: PrivacyTerms
    aggregation: AggregationTerms
    cohort: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_BANKS)]
    quorum: Annotated[int, Field(ge=1)]
    quorum_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    held_out: HeldOutWindow | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cohort != tuple(sorted(set(self.cohort))):
            raise ValueError("expected a sorted cohort that names each bank once")
        if len(self.cohort) != self.aggregation.banks:
            raise ValueError(f"expected a cohort of n={self.aggregation.banks} banks, got {len(self.cohort)}")
        if self.quorum > len(self.cohort):
            raise ValueError(f"expected a quorum of at most {len(self.cohort)}, got {self.quorum}")
        # A round may settle with as few as the quorum, and all liars among them.
        terms = self.aggregation
        try:
            check_feasible(terms.chain, self.quorum, terms.byzantine)
        except AggregationError as error:
            raise AggregationError(f"campaign {self.name}, a quorum of {self.quorum} updates: {error}") from None
        return self


class RoundPlan(SignedRecord):
    """One round's question to the banks.

    `noise_scale` is the standard deviation of the discrete Gaussian in lattice steps (0 only in simulations) and
    `clipping_norm` the L2 bound of one unit's contribution in lattice steps: their ratio is what the round costs.
    `query_digest` names the structures that every bank derives for itself from `model_digest` and the seed.
    """

    payload_type = PLAN_TYPE
    most_bytes = MAX_PLAN_BYTES
    format: Annotated[str, Field(pattern=r"^mintmark/plan/1$")] = "mintmark/plan/1"
    campaign: Campaign
    round: Annotated[int, Field(ge=0)]
    attempt: Annotated[int, Field(ge=0, lt=MAX_ATTEMPTS)]
    roster_version: Annotated[int, Field(ge=1)]
    model_digest: Digest
    query_digest: Digest
    noise_scale: Annotated[float, Field(ge=0, lt=2.0**60)]
    clipping_norm: Annotated[int, Field(gt=0, lt=2**60)]
    opens_at: AwareDatetime
    closes_at: AwareDatetime

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.round > self.campaign.rounds:
            raise ValueError(f"expected round 0 to {self.campaign.rounds}, got {self.round}")
        if self.opens_at >= self.closes_at:
            raise ValueError("expected opens_at before closes_at")
        return self

    @property
    def evaluates(self) -> bool:
        """Whether this is the last round: score histograms instead of training."""
        return self.round == self.campaign.rounds

    @property
    def asks_for(self) -> Release:
        """What would leave the bank."""
        return Release.SCORES if self.evaluates else Release.TRAINING_SUMS

    def release_digest(self) -> str:
        """Names what would be released whatever the attempt, its times and the roster: asked again, a bank answers
        with the noised sums it drew the first time."""
        opens, closes = datetime(2000, 1, 1, tzinfo=UTC), datetime(2001, 1, 1, tzinfo=UTC)
        fields = {"attempt": 0, "roster_version": 1, "opens_at": opens, "closes_at": closes}
        return self.model_copy(update=fields).digest()
