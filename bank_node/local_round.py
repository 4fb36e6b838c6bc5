"""A bank's answer to one plan: the protocol's steps 3 to 7, in that order.

Everything the coordinator says is verified before it is used, everything is checked against the bank's own policy, the
cost is in the ledger before noise is drawn, and what was drawn is on disk before it leaves. Run again after a crash at
any point, or for another attempt at the same round, it sends the same noised sums and charges nothing more.

    answer_plan(Path("bank-a"), "public/campaigns/cards-7/plans/0003-00", "ab12...", now)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from bank_node.policy import Policy, RefusalReason, read_policy
from bank_node.settings import Home
from bank_node.table import load_table
from mintmark import mailbox
from mintmark.campaign import learner_of, replay
from mintmark.canonical import digest
from mintmark.envelope import Signer, load_signer, verify
from mintmark.errors import DataError, MintmarkError, PrivacyError, ProtocolError, StorageError
from mintmark.mailbox import PLAN_KEY, ObjectStore
from mintmark.messages import MAX_ARTIFACT_BYTES, ModelArtifact, UpdateStatement, encode_sums, encode_update
from mintmark.plan import MAX_PLAN_BYTES, PrivacyUnit, RoundPlan
from mintmark.privacy.accountant import GaussianRelease, epsilon
from mintmark.privacy.ledger import EntryKind, Ledger, entry_after, write_durably
from mintmark.privacy.mechanism import BoundedSum, bounded_sum, release
from mintmark.roster import MAX_ROSTER_BYTES, Roster
from mintmark.round import PLAN_TYPE
from mintmark.s3 import S3Location, S3Store
from mintmark.schema import FeatureSchema, parse_schema
from mintmark.table import Table

log = logging.getLogger(__name__)


class AnswerStatus(StrEnum):
    SENT = "sent"
    REFUSED = "refused"


@dataclass(frozen=True)
class Answer:
    """What became of a plan. `reason` is empty, or one of `RefusalReason`."""

    status: AnswerStatus
    reason: str = ""


class Refused(MintmarkError):  # noqa: N818  (a decision, not a fault)
    """A plan is refused: `reason` may be told to others, the sentence stays here."""

    def __init__(self, reason: RefusalReason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class Bank:
    """A bank that is ready to answer: what it owns, and the store it talks through."""

    home: Home
    policy: Policy
    schema: FeatureSchema
    signer: Signer
    store: ObjectStore


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
    import lightgbm
    import opendp.measurements

    for module in (dp_accounting, lightgbm, opendp.measurements):
        log.debug("loaded %s", module.__name__)
    S3Store(S3Location("http://127.0.0.1:9", "none", "none", "none"))  # loads boto3's models; asks nobody anything


def open_bank(home: Home) -> Bank:
    """Read policy, schema and key. Raises `Refused` when the policy or the schema is not sound."""
    try:
        policy = read_policy(home.policy)
        schema = parse_schema(home.schema.read_text())
    except (DataError, OSError) as error:
        raise Refused(RefusalReason.NO_POLICY, str(error)) from None
    return Bank(home, policy, schema, load_signer(home.signing_key_uri), S3Store(home.storage()))


def send_update(bank: Bank, ledger: Ledger, plan_key: str, plan_digest: str, now: datetime) -> None:
    """Steps 3 to 7. Raises `Refused` with the first check that fails; then nothing was charged and nothing left."""
    plan, roster = fetch_plan(bank, plan_key, plan_digest, now)
    _check_order(ledger, plan)
    outgoing = bank.home.outbox / f"{plan.digest()}.update"
    if not outgoing.exists():
        sums = _noised_sums(bank, ledger, plan, now)
        statement = UpdateStatement(
            bank=bank.home.settings.bank, plan_digest=plan_digest, release_digest=plan.release_digest()
        )
        message = encode_update(sums, statement, bank.signer, bytes.fromhex(roster.sealing_key))
        write_durably(outgoing, message)
    key = mailbox.update_key(bank.home.settings.bank, plan.campaign.name, plan.round, plan.attempt)
    mailbox.put_same(bank.store, key, outgoing.read_bytes())
    log.info("sent the update of round %d of campaign %s", plan.round, plan.campaign.name)


def fetch_plan(bank: Bank, plan_key: str, plan_digest: str, now: datetime) -> tuple[RoundPlan, Roster]:
    """The plan and the roster it names, both verified, both in force. Raises `Refused`."""
    match = PLAN_KEY.fullmatch(plan_key)
    if match is None:
        raise Refused(RefusalReason.NOT_AUTHENTIC, "the plan's key is malformed")
    trusted = bytes.fromhex(bank.home.settings.coordinator_key)
    try:
        message = mailbox.get_required(bank.store, plan_key, max_bytes=MAX_PLAN_BYTES)
        payload = verify(message, PLAN_TYPE, trusted, max_bytes=MAX_PLAN_BYTES)
        if digest(payload) != plan_digest:
            raise Refused(RefusalReason.DIGEST_DIFFERS, f"expected the plan {plan_digest}, got {digest(payload)}")
        plan = RoundPlan.from_bytes(payload, max_bytes=MAX_PLAN_BYTES)
        if match.groups() != (plan.campaign.name, f"{plan.round:04d}", f"{plan.attempt:02d}"):
            raise ProtocolError("the plan lies under another round's key")
        roster = Roster.read(
            mailbox.get_required(bank.store, mailbox.roster_key(plan.roster_version), max_bytes=MAX_ROSTER_BYTES),
            trusted,
        )
        if roster.version != plan.roster_version:
            raise ProtocolError(f"expected roster version {plan.roster_version}, got {roster.version}")
    except (ProtocolError, MintmarkError) as error:
        if isinstance(error, Refused | StorageError):
            raise
        raise Refused(RefusalReason.NOT_AUTHENTIC, str(error)) from None
    if not plan.opens_at <= now < plan.closes_at:
        raise Refused(RefusalReason.NOT_OPEN, f"the round is open {plan.opens_at} to {plan.closes_at}, it is {now}")
    _check_membership(bank, plan, roster, now)
    return plan, roster


def _check_membership(bank: Bank, plan: RoundPlan, roster: Roster, now: datetime) -> None:
    name = bank.home.settings.bank
    try:
        member = roster.member(name, now)
    except ProtocolError as error:
        raise Refused(RefusalReason.NOT_IN_COHORT, str(error)) from None
    if name not in plan.campaign.cohort or member.signing_key != bank.signer.public_key.hex():
        raise Refused(
            RefusalReason.NOT_IN_COHORT, "the plan's cohort or the roster does not name this bank and its key"
        )


def _check_order(ledger: Ledger, plan: RoundPlan) -> None:
    """Nothing older than what was answered already, and one question a round: an equivocating coordinator stops here."""
    highest_roster = max((entry.roster_version for entry in ledger.entries), default=0)
    if plan.roster_version < highest_roster:
        raise Refused(
            RefusalReason.STALE, f"expected roster version {highest_roster} or newer, got {plan.roster_version}"
        )
    for entry in ledger.entries:
        if entry.campaign != plan.campaign.name:
            continue
        asked, known = (plan.round, plan.attempt), (entry.round, entry.attempt)
        if asked < known and entry.kind is EntryKind.CHARGE and plan.release_digest() != entry.release_digest:
            raise Refused(RefusalReason.STALE, f"round {entry.round} was answered already, got round {plan.round}")
        if asked == known and plan.digest() != entry.plan_digest:
            raise Refused(RefusalReason.STALE, f"round {plan.round}, attempt {plan.attempt} was another plan before")


def _noised_sums(bank: Bank, ledger: Ledger, plan: RoundPlan, now: datetime) -> bytes:
    """Steps 4 to 6: what leaves, from the outbox where it was drawn already. Charges before it draws."""
    name = plan.release_digest()
    drawn = bank.home.outbox / f"{name}.sums"
    if ledger.drawn(name):
        if not drawn.exists():
            raise Refused(RefusalReason.OUTBOX_LOST, "the outbox lost what was drawn; it is never drawn twice")
        return drawn.read_bytes()
    total = measure(bank, plan)
    cost = GaussianRelease(total.sensitivity, plan.noise_scale, len(total.vector))
    facts = {
        "campaign": plan.campaign.name,
        "round": plan.round,
        "attempt": plan.attempt,
        "roster_version": plan.roster_version,
        "plan_digest": plan.digest(),
        "release_digest": name,
        "sensitivity": cost.sensitivity,
        "noise_scale": cost.noise_scale,
        "coordinates": cost.coordinates,
    }
    if not ledger.charged(name):
        check_budget(bank.policy, ledger, plan, cost, now)
        ledger.append(entry_after(ledger, EntryKind.CHARGE, now.astimezone(UTC), **facts))
    sums = encode_sums(release(total, noise_scale=plan.noise_scale), plan.noise_scale)
    write_durably(drawn, sums)
    ledger.append(entry_after(ledger, EntryKind.DRAWN, now.astimezone(UTC), **facts))
    return sums


def measure(bank: Bank, plan: RoundPlan) -> BoundedSum:
    """The exact, clipped sums that answer the plan: secret. Raises `Refused` when plan, model and policy do not fit."""
    try:
        table = load_table(bank.home.data, bank.schema)
    except DataError as error:
        raise Refused(RefusalReason.NO_DATA, str(error)) from None
    for name, share in zip(bank.schema.names, table.clipped_share, strict=True):
        if share:
            log.info(
                "feature %s: %.3f %% of the values lay outside the agreed bounds and count as them", name, 100 * share
            )
    training = table.train()
    if reason := bank.policy.refusal(plan, bank.schema, training_rows=len(training)):
        raise Refused(reason, f"the policy {bank.home.policy} does not allow this plan: {reason}")
    rows: Table = table.test_part() if plan.evaluates else training
    del table, training  # they may be the largest things in this process
    try:
        encoded = mailbox.get_required(
            bank.store, mailbox.model_key(plan.campaign.name, plan.model_digest), max_bytes=MAX_ARTIFACT_BYTES
        )
        if digest(encoded) != plan.model_digest:
            raise ProtocolError(f"expected the model {plan.model_digest}, got {digest(encoded)}")
        artifact = ModelArtifact.decode(encoded)
        if artifact.campaign != plan.campaign or len(artifact.history) != plan.round:
            raise ProtocolError("the model belongs to another campaign or round than the plan")
        state = replay(artifact, bank.schema)
        learner = learner_of(plan.campaign)
        query = learner.query(state)
        if query.digest() != plan.query_digest:
            raise ProtocolError(f"expected the structures {plan.query_digest}, derived {query.digest()}")
    except ProtocolError as error:
        raise Refused(RefusalReason.MODEL_DIFFERS, str(error)) from None
    contributions = learner.contributions(state, query, rows)
    by_customer = plan.campaign.privacy.unit is PrivacyUnit.CUSTOMER
    return bounded_sum(
        contributions, clipping_norm=plan.clipping_norm, customers=rows.customers if by_customer else None
    )


def check_budget(policy: Policy, ledger: Ledger, plan: RoundPlan, cost: GaussianRelease, now: datetime) -> None:
    """Raises `Refused` when the release would exceed the plan's own terms or the bank's budgets."""
    budget, campaign = policy.budget, plan.campaign
    promised = campaign.privacy.epsilon
    spent_here = [*ledger.releases(campaign=campaign.name), cost]
    if promised is None or epsilon(spent_here, delta=campaign.privacy.delta) > promised:
        raise Refused(RefusalReason.OVER_CAMPAIGN_BUDGET, f"the campaign's own terms allow epsilon {promised}")
    spent_year = [*ledger.releases(year=now.astimezone(UTC).year), cost]
    for releases, limit, reason in (
        ([cost], budget.epsilon_per_round, RefusalReason.OVER_ROUND_BUDGET),
        (spent_here, budget.epsilon_per_campaign, RefusalReason.OVER_CAMPAIGN_BUDGET),
        (spent_year, budget.epsilon_per_year, RefusalReason.OVER_YEAR_BUDGET),
    ):
        price = epsilon(releases, delta=budget.delta)
        if price > limit:
            raise Refused(reason, f"{reason}: expected at most epsilon {limit}, would be {price:.4g}")
