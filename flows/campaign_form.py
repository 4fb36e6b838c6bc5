"""The form that starts a campaign: what people choose, in the order of its weight, with bounds and defaults.

Prefect draws it from these annotations and checks what was filled in against them before anything runs. What an analyst
decides stands at the top level of `flows.campaign.run_campaign`, whose docstring holds what the form says beside it; what
the consortium's experts agreed on once is grouped in `ExpertTerms`.

>>> campaign_name("", datetime(2026, 3, 2, 6, tzinfo=UTC))
'campaign-2026-03-02-060000'
>>> ExpertTerms(liars=1).rule == DEFAULT_RULE
True
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field

from mintmark.aggregation.rules import DEFAULT_RULE
from mintmark.campaign import LEARNERS
from mintmark.plan import MAX_EPSILON, PrivacyUnit

MOST_ROUNDS = 100

CampaignName = Annotated[str, Field(pattern="^([a-z0-9][a-z0-9-]{0,39})?$")]
Epsilon = Annotated[float, Field(gt=0, le=MAX_EPSILON)]
LearnerName = Annotated[str, Field(json_schema_extra={"enum": list(LEARNERS)})]
TrainingRounds = Annotated[int, Field(ge=3, le=MOST_ROUNDS)]


class ExpertTerms(BaseModel):
    """What a consortium agrees on once. The defaults are those that the docs recommend."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Expert terms")

    deadline_s: Annotated[
        float,
        Field(title="Deadline (seconds)", gt=0, le=7 * 86_400, description="How long a round waits for its banks."),
    ] = 600.0
    quorum: Annotated[
        int | None,
        Field(title="Quorum", ge=1, description="Fewest updates a round needs. Empty: all banks but a quarter."),
    ] = None
    quorum_share: Annotated[
        float,
        Field(
            title="Quorum by rows",
            ge=0,
            le=1,
            description="Least share of the roster's rows that a round needs, 0 to 1.",
        ),
    ] = 0.5
    rule: Annotated[
        str,
        Field(
            title="Aggregation rule",
            pattern=r"^[a-z0-9_.:+]{1,120}$",
            description="How updates become one, by name: docs/aggregation.md. weighted_mean trusts every bank.",
        ),
    ] = DEFAULT_RULE
    liars: Annotated[
        int | None,
        Field(
            title="Lying banks",
            ge=0,
            description="How many the rule must stand. Empty: a quarter of the banks; none under weighted_mean.",
        ),
    ] = None
    privacy_unit: Annotated[
        PrivacyUnit,
        Field(
            title="Privacy unit",
            description="Whose presence is hidden: a customer with all payments, or a single transaction.",
        ),
    ] = PrivacyUnit.CUSTOMER
    delta: Annotated[
        float,
        Field(
            title="Delta", gt=0, lt=1e-2, description="How likely the promise may fail; below one over the customers."
        ),
    ] = 1e-6
    seed: Annotated[
        int | None,
        Field(title="Seed", ge=0, description="Public, decides the trees' shapes. Empty: follows from the name."),
    ] = None


def campaign_name(given: str, scheduled_for: datetime) -> str:
    """The name that was given, or one of the time a run was scheduled for: each run of a schedule is a new campaign, and
    the same run, started again, the same one."""
    return given or f"campaign-{scheduled_for.astimezone(UTC):%Y-%m-%d-%H%M%S}"


def run_name() -> str:
    """What Prefect calls the flow run: the campaign's name."""
    return campaign_name(str(flow_run.parameters.get("campaign", "")), flow_run.scheduled_start_time)
