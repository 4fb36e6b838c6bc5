"""A bank's answer to one plan: the protocol's steps 3 to 7, in that order.

Everything the coordinator says is verified before it is used, everything is checked against the bank's own policy, the
cost is in the ledger before noise is drawn, and what was drawn is on disk before it leaves. Run again after a crash at
any point, or for another attempt at the same round, it sends the same noised sums and charges nothing more.

    answer_plan(Path("bank-a"), "public/campaigns/cards-7/plans/0003-00", "ab12...", now)
"""

from __future__ import annotations

import fcntl
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from bank_node import cache
from bank_node.bank import Bank, Refused, open_bank
from bank_node.budget import check_budget, stated_budget
from bank_node.cache import CodedRows
from bank_node.consent import check_membership, check_open, check_order, check_own_updates, check_window, read_plan
from bank_node.policy import RefusalReason
from bank_node.settings import Home
from mintmark import mailbox, models
from mintmark.campaign import learner_of, replay
from mintmark.canonical import digest
from mintmark.errors import DataError, PrivacyError, ProtocolError, StorageError
from mintmark.messages import MAX_ARTIFACT_BYTES, ModelArtifact, UpdateStatement, encode_sums, encode_update
from mintmark.models.learner import Learner, Query
from mintmark.models.rows import remember
from mintmark.plan import PrivacyUnit, RoundPlan
from mintmark.privacy.accountant import GaussianRelease
from mintmark.privacy.ledger import EntryKind, Ledger, entry_after, write_durably
from mintmark.privacy.mechanism import BoundedSum, bounded_sum, release
from mintmark.s3 import S3Location, S3Store

log = logging.getLogger(__name__)


class AnswerStatus(StrEnum):
    SENT = "sent"
    REFUSED = "refused"


@dataclass(frozen=True)
class Answer:
    """What became of a plan. `reason` is empty, or one of `RefusalReason`."""

    status: AnswerStatus
    reason: str = ""


def answer_plan(home: Path, plan_key: str, plan_digest: str, now: datetime) -> Answer:
    """Answer the plan at `plan_key`, or refuse it. Refusals are values; only faults of this machine raise."""
    try:
        bank = open_bank(Home(home))
        with Ledger.open(bank.home.ledger, bank.home.anchor) as ledger:
            send_update(bank, ledger, plan_key, plan_digest, now)
    except Refused as refused:
        log.warning("refused %s: %s", plan_key, refused)
        return Answer(AnswerStatus.REFUSED, refused.reason)
    except (PrivacyError, StorageError) as error:
        log.warning("refused %s: %s", plan_key, error)
        sound = isinstance(error, StorageError)
        return Answer(
            AnswerStatus.REFUSED, RefusalReason.STORAGE_UNREACHABLE if sound else RefusalReason.LEDGER_UNSOUND
        )
    return Answer(AnswerStatus.SENT)


def warm() -> None:
    """Load what a round needs, so that a waiting process answers at once."""
    import dp_accounting
    import opendp.measurements

    with open(models.__file__) as first:
        fcntl.flock(first, fcntl.LOCK_EX)  # the first of a machine's banks compiles, the others wait and load
        from mintmark.models import kernels as trees
        from mintmark.privacy import kernels as sums
    for module in (dp_accounting, opendp.measurements, trees, sums):
        log.debug("loaded %s", module.__name__)
    S3Store(S3Location("http://127.0.0.1:9", "none", "none", "none"))  # loads boto3's models; asks nobody anything


def send_update(bank: Bank, ledger: Ledger, plan_key: str, plan_digest: str, now: datetime) -> None:
    """Steps 3 to 7. Raises `Refused` with the first check that fails; then nothing was charged and nothing left."""
    plan, roster = read_plan(bank, plan_key, plan_digest)
    check_open(plan, now)
    check_membership(bank, plan, roster, now)
    check_order(ledger, plan)
    check_own_updates(bank, ledger, plan)
    outgoing = bank.home.update(plan.digest())
    if not outgoing.exists():
        sums = _noised_sums(bank, ledger, plan, now)
        statement = UpdateStatement(
            bank=bank.home.settings.bank,
            plan_digest=plan_digest,
            release_digest=plan.release_digest(),
            budget=stated_budget(bank.policy.budget, ledger, plan, now) if bank.policy.state_budget else None,
        )
        message = encode_update(sums, statement, bank.signer, bytes.fromhex(roster.sealing_key))
        write_durably(outgoing, message)
    key = mailbox.update_key(bank.home.settings.bank, plan.campaign.name, plan.round, plan.attempt)
    mailbox.put_same(bank.store, key, outgoing.read_bytes())
    log.info("sent the update of round %d of campaign %s", plan.round, plan.campaign.name)


def _noised_sums(bank: Bank, ledger: Ledger, plan: RoundPlan, now: datetime) -> bytes:
    """Steps 4 to 6: what leaves, from the outbox where it was drawn already. Charges before it draws."""
    name = plan.release_digest()
    drawn = bank.home.sums(name)
    if ledger.drawn(name):
        if not drawn.exists():
            raise Refused(RefusalReason.OUTBOX_LOST, "the outbox lost what was drawn; it is never drawn twice")
        return drawn.read_bytes()
    total = measure(bank, plan)
    privacy = plan.campaign.privacy
    cost = GaussianRelease(total.sensitivity, plan.noise_scale, len(total.vector))
    facts = {
        "campaign": plan.campaign.name,
        "round": plan.round,
        "attempt": plan.attempt,
        "roster_version": plan.roster_version,
        "plan_digest": plan.digest(),
        "release_digest": name,
        "unit": privacy.unit,
        "campaign_epsilon": privacy.epsilon,
        "campaign_delta": privacy.delta,
        "sensitivity": cost.sensitivity,
        "noise_scale": cost.noise_scale,
        "coordinates": cost.coordinates,
    }
    if not ledger.charged(name):
        check_budget(bank.policy.budget, ledger, plan, cost, now)
        ledger.append(entry_after(ledger, EntryKind.CHARGE, now.astimezone(UTC), **facts))
    sums = encode_sums(release(total, noise_scale=plan.noise_scale), plan.noise_scale)
    write_durably(drawn, sums)
    ledger.append(entry_after(ledger, EntryKind.DRAWN, now.astimezone(UTC), **facts))
    return sums


@dataclass(frozen=True, eq=False)
class Question:
    """What a plan asks, once the policy allows it and it follows from published values."""

    coded: CodedRows
    artifact: ModelArtifact
    learner: Learner[Any]
    state: Any
    query: Query


def examine(bank: Bank, plan: RoundPlan) -> Question:
    """Policy and model against the plan (protocol, steps 3 and 4). Raises `Refused` when they do not fit."""
    try:
        coded = cache.coded_rows(bank.home, bank.schema, test=plan.evaluates)
    except DataError as error:
        raise Refused(RefusalReason.NO_DATA, str(error)) from None
    check_window(plan, coded.rows.days, len(coded.rows))
    if reason := bank.policy.refusal(
        plan, bank.schema, training_rows=coded.training_rows, customers=coded.training_customers
    ):
        raise Refused(reason, f"the policy {bank.home.policy} does not allow this plan: {reason}")
    try:
        artifact = _fetch_model(bank, plan)
        learner, state = learner_of(plan.campaign), replay(artifact, bank.schema)
        query = learner.query(state)
        if query.digest() != plan.query_digest:
            raise ProtocolError(f"expected the structures {plan.query_digest}, derived {query.digest()}")
    except ProtocolError as error:
        raise Refused(RefusalReason.MODEL_DIFFERS, str(error)) from None
    return Question(coded, artifact, learner, state, query)


def measure(bank: Bank, plan: RoundPlan) -> BoundedSum:
    """The exact, clipped sums that answer the plan: secret. Raises `Refused` when plan, model and policy do not fit."""
    return add_up(bank, plan, examine(bank, plan))


def add_up(bank: Bank, plan: RoundPlan, asked: Question) -> BoundedSum:
    """The sums of the rows' contributions, each unit's clipped to the plan's norm (step 6)."""
    rows = asked.coded.rows if plan.evaluates else cache.with_scores(bank.home, asked.coded, asked.artifact)
    rows = asked.learner.advance(asked.state, rows)
    contributions = asked.learner.contributions(asked.state, asked.query, rows)
    if plan.evaluates:
        cache.forget_scores(bank.home)
    else:
        seen = remember(rows, asked.query.digest(), contributions.cells_of)
        cache.keep_scores(bank.home, asked.coded.key, seen, asked.artifact)
    by_customer = plan.campaign.privacy.unit is PrivacyUnit.CUSTOMER
    return bounded_sum(
        contributions, clipping_norm=plan.clipping_norm, customers=rows.customers if by_customer else None
    )


def _fetch_model(bank: Bank, plan: RoundPlan) -> ModelArtifact:
    """The model that the plan names. Raises `ProtocolError` when it is not, or is another campaign's or round's."""
    encoded = mailbox.get_required(
        bank.store, mailbox.model_key(plan.campaign.name, plan.model_digest), max_bytes=MAX_ARTIFACT_BYTES
    )
    if digest(encoded) != plan.model_digest:
        raise ProtocolError(f"expected the model {plan.model_digest}, got {digest(encoded)}")
    artifact = ModelArtifact.decode(encoded)
    if artifact.campaign != plan.campaign or len(artifact.history) != plan.round:
        raise ProtocolError("the model belongs to another campaign or round than the plan")
    return artifact
