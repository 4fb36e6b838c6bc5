"""A campaign: rounds until the model is made, then its evaluation and registration. What people schedule in Prefect."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from datetime import UTC, datetime
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field

from flows.federated_round import federated_round
from mintmark.aggregation.rules import DEFAULT_RULE
from mintmark.campaign import LEARNERS, learner_named
from mintmark.messages import ModelArtifact
from mintmark.models.boosting import GuidedBoosting
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit
from tasks.coordinator import home_from, open_coordinator
from tasks.evaluation import evaluate_model
from tasks.register import RegisteredModel, load_mlflow, register_model

TRIM = 0.35  # of the weight from each side: more than two of eight banks may hold together
CLIP = {PrivacyUnit.CUSTOMER: 0.25, PrivacyUnit.TRANSACTION: 1.0}


class CampaignResult(BaseModel):
    """What a campaign ends with."""

    model_config = ConfigDict(frozen=True)

    campaign: str
    model_digest: str
    auprc: float
    model: RegisteredModel


@flow(name="campaign", flow_run_name="{campaign}", persist_result=False)
async def run_campaign(
    campaign: Annotated[
        str, Field(pattern="^[a-z0-9][a-z0-9-]{0,39}$", description="A new name, such as cards-2026-w14")
    ],
    epsilon: Annotated[float, Field(gt=0, le=10, description="What the whole campaign may cost every customer")] = 4.0,
    learner: Annotated[
        str, Field(description="What the model is made of", json_schema_extra={"enum": list(LEARNERS)})
    ] = GuidedBoosting.name,
    rounds: Annotated[int, Field(ge=3, le=100, description="Training rounds; one more evaluates the model")] = 9,
    rule: Annotated[
        str, Field(pattern=r"^[a-z0-9_.:+]{1,120}$", description="How updates are aggregated: docs/aggregation.md")
    ] = DEFAULT_RULE,
    liars: Annotated[
        int | None, Field(ge=0, description="How many banks may lie; a quarter if empty, none under weighted_mean")
    ] = None,
    quorum: Annotated[
        int | None, Field(ge=1, description="Fewest updates a round needs; all but a quarter if empty")
    ] = None,
    privacy_unit: Annotated[PrivacyUnit, Field(description="Whose presence is hidden")] = PrivacyUnit.CUSTOMER,
    delta: Annotated[float, Field(gt=0, lt=1e-2)] = 1e-6,
    deadline_s: Annotated[float, Field(gt=0, description="How long a round waits for its banks, in seconds")] = 600.0,
    seed: Annotated[int | None, Field(ge=0, description="Public; from the campaign's name if empty")] = None,
) -> CampaignResult:
    """Train, evaluate and register one model with all valid banks of the roster."""
    coordinator = open_coordinator(home_from(dict(os.environ)))
    cohort = coordinator.roster().valid_banks(datetime.now(UTC))
    terms = Campaign(
        name=campaign,
        seed=_seed_of(campaign) if seed is None else seed,
        learner=learner_named(learner).name,  # an unknown one is refused before anything is published
        schema_digest=coordinator.schema.digest(),
        rounds=rounds,
        privacy=PrivacyTerms(epsilon=epsilon, delta=delta, unit=privacy_unit, clip=CLIP[privacy_unit]),
        aggregation=aggregation_terms(rule, len(cohort), liars),
        cohort=cohort,
        quorum=quorum or math.ceil(len(cohort) * 3 / 4),
    )
    threading.Thread(target=load_mlflow, daemon=True).start()  # takes seconds: while the banks work
    model_digest = coordinator.publish_model(ModelArtifact(terms))
    for number in range(rounds + 1):
        model_digest = await federated_round(campaign, number, model_digest, deadline_s=deadline_s)
    report = evaluate_model(coordinator, campaign, model_digest)
    page = f"{coordinator.settings.prefect_ui}/runs/flow-run/{flow_run.get_id()}"
    registered = register_model(coordinator, campaign, model_digest, report, page)
    return CampaignResult(campaign=campaign, model_digest=model_digest, auprc=report.auprc, model=registered)


def aggregation_terms(rule: str, banks: int, liars: int | None) -> AggregationTerms:
    """The terms of a rule by name; unless said otherwise a quarter of the banks may lie."""
    few = 0 if rule == "weighted_mean" else banks // 4
    trim = TRIM if rule == "trimmed_mean" else 0.0
    return AggregationTerms(rule=rule, banks=banks, byzantine=few if liars is None else liars, trim=trim)


def _seed_of(campaign: str) -> int:
    """The campaign's public seed, when nobody chose one."""
    return int.from_bytes(hashlib.sha256(campaign.encode()).digest()[:7], "big")
