"""Step 10: how good the campaign's model is, from the banks' noised score histograms."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from mintmark.campaign import replay
from mintmark.errors import ProtocolError
from mintmark.evaluation import EvaluationReport, evaluate
from tasks.coordinator import Coordinator


def evaluate_scores(coordinator: Coordinator, campaign: str, model_digest: str) -> EvaluationReport:
    """The report of a finished campaign. Raises `ProtocolError` before its evaluation round is settled."""
    state = replay(coordinator.model(campaign, model_digest), coordinator.schema)
    if state.scores is None:
        raise ProtocolError(f"campaign {campaign}: expected its evaluation round to be settled, got a model before it")
    return evaluate(state.scores)


evaluate_model = task(name="evaluate model", cache_policy=NO_CACHE, persist_result=False)(evaluate_scores)
