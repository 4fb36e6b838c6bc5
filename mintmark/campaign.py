"""From a campaign and its settled rounds to the model, the next question and its price: what coordinator and bank both
derive, so that neither has to trust the other's word.

    state = replay(artifact, schema)                 # the model so far
    question = LEARNERS[campaign.learner].query(state)
    noise_scale, clipping_norm = noise_for(campaign, state.round, question)
"""

from __future__ import annotations

import math
from typing import Any

from mintmark.errors import ProtocolError
from mintmark.messages import ModelArtifact
from mintmark.models.boosting import GuidedBoosting
from mintmark.models.learner import Learner, Query
from mintmark.models.linear import LogisticRegression
from mintmark.plan import Campaign
from mintmark.privacy.accountant import total_mu
from mintmark.privacy.mechanism import row_norm
from mintmark.schema import FeatureSchema

LEARNERS: dict[str, Learner[Any]] = {learner.name: learner for learner in (GuidedBoosting(), LogisticRegression())}


def learner_named(name: str) -> Learner[Any]:
    """Raises `ProtocolError` for a learner that this version does not have."""
    try:
        return LEARNERS[name]
    except KeyError:
        raise ProtocolError(f"expected a learner of {', '.join(LEARNERS)}, got {name[:40]!r}") from None


def learner_of(campaign: Campaign) -> Learner[Any]:
    """The campaign's learner. Raises `ProtocolError` for one that this version does not have."""
    return learner_named(campaign.learner)


def replay(artifact: ModelArtifact, schema: FeatureSchema) -> Any:
    """The learner's state after all settled rounds. Raises `ProtocolError` when a sum does not fit its question."""
    learner = learner_of(artifact.campaign)
    if schema.digest() != artifact.campaign.schema_digest:
        raise ProtocolError(f"campaign {artifact.campaign.name} was agreed on another schema than {schema.name}")
    state = learner.start(artifact.campaign, schema)
    for number, total in enumerate(artifact.history):
        query = learner.query(state)
        if total.values.shape != shape_of(query):
            raise ProtocolError(f"model: expected sums {shape_of(query)} in round {number}, got {total.values.shape}")
        state = learner.settle(state, query, total)
    return state


def shape_of(query: Query) -> tuple[int, int, int]:
    """(slots, cells, width) of the sums that answer a question."""
    return query.slots, query.cells, query.width


def noise_for(campaign: Campaign, round: int, query: Query) -> tuple[float, int]:
    """The noise scale and clipping norm of a round, in lattice steps: the round spends its share of the campaign's mu.

    A release of sensitivity D and noise s costs mu = D / s; a round with the share q of the budget therefore gets
    s = D / (mu_total sqrt(q)).
    """
    privacy = campaign.privacy
    clipping_norm = max(1, math.floor(privacy.clip * row_norm(query.slots)))
    if privacy.epsilon is None:
        return 0.0, clipping_norm
    share = learner_of(campaign).budget_share(campaign, round)
    return clipping_norm / (total_mu(privacy.epsilon, privacy.delta) * math.sqrt(share)), clipping_norm
