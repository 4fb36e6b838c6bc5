"""A campaign: rounds until the model is made, then its evaluation and registration. What people schedule in Prefect."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from datetime import UTC, datetime

from prefect import flow, tags
from prefect.context import SyncClientContext
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict

from flows.campaign_form import (
    CampaignName,
    Epsilon,
    ExpertTerms,
    LearnerName,
    TrainingRounds,
    campaign_name,
    run_name,
)
from flows.federated_round import federated_round
from flows.liveness import check_alone
from mintmark.campaign import learner_named
from mintmark.messages import ModelArtifact
from mintmark.models.boosting import GuidedBoosting
from mintmark.plan import AggregationTerms, Campaign, HeldOutWindow, PrivacyTerms, PrivacyUnit
from tasks.coordinator import home_from, open_coordinator
from tasks.dispatch import cohort_of
from tasks.evaluation import evaluate_model
from tasks.register import RegisteredModel, load_mlflow, register_model
from tasks.telling import told_in_prefect

TRIM = 0.35  # of the weight from each side: more than two of eight banks may hold together
CLIP = {PrivacyUnit.CUSTOMER: 0.25, PrivacyUnit.TRANSACTION: 1.0}


class CampaignResult(BaseModel):
    """What a campaign ends with."""

    model_config = ConfigDict(frozen=True)

    campaign: str
    model_digest: str
    auprc: float | None
    model: RegisteredModel | None  # None: MLflow was away; `mintmark register` when it is back


@flow(name="campaign", flow_run_name=run_name, persist_result=False)
async def run_campaign(
    campaign: CampaignName = "",
    epsilon: Epsilon = 4.0,
    learner: LearnerName = GuidedBoosting.name,
    rounds: TrainingRounds = 9,
    held_out: HeldOutWindow | None = None,
    expert: ExpertTerms = ExpertTerms(),  # noqa: B008 - frozen, and Prefect shows it as the form's default
) -> CampaignResult:
    """Train, evaluate and register one model with all valid banks of the roster.

    Args:
        campaign: A new name, such as cards-2026-w14: lower-case letters, digits and hyphens. The name of an unfinished
            campaign goes on with it. Empty: named after the time that the run was scheduled for, in UTC.
        epsilon: What the whole campaign may cost every customer in privacy, above 0 and at most 10. Smaller protects
            more and learns less. A bank refuses what its own budget does not allow.
        learner: guided_boosting (trees) catches more; logistic_regression can be explained coefficient by coefficient.
        rounds: How many times banks are asked to train, 3 to 100; they share epsilon. One more round evaluates.
        held_out: Which days are trained on and which judged, where the schema names the column of time.
        expert: What the consortium agreed on once. Leave it as it is.
    """
    campaign = campaign_name(campaign, flow_run.scheduled_start_time)
    check_alone(campaign)
    coordinator = open_coordinator(home_from(dict(os.environ)))
    cohort = cohort_of(coordinator, campaign, datetime.now(UTC))
    terms = Campaign(
        name=campaign,
        seed=_seed_of(campaign) if expert.seed is None else expert.seed,
        learner=learner_named(learner).name,  # an unknown one is refused before anything is published
        schema_digest=coordinator.schema.digest(),
        rounds=rounds,
        privacy=PrivacyTerms(
            epsilon=epsilon, delta=expert.delta, unit=expert.privacy_unit, clip=CLIP[expert.privacy_unit]
        ),
        aggregation=aggregation_terms(expert.rule, len(cohort), expert.liars),
        cohort=cohort,
        quorum=expert.quorum or math.ceil(len(cohort) * 3 / 4),
        quorum_share=expert.quorum_share,
        held_out=held_out,
    )
    threading.Thread(target=load_mlflow, daemon=True).start()  # takes seconds: while the banks work
    model_digest = coordinator.publish_model(ModelArtifact(terms))
    # One client for all steps of all rounds: each would make its own otherwise, and with it read all certificates.
    with told_in_prefect(coordinator, campaign), SyncClientContext.get_or_create():
        for number in range(rounds + 1):
            with tags("mintmark", f"campaign:{campaign}"):
                model_digest = await federated_round(campaign, number, model_digest, deadline_s=expert.deadline_s)
        report = evaluate_model(coordinator, campaign, model_digest)
        page = f"{coordinator.settings.prefect_ui}/runs/flow-run/{flow_run.get_id()}"
        registered = register_model(coordinator, campaign, model_digest, report, page)
    return CampaignResult(
        campaign=campaign, model_digest=model_digest, auprc=report.pooled.auprc.value, model=registered
    )


def aggregation_terms(rule: str, banks: int, liars: int | None) -> AggregationTerms:
    """The terms of a rule by name; unless said otherwise a quarter of the banks may lie."""
    few = 0 if rule == "weighted_mean" else banks // 4
    trim = TRIM if rule == "trimmed_mean" else 0.0
    return AggregationTerms(rule=rule, banks=banks, byzantine=few if liars is None else liars, trim=trim)


def _seed_of(campaign: str) -> int:
    """The campaign's public seed, when nobody chose one."""
    return int.from_bytes(hashlib.sha256(campaign.encode()).digest()[:7], "big")
