"""What this bank will ever allow: read from its own `policy.toml`, checked before anything is charged (protocol, step 3).

Nothing the coordinator sends can widen it. A policy that is missing, unreadable or contradicts itself allows nothing.

    policy = read_policy(Path("policy.toml"))
    refusal = policy.refusal(plan, schema, training_rows=120_000, customers=9_000)   # None, or the reason
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mintmark.errors import DataError
from mintmark.plan import PrivacyUnit, Release, RoundPlan
from mintmark.schema import FeatureSchema, Scope
from mintmark.settings import read_toml

Epsilon = Annotated[float, Field(gt=0, le=100)]


class RefusalReason(StrEnum):
    """Why a bank does not answer a plan. The word is all that leaves; the details stay in the bank's own log."""

    NO_POLICY = "no_policy"
    NO_DATA = "no_data"
    NOT_AUTHENTIC = "not_authentic"
    DIGEST_DIFFERS = "digest_differs"
    NOT_OPEN = "not_open"
    STALE = "stale"
    NOT_IN_COHORT = "not_in_cohort"
    COHORT_TOO_SMALL = "cohort_too_small"
    TOO_FEW_ROWS = "too_few_rows"
    TOO_FEW_CUSTOMERS = "too_few_customers"
    SCHEMA_DIFFERS = "schema_differs"
    FEATURE_NOT_ALLOWED = "feature_not_allowed"
    UNIT_NOT_ALLOWED = "unit_not_allowed"
    UNIT_DOES_NOT_FIT = "unit_does_not_fit"
    LEARNER_NOT_ALLOWED = "learner_not_allowed"
    DELTA_TOO_LARGE = "delta_too_large"
    RELEASE_NOT_ALLOWED = "release_not_allowed"
    MODEL_DIFFERS = "model_differs"
    OVER_ROUND_BUDGET = "over_round_budget"
    OVER_CAMPAIGN_BUDGET = "over_campaign_budget"
    OVER_YEAR_BUDGET = "over_year_budget"
    LEDGER_UNSOUND = "ledger_unsound"
    OUTBOX_LOST = "outbox_lost"
    STORAGE_UNREACHABLE = "storage_unreachable"


class Budget(BaseModel):
    """Epsilon at `delta`, for each privacy unit, that a round, a campaign and a calendar year may cost.

    A campaign that was begun keeps its whole budget reserved until `reservation_days` after the last round answered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    delta: Annotated[float, Field(gt=0, le=1e-4)]
    epsilon_per_round: Epsilon
    epsilon_per_campaign: Epsilon
    epsilon_per_year: Epsilon
    reservation_days: Annotated[int, Field(ge=0, le=366)] = 30

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.epsilon_per_round <= self.epsilon_per_campaign <= self.epsilon_per_year:
            raise ValueError("expected epsilon per round <= per campaign <= per year")
        return self


class Policy(BaseModel):
    """The contents of `policy.toml`. `features` of None allows all of the agreed schema."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: Budget
    learners: Annotated[tuple[str, ...], Field(min_length=1)]
    units: Annotated[tuple[PrivacyUnit, ...], Field(min_length=1)] = (PrivacyUnit.CUSTOMER,)
    features: tuple[str, ...] | None = None
    smallest_cohort: Annotated[int, Field(ge=2)] = 3
    smallest_rows: Annotated[int, Field(ge=1)] = 1000
    smallest_customers: Annotated[int, Field(ge=1)] = 50
    may_leave: Annotated[tuple[Release, ...], Field(min_length=1)] = tuple(Release)
    state_budget: bool = False  # tell the coordinator, beside every update, how much epsilon is left

    def refusal(
        self, plan: RoundPlan, schema: FeatureSchema, *, training_rows: int, customers: int
    ) -> RefusalReason | None:
        """Why this plan is refused, or None. Budgets are checked by the ledger's charge (local_round.py)."""
        campaign = plan.campaign
        if campaign.schema_digest != schema.digest():
            return RefusalReason.SCHEMA_DIFFERS
        if self.features is not None and set(schema.names) - set(self.features):
            return RefusalReason.FEATURE_NOT_ALLOWED
        if campaign.privacy.unit not in self.units:
            return RefusalReason.UNIT_NOT_ALLOWED
        if not unit_fits(campaign.privacy.unit, schema):
            return RefusalReason.UNIT_DOES_NOT_FIT
        if campaign.learner not in self.learners:
            return RefusalReason.LEARNER_NOT_ALLOWED
        if campaign.privacy.delta > self.budget.delta:
            return RefusalReason.DELTA_TOO_LARGE
        if plan.asks_for not in self.may_leave:
            return RefusalReason.RELEASE_NOT_ALLOWED
        if min(len(campaign.cohort), campaign.quorum) < self.smallest_cohort:
            return RefusalReason.COHORT_TOO_SMALL
        if training_rows < self.smallest_rows:
            return RefusalReason.TOO_FEW_ROWS
        if customers < self.smallest_customers:
            return RefusalReason.TOO_FEW_CUSTOMERS
        return None


def unit_fits(unit: PrivacyUnit, schema: FeatureSchema) -> bool:
    """Whether the unit covers every feature: a customer's windows need the customer as unit, and no unit covers a
    statistic over other customers' rows."""
    covered = {Scope.ROW} if unit is PrivacyUnit.TRANSACTION else {Scope.ROW, Scope.CUSTOMER}
    return {feature.scope for feature in schema.features} <= covered


def read_policy(path: Path) -> Policy:
    """Raises `DataError` when the policy is missing, unreadable or contradicts itself: then nothing leaves."""
    try:
        return read_toml(path, Policy)
    except DataError as error:
        raise DataError(f"{error}. Without a sound policy nothing leaves this bank") from None
