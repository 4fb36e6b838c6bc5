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

import numpy as np
import numpy.typing as npt

from mintmark import mailbox
from mintmark.campaign import learner_of, noise_for, replay
from mintmark.canonical import digest
from mintmark.envelope import verify
from mintmark.errors import ProtocolError
from mintmark.mailbox import PLAN_KEY, ObjectStore
from mintmark.messages import MAX_ARTIFACT_BYTES, ModelArtifact
from mintmark.models.lightgbm_text import load
from mintmark.models.rows import code_table
from mintmark.plan import MAX_PLAN_BYTES, PrivacyUnit, RoundPlan
from mintmark.privacy.ledger import GENESIS
from mintmark.privacy.mechanism import LATTICE, bounded_sum
from mintmark.round import MAX_MANIFEST_BYTES, PLAN_TYPE, Manifest
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
        payload = verify(
            mailbox.get_required(store, key, max_bytes=MAX_PLAN_BYTES), PLAN_TYPE, coordinator_key,
            max_bytes=MAX_PLAN_BYTES,
        )  # fmt: skip
        plan = RoundPlan.from_bytes(payload, max_bytes=MAX_PLAN_BYTES)
        if match is None or match.groups() != (campaign, f"{plan.round:04d}", f"{plan.attempt:02d}"):
            raise ProtocolError(f"{key}: holds another round's plan")
        plans[digest(payload)] = plan
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
    each fold added to every round's sum, S_r, so it can take that out again, $S_r - S_r^{fold}$, and settle the same
    questions anew: what the model would be without the fold, but for the fold's part in the bins and questions, and in
    later rounds' gradients of other rows. It needs no further round and no further budget, and stays in the bank.
    """
    scores: Floats = np.empty(len(rows))
    for fold in range(int(folds.max()) + 1):
        held = rows.part(folds == fold)
        text = _without(shared, held)
        scores[folds == fold] = load(text).predict(held.features, raw_score=True)
    return scores


def _without(shared: SharedModel, held: Table) -> str:
    """The model, settled from sums less what the rows `held` added to them."""
    campaign, schema = shared.artifact.campaign, shared.schema
    learner = learner_of(campaign)
    customers = held.customers if campaign.privacy.unit is PrivacyUnit.CUSTOMER else None
    rows = code_table(held)
    state = without = learner.start(campaign, schema)
    for number, total in enumerate(shared.artifact.history):
        query, less = learner.query(state), total
        if number:  # the bins of round 0 shape every later question, and stay
            _, clipping_norm = noise_for(campaign, number, query)
            rows = learner.advance(state, rows)
            contributions = learner.contributions(state, query, rows)
            added = bounded_sum(contributions, clipping_norm=clipping_norm, customers=customers).vector
            less = replace(total, values=total.values - added.reshape(total.values.shape) / LATTICE)
        without = learner.settle(without, query, less)
        state = learner.settle(state, query, total)
    return learner.export(without)
