r"""The campaign's finished model, from the mailbox: believed only as far as the coordinator's signatures reach.

The plan of the round after the last training round evaluates the finished model and names it: that signed digest is the
statement of what the campaign made. Here it is checked, and with it the whole chain behind it: every settled round's signed
plan names the model that the finished model's history had at that round, every signed manifest names its plan and the
manifest before it, and the structures of every round are derived anew. No model text is ever read from outside: the
LightGBM text is written here, from the released sums.

    shared = fetch_shared_model(store, coordinator_key, "cards-7", schema)
    shared.text()                          # LightGBM text
    held_out_scores(shared, rows, folds)   # [n] what the model would say of each row, had its fold not been in it
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mintmark import mailbox
from mintmark.campaign import learner_of, noise_for, replay, shape_of
from mintmark.canonical import digest
from mintmark.errors import ProtocolError
from mintmark.mailbox import PLAN_KEY, ObjectStore
from mintmark.messages import MAX_ARTIFACT_BYTES, ModelArtifact
from mintmark.models.learner import Query
from mintmark.models.lightgbm_text import load
from mintmark.models.rows import RowState, code_table
from mintmark.plan import MAX_PLAN_BYTES, PrivacyUnit, RoundPlan
from mintmark.privacy.ledger import GENESIS
from mintmark.privacy.mechanism import LATTICE, bounded_sum
from mintmark.round import MAX_MANIFEST_BYTES, Manifest
from mintmark.schema import FeatureSchema
from mintmark.table import Table

MAX_PLANS = 100_000
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SharedModel:
    """A verified artifact whose training rounds are all settled."""

    artifact: ModelArtifact
    schema: FeatureSchema

    @property
    def digest(self) -> str:
        return self.artifact.digest()

    def text(self) -> str:
        """The model as a LightGBM text, derived here."""
        return learner_of(self.artifact.campaign).export(replay(self.artifact, self.schema))


def fetch_shared_model(store: ObjectStore, coordinator_key: bytes, campaign: str, schema: FeatureSchema) -> SharedModel:
    """The finished model of a campaign. Raises `ProtocolError`: not finished, or anything that is not as signed."""
    plans = _plans(store, coordinator_key, campaign)
    evaluating = [plan for plan in plans.values() if plan.evaluates]
    if not evaluating:
        raise ProtocolError(
            f"campaign {campaign}: expected the signed plan that evaluates its finished model, got "
            f"{len(plans)} plans without it: wait until its training rounds are over"
        )
    final = evaluating[-1]
    encoded = mailbox.get_required(store, mailbox.model_key(campaign, final.model_digest), max_bytes=MAX_ARTIFACT_BYTES)
    if digest(encoded) != final.model_digest:
        raise ProtocolError(f"expected the model {final.model_digest}, got {digest(encoded)}")
    artifact = ModelArtifact.decode(encoded)
    if artifact.campaign != final.campaign or len(artifact.history) != final.round:
        raise ProtocolError("the model belongs to another campaign or round than the plan that names it")
    _check_history(artifact, _settled(store, coordinator_key, campaign, plans))
    return SharedModel(artifact, schema)


def _plans(store: ObjectStore, coordinator_key: bytes, campaign: str) -> dict[str, RoundPlan]:
    """Every plan of the campaign by its digest, verified, oldest first."""
    keys = store.list(f"public/campaigns/{campaign}/plans/")
    if len(keys) > MAX_PLANS:
        raise ProtocolError(f"campaign {campaign}: expected at most {MAX_PLANS} plans, got {len(keys)}")
    plans = {}
    for key in keys:
        match = PLAN_KEY.fullmatch(key)
        plan = RoundPlan.read(mailbox.get_required(store, key, max_bytes=MAX_PLAN_BYTES), coordinator_key)
        if match is None or match.groups() != (campaign, f"{plan.round:04d}", f"{plan.attempt:02d}"):
            raise ProtocolError(f"{key}: holds another round's plan")
        plans[plan.digest()] = plan
    return plans


def _settled(
    store: ObjectStore, coordinator_key: bytes, campaign: str, plans: dict[str, RoundPlan]
) -> dict[int, RoundPlan]:
    """The plan of every settled round, along the chain of manifests."""
    settled, previous = {}, GENESIS
    for key in store.list(f"public/campaigns/{campaign}/manifests/"):
        message = mailbox.get_required(store, key, max_bytes=MAX_MANIFEST_BYTES)
        manifest = Manifest.read(message, coordinator_key)
        plan = plans.get(manifest.plan_digest)
        if plan is None or key != mailbox.manifest_key(campaign, plan.round, plan.attempt):
            raise ProtocolError(f"{key}: names a plan that is not in the mailbox")
        if manifest.previous != previous:
            raise ProtocolError(f"{key}: expected the manifest before it to be {previous}, got {manifest.previous}")
        settled[plan.round], previous = plan, digest(message)
    return settled


def _check_history(artifact: ModelArtifact, settled: dict[int, RoundPlan]) -> None:
    """Every training round settled once, on just the model that the history held before it."""
    for number in range(len(artifact.history)):
        plan = settled.get(number)
        if plan is None:
            raise ProtocolError(f"round {number}: expected a signed manifest, got none in the mailbox")
        before = replace(artifact, history=artifact.history[:number])
        if plan.campaign != artifact.campaign or plan.model_digest != before.digest():
            raise ProtocolError(f"round {number} was planned on another model than the finished one's")


def held_out_scores(shared: SharedModel, rows: Table, folds: npt.NDArray[np.int64]) -> Floats:
    r"""Raw scores [n] of the global model on the bank's own training rows `rows`, each from sums without the row's fold.

    The global model was trained once, with these rows in it, so its scores of them flatter it. The bank knows exactly what
    a fold added to every round's sums S, so it can take that out again and settle the same questions anew. From round to
    round the model without the fold, $f'$, moves away from the published one, f, and the other rows would answer to that:
    by as much as the fold's own answers change, times the others' share. With s(f) what the fold adds under a model and q
    its share of the rows, $S' = S - s(f) + (1/q - 1) (s(f') - s(f))$. What stays is the fold's part in bins and structures.
    It needs no further round and no further budget, and stays in the bank.
    """
    scores: Floats = np.empty(len(rows))
    for fold in range(int(folds.max()) + 1):
        held = rows.part(folds == fold)
        scores[folds == fold] = load(_without(shared, held)).predict(held.features, raw_score=True)
    return scores


def _without(shared: SharedModel, held: Table) -> str:
    """The model, settled from sums less what the rows `held` added to them."""
    campaign = shared.artifact.campaign
    learner = learner_of(campaign)
    customers = held.customers if campaign.privacy.unit is PrivacyUnit.CUSTOMER else None

    def added(state: Any, query: Query, rows: RowState) -> Floats:
        _, clipping_norm = noise_for(campaign, state.round, query)
        total = bounded_sum(learner.contributions(state, query, rows), clipping_norm=clipping_norm, customers=customers)
        return total.vector.reshape(shape_of(query)) / LATTICE

    state = without = learner.start(campaign, shared.schema)
    rows = rows_without = code_table(held)
    others = 0.0  # rows, to one row held
    for number, total in enumerate(shared.artifact.history):
        query, values = learner.query(state), total.values
        rows, rows_without = learner.advance(state, rows), learner.advance(without, rows_without)
        before = added(state, query, rows)
        if number == 0:  # its bins shape every later question, and stay
            others = max(float(values.sum() / before.sum()) - 1, 0.0)
        else:
            values = values - before + others * (added(without, query, rows_without) - before)
        without = learner.settle(without, query, replace(total, values=values))
        state = learner.settle(state, query, total)
    return learner.export(without)
