"""One round at the coordinator: open, accept, close, settle. The heart of the protocol (steps 8 and 9).

No I/O and no clock: messages and times come in, values come out. Whatever is wrong with a message is a `Rejection` with
its reason; the round goes on if the quorum holds. The order of checks is verify, open, decode, screen: nothing is looked
at before its signature has been.

    round = Round(plan, roster, query_shape=(10, 64, 2))
    round.accept("bank-a", message, sealing_key, now)   # -> Accepted | Rejection
    closed = round.close()                              # who was in it, who was not, and why
    total = settle(plan, roster, closed)                # the robust rule's one answer
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AwareDatetime, Field

from mintmark.aggregation.cohort import CohortTotal, combine
from mintmark.aggregation.report import AggregationReport, figures_of
from mintmark.aggregation.screening import Rejection, RejectionReason, screen
from mintmark.agreed import Agreed, Digest, Name, SignedRecord
from mintmark.canonical import digest
from mintmark.envelope import SealingKey
from mintmark.errors import ProtocolError, QuorumError
from mintmark.messages import MAX_COORDINATES, decode_sums, largest_sum, open_update_frame, update_info
from mintmark.models.learner import NoisySum
from mintmark.plan import Campaign, RoundPlan
from mintmark.privacy.mechanism import LATTICE, row_norm
from mintmark.roster import Roster

MANIFEST_TYPE = "application/x-mintmark-manifest"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
Floats = npt.NDArray[np.float64]

_NOISE_TAIL = 10.0  # standard deviations: an honest norm exceeds this once in 10^21 updates


@dataclass(frozen=True, eq=False)
class Accepted:
    """An update that counts: lattice sums [d] int64, and the digest of the message it came in."""

    bank: str
    sums: npt.NDArray[np.int64]
    message_digest: str


class AcceptedUpdate(Agreed):
    """What the manifest keeps of an accepted update; `seconds` is when it was first seen, after the round opened."""

    bank: Name
    message_digest: Digest
    seconds: Annotated[float, Field(ge=0)]


class Manifest(SignedRecord):
    """An attempt's record, signed by the coordinator before anything is aggregated: from which updates, without whom.

    `previous` is the digest of the manifest before it (zeros at first): the campaign's log is a chain. `settled` is false
    when the quorum failed: no model follows, another attempt may. `late` had not answered at the close; `lost` were late
    in the round before and answered since: charged at the bank, counted nowhere.
    """

    payload_type = MANIFEST_TYPE
    most_bytes = MAX_MANIFEST_BYTES
    plan_digest: Digest
    previous: Digest
    closed_at: AwareDatetime
    seconds: Annotated[float, Field(ge=0)]
    accepted: tuple[AcceptedUpdate, ...]
    rejected: tuple[Rejection, ...]
    late: tuple[Name, ...]
    settled: bool
    lost: tuple[Name, ...] = ()


@dataclass(frozen=True, eq=False)
class Closed:
    """The outcome of accepting: three disjoint groups that together are the cohort (strangers' rejections aside).

    `shortfall` says what the quorum lacks; empty when it holds."""

    accepted: tuple[Accepted, ...]
    rejected: tuple[Rejection, ...]
    late: tuple[str, ...]
    shortfall: str = ""

    def check_quorum(self, plan: RoundPlan) -> None:
        """Raises `QuorumError`, naming who is missing and who was refused."""
        if self.shortfall:
            refused = ", ".join(f"{rejection.bank} ({rejection.reason})" for rejection in self.rejected)
            raise QuorumError(
                f"round {plan.round}, attempt {plan.attempt}: expected {self.shortfall}; "
                f"no answer from {', '.join(self.late) or 'nobody'}; rejected: {refused or 'none'}. "
                "See to these banks (if all are missing: to the coordinator's own clock and network) and start the "
                "campaign again: it goes on with this round, and nobody pays twice"
            )


class Round:
    """An open round. Feed it messages, then close it."""

    def __init__(self, plan: RoundPlan, roster: Roster, *, query_shape: tuple[int, int, int]) -> None:
        coordinates = math.prod(query_shape)
        if coordinates > MAX_COORDINATES:
            raise ProtocolError(f"round {plan.round}: expected at most {MAX_COORDINATES} sums, got {coordinates}")
        if roster.version != plan.roster_version:
            raise ProtocolError(f"round: expected roster version {plan.roster_version}, got {roster.version}")
        self.plan, self._roster = plan, roster
        self._slots, self._coordinates = query_shape[0], coordinates
        self._plan_digest, self._release_digest = plan.digest(), plan.release_digest()
        self._accepted: dict[str, Accepted] = {}
        self._rejected: list[Rejection] = []

    @property
    def missing(self) -> tuple[str, ...]:
        """Banks of the cohort that have neither been accepted nor rejected yet."""
        heard = self._accepted.keys() | {rejection.bank for rejection in self._rejected}
        return tuple(bank for bank in self.plan.campaign.cohort if bank not in heard)

    def accept(self, bank: str, message: bytes, sealing_key: SealingKey, now: datetime) -> Accepted | Rejection:
        """Judge one bank's message. `bank` is whose prefix it was found under, and must be who signed it."""
        outcome = self._judge(bank, message, sealing_key, now)
        if isinstance(outcome, Accepted):
            self._accepted[bank] = outcome
        else:
            self._rejected.append(outcome)
        return outcome

    def reject_unread(self, bank: str) -> Rejection:
        """Note that a bank's object was too large to be read."""
        outcome = Rejection(bank=bank, reason=RejectionReason.TOO_LARGE, detail="longer than any update of this round")
        self._rejected.append(outcome)
        return outcome

    def close(self, *, screened: bool = False, doubted: Collection[str] = ()) -> Closed:
        """Screen the accepted updates against each other, unless a manifest names them as `screened` already. `doubted` are
        banks whose sums were refused in an earlier round of the campaign."""
        if not screened and self._accepted:
            self._screen(doubted)
        ordered = tuple(self._accepted[bank] for bank in sorted(self._accepted))
        lacks = shortfall(self.plan.campaign, self._roster, self._accepted.keys())
        return Closed(ordered, tuple(self._rejected), self.missing, lacks)

    def _screen(self, doubted: Collection[str]) -> None:
        ordered = tuple(self._accepted[bank] for bank in sorted(self._accepted))
        banks, updates, sizes = _matrix(self._roster, ordered)
        noise, f = self.plan.noise_scale / LATTICE, self.plan.campaign.aggregation.byzantine
        for rejection in screen(banks, updates, sizes, noise=noise, f=f, doubted=doubted):
            del self._accepted[rejection.bank]
            self._rejected.append(rejection)

    def _judge(self, bank: str, message: bytes, sealing_key: SealingKey, now: datetime) -> Accepted | Rejection:
        if bank in self._accepted:
            return Rejection(bank=bank, reason=RejectionReason.DUPLICATE, detail="one update a round")
        try:
            if bank not in self.plan.campaign.cohort:
                raise ProtocolError("expected a bank of the cohort, got another")
            member = self._roster.member(bank, now)
        except ProtocolError as error:
            return Rejection(bank=bank, reason=RejectionReason.NOT_A_MEMBER, detail=str(error))
        try:
            statement, sealed = open_update_frame(message, bytes.fromhex(member.signing_key), self._coordinates)
        except ProtocolError as error:
            return Rejection(bank=bank, reason=RejectionReason.NOT_AUTHENTIC, detail=str(error))
        if (statement.bank, statement.plan_digest, statement.release_digest) != (
            bank,
            self._plan_digest,
            self._release_digest,
        ):
            return Rejection(
                bank=bank,
                reason=RejectionReason.WRONG_ROUND,
                detail=f"expected an answer to plan {self._plan_digest[:12]}",
            )
        try:
            data = sealing_key.open(sealed, info=update_info(statement))
        except ProtocolError as error:
            return Rejection(bank=bank, reason=RejectionReason.NOT_OPENABLE, detail=str(error))
        try:
            sums = decode_sums(data, self.plan.noise_scale, self._coordinates)
        except ProtocolError as error:
            return Rejection(bank=bank, reason=RejectionReason.WRONG_LENGTH, detail=str(error))
        if self.plan.noise_scale and (np.abs(sums) >= largest_sum(self.plan.noise_scale)).any():
            detail = f"expected sums below {largest_sum(self.plan.noise_scale) / LATTICE:.4g}, got the largest there is"
            return Rejection(bank=bank, reason=RejectionReason.OUT_OF_RANGE, detail=detail)
        norm = float(np.linalg.norm(sums.astype(np.float64)))
        bound = norm_bound(member.rows_band, self._slots, self._coordinates, self.plan.noise_scale)
        if norm > bound:
            detail = f"expected a norm of at most {bound / LATTICE:.4g}, got {norm / LATTICE:.4g}"
            return Rejection(bank=bank, reason=RejectionReason.NORM_TOO_LARGE, detail=detail)
        return Accepted(bank, sums, digest(message))


def shortfall(campaign: Campaign, roster: Roster, banks: Collection[str]) -> str:
    """What a quorum of the campaign lacks when just these `banks` answer, by number or by weight; empty if it holds."""
    if len(banks) < campaign.quorum:
        return f"a quorum of {campaign.quorum} updates, got {len(banks)}"
    bands = {member.bank: member.rows_band for member in roster.members if member.bank in campaign.cohort}
    share = sum(bands.get(bank, 0) for bank in banks) / max(1, sum(bands.values()))
    if share < campaign.quorum_share:
        return f"banks with {campaign.quorum_share:.0%} of the cohort's weight, got {share:.1%}"
    return ""


def norm_bound(rows_band: int, slots: int, coordinates: int, noise_scale: float) -> float:
    """The largest L2 norm, in lattice steps, that honest sums of a bank of this band reach, noise included: every row adds
    at most `row_norm`, and the noise's norm is below (sqrt(d) + t) sigma but for probability exp(-t^2 / 2)."""
    return 2.0 * rows_band * row_norm(slots) + noise_scale * (math.sqrt(coordinates) + _NOISE_TAIL)


def settle(plan: RoundPlan, roster: Roster, closed: Closed, query_shape: tuple[int, int, int]) -> NoisySum:
    """Apply the plan's rule to the accepted updates, in the order of their banks' names: the same bytes every time."""
    total = _total(plan, roster, closed)
    return NoisySum(total.vector.reshape(query_shape), total.noise)


def report(plan: RoundPlan, roster: Roster, closed: Closed, before: dict[str, float]) -> AggregationReport:
    """What each bank did to the result of `settle`, given the banks' suspicion before this round."""
    total = _total(plan, roster, closed)
    banks, updates, sizes = _matrix(roster, closed.accepted)
    deviations = plan.noise_scale / LATTICE / sizes
    return AggregationReport(
        plan_digest=plan.digest(),
        rule=plan.campaign.aggregation.chain,
        accepted=figures_of(banks, updates / sizes[:, None], total.rate, total.shares, deviations, before),
        rejected=closed.rejected,
        late=closed.late,
    )


def _total(plan: RoundPlan, roster: Roster, closed: Closed) -> CohortTotal:
    _, updates, sizes = _matrix(roster, closed.accepted)
    terms, noise = plan.campaign.aggregation, plan.noise_scale / LATTICE
    return combine(terms.chain, terms.byzantine, sizes=sizes, updates=updates, noise=noise)


def _matrix(roster: Roster, accepted: tuple[Accepted, ...]) -> tuple[tuple[str, ...], Floats, Floats]:
    """Names [n], updates [n, d] in units of 1.0 and sizes [n]; these from the roster, whatever an update says."""
    bands = {member.bank: member.rows_band for member in roster.members}
    banks = tuple(update.bank for update in accepted)
    updates = np.array([update.sums for update in accepted], dtype=np.float64) / LATTICE
    return banks, updates, np.array([bands[bank] for bank in banks], dtype=np.float64)
