"""A rehearsal: all that answering a plan would do, up to and not including charge, noise and sending.

Nothing is written, charged or drawn; the sums are computed and forgotten. Findings are values, for the command line to
tell and for tests to read.

    rehearsal = rehearse(bank, ledger, "public/campaigns/cards-7/plans/0003-00", now)
    rehearsal.refused      # the checks that failed; empty: the plan would be answered
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from statistics import NormalDist
from typing import TypeVar

import numpy as np

from bank_node.bank import Bank, Refused
from bank_node.budget import BudgetLine, budget_lines, stated_budget
from bank_node.consent import check_membership, check_open, check_order, check_own_updates, read_plan
from bank_node.local_round import add_up, examine
from bank_node.policy import RefusalReason
from mintmark.campaign import shape_of
from mintmark.envelope import generate_signer
from mintmark.errors import PrivacyError
from mintmark.messages import UpdateStatement, encode_sums, encode_update
from mintmark.plan import RoundPlan
from mintmark.privacy.accountant import GaussianRelease
from mintmark.privacy.ledger import Ledger
from mintmark.privacy.mechanism import LATTICE
from mintmark.roster import Roster

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One check: what was asked, and why the answer was no (None: it was yes)."""

    question: str
    refusal: Refused | None


@dataclass(frozen=True)
class Outgoing:
    """What would leave: `message_bytes` in all, of which `statement` in clear and `numbers` sealed, each with noise of
    standard deviation `noise_rows` (1.0 is what one row can add). `rows` and `customers` are looked at and stay inside."""

    statement: UpdateStatement
    shape: tuple[int, int, int]
    message_bytes: int
    noise_rows: float
    clipping_rows: float
    rows: int
    customers: int

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Rehearsal:
    """The outcome. `plan` is None when there is no authentic one, `outgoing` when a check before it failed; `answered`
    says that this question was answered before: the same bytes would be sent again, at no cost."""

    plan: RoundPlan | None
    findings: tuple[Finding, ...]
    outgoing: Outgoing | None = None
    budget: tuple[BudgetLine, ...] = ()
    answered: bool = False
    mu: float = 0.0

    @property
    def refused(self) -> tuple[Refused, ...]:
        return tuple(finding.refusal for finding in self.findings if finding.refusal is not None)

    @property
    def best_guess(self) -> float:
        r"""How often the best possible attacker tells rightly whether a customer is in the data, if it was a fair coin
        before: $\Phi(\mu / 2)$, after all that the campaign has released (Dong, Roth and Su 2022, Section 2)."""
        return NormalDist().cdf(self.mu / 2)


def rehearse(bank: Bank, ledger: Ledger, plan_key: str, now: datetime) -> Rehearsal:
    """Check everything that can be checked, also after a check failed, so that people see all reasons at once."""
    findings: list[Finding] = []

    def ask(question: str, check: Callable[[], T]) -> T | None:
        try:
            answer = check()
        except Refused as refusal:
            findings.append(Finding(question, refusal))
            return None
        findings.append(Finding(question, None))
        return answer

    read = ask(
        "Signed by the coordinator whose key we pinned, under a signed roster", lambda: read_plan(bank, plan_key)
    )
    if read is None:
        return Rehearsal(None, tuple(findings))
    plan, roster = read
    ask("Meant for this bank and its key", lambda: check_membership(bank, plan, roster, now))
    ask("Open now", lambda: check_open(plan, now))
    ask("Not older than, and no other question than, what we answered before", lambda: check_order(ledger, plan))
    ask("Our ledger knows of everything that we ever sent", lambda: check_own_updates(bank, ledger, plan))
    outgoing = ask(
        "Our policy allows it, and what it asks follows from published values",
        lambda: _measure(bank, ledger, plan, roster, now),
    )
    if outgoing is None:
        return Rehearsal(plan, tuple(findings))
    answered, lines = ledger.charged(plan.release_digest()), None
    cost = GaussianRelease(plan.clipping_norm, plan.noise_scale, outgoing.numbers)
    if not answered:
        question = "Noised, so that its cost can be told"
        lines = ask(question, lambda: budget_lines(bank.policy.budget, ledger, plan, cost, now))
    for line in lines or ():
        ask(f"Within the budget of {line.what}", line.check)
    spent = ledger.releases(campaign=plan.campaign.name)
    mu = math.sqrt(sum(release.mu_squared for release in (spent if answered else [*spent, cost])))
    return Rehearsal(plan, tuple(findings), outgoing, tuple(lines or ()), answered, mu)


def _measure(bank: Bank, ledger: Ledger, plan: RoundPlan, roster: Roster, now: datetime) -> Outgoing:
    """Steps 4 and 6 but for the noise. The size is that of a message of zeros, signed with a key made for it."""
    asked = examine(bank, plan)
    shape, rows = shape_of(asked.query), asked.coded.rows
    try:
        add_up(bank, plan, asked)
    except PrivacyError as error:
        raise Refused(RefusalReason.NO_DATA, str(error)) from None
    name, stated = plan.release_digest(), None
    if bank.policy.state_budget:
        cost = GaussianRelease(plan.clipping_norm, plan.noise_scale, math.prod(shape))
        more = () if ledger.charged(name) else (cost,)
        stated = stated_budget(bank.policy.budget, ledger, plan, now, more)
    statement = UpdateStatement(bank=bank.name, plan_digest=plan.digest(), release_digest=name, budget=stated)
    zeros = encode_sums(np.zeros(math.prod(shape), dtype=np.int64), plan.noise_scale)
    message = encode_update(zeros, statement, generate_signer(), bytes.fromhex(roster.sealing_key))
    return Outgoing(
        statement=statement,
        shape=shape,
        message_bytes=len(message),
        noise_rows=plan.noise_scale / LATTICE,
        clipping_rows=plan.clipping_norm / LATTICE,
        rows=len(rows),
        customers=len(np.unique(rows.customers)),
    )
