"""Whether a plan may be answered at all (protocol, step 3): authentic, in force, addressed to this bank, and new.

Each check raises `Refused`; none of them writes anything. What the bank's policy allows is `policy.py`, what its budget
allows is `budget.py`.
"""

from __future__ import annotations

from datetime import date, datetime

import numpy as np
import numpy.typing as npt

from bank_node.bank import Bank, Refused
from bank_node.policy import RefusalReason
from mintmark import mailbox
from mintmark.canonical import digest
from mintmark.envelope import verify
from mintmark.errors import ProtocolError, TooLargeError
from mintmark.mailbox import PLAN_KEY
from mintmark.plan import MAX_PLAN_BYTES, PLAN_TYPE, RoundPlan
from mintmark.privacy.ledger import EntryKind, Ledger
from mintmark.roster import MAX_ROSTER_BYTES, Roster


def read_plan(bank: Bank, plan_key: str, plan_digest: str | None = None) -> tuple[RoundPlan, Roster]:
    """The plan at `plan_key` and the roster it names, both signed by the coordinator. Raises `Refused`.

    `plan_digest` is what the bell said; a rehearsal, which answers nothing, has none.
    """
    match = PLAN_KEY.fullmatch(plan_key)
    if match is None:
        raise Refused(RefusalReason.NOT_AUTHENTIC, "the plan's key is malformed")
    trusted = bytes.fromhex(bank.home.settings.coordinator_key)
    try:
        message = mailbox.get_required(bank.store, plan_key, max_bytes=MAX_PLAN_BYTES)
        payload = verify(message, PLAN_TYPE, trusted, max_bytes=MAX_PLAN_BYTES)
        if plan_digest is not None and digest(payload) != plan_digest:
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
    except (ProtocolError, TooLargeError) as error:
        raise Refused(RefusalReason.NOT_AUTHENTIC, str(error)) from None
    return plan, roster


def check_open(plan: RoundPlan, now: datetime) -> None:
    """The round takes answers at this time."""
    if not plan.opens_at <= now < plan.closes_at:
        raise Refused(RefusalReason.NOT_OPEN, f"the round is open {plan.opens_at} to {plan.closes_at}, it is {now}")


def check_window(plan: RoundPlan, days: npt.NDArray[np.int32], rows: int) -> None:
    """The rows [n] that would answer lie in the window that the campaign states: training before held-out days."""
    window = plan.campaign.held_out
    if window is None:
        return
    if len(days) != rows:
        raise Refused(RefusalReason.NO_DATA, "the campaign states data windows: name the time column in schema.toml")
    first = (window.first_day - date(1970, 1, 1)).days
    outside = days < first if plan.evaluates else days >= first
    if count := int(outside.sum()):
        part, where = ("held-out", "before") if plan.evaluates else ("training", "on or after")
        raise Refused(
            RefusalReason.NO_DATA, f"{count} {part} rows are {where} the first held-out day {window.first_day}"
        )


def check_membership(bank: Bank, plan: RoundPlan, roster: Roster, now: datetime) -> None:
    """Cohort and roster name this bank, and the roster its key."""
    try:
        member = roster.member(bank.name, now)
    except ProtocolError as error:
        raise Refused(RefusalReason.NOT_IN_COHORT, str(error)) from None
    if bank.name not in plan.campaign.cohort or member.signing_key != bank.signer.public_key.hex():
        raise Refused(
            RefusalReason.NOT_IN_COHORT, "the plan's cohort or the roster does not name this bank and its key"
        )


def check_order(ledger: Ledger, plan: RoundPlan) -> None:
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


def check_own_updates(bank: Bank, ledger: Ledger, plan: RoundPlan) -> None:
    """The ledger knows of every update that lies in the mailbox under this bank's name, and none answers this attempt for
    another plan.

    A ledger and its anchor that were put back together from one backup agree with each other; what they forgot still lies
    in the mailbox. So does what a second copy of the bank's folder sent.
    """
    prefix = mailbox.bank_prefix(bank.name)
    drawn = {(entry.campaign, f"{entry.round:04d}") for entry in ledger.entries if entry.kind is EntryKind.DRAWN}
    own = mailbox.update_key(bank.name, plan.campaign.name, plan.round, plan.attempt)
    known = bank.home.update(plan.digest()).exists() or any(
        entry.plan_digest == plan.digest() for entry in ledger.entries
    )
    for key in bank.store.list(prefix):
        if key == own and not known:
            raise Refused(RefusalReason.STALE, f"round {plan.round}, attempt {plan.attempt} was another plan before")
        campaign, _, answer = key.removeprefix(prefix).partition("/")
        if (campaign, answer.partition("-")[0]) not in drawn:
            raise Refused(
                RefusalReason.LEDGER_UNSOUND,
                f"the mailbox holds {key}, of which the ledger {bank.home.ledger} knows nothing: it was restored from a "
                "backup, or another copy of this folder is at work. Restore the newest ledger; nothing leaves until then",
            )
