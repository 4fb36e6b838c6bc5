"""What a release would cost against this bank's budgets: per round, per campaign and per calendar year.

A campaign is consented to as a whole: its first answer needs room for all that its terms allow, and that room stays
reserved, so that two campaigns at once never count on the same epsilon. Every later round is priced again from what was
really charged: a privacy filter (Smith and Thakurta 2022), sound whatever the coordinator asks and in whatever order.

    for line in budget_lines(policy.budget, ledger, plan, cost, now): ...   # for people
    check_budget(policy.budget, ledger, plan, cost, now)                           # raises Refused
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bank_node.bank import Refused
from bank_node.policy import Budget, RefusalReason
from mintmark.messages import BudgetStatement
from mintmark.plan import RoundPlan
from mintmark.privacy.accountant import GaussianRelease, epsilon, remainder
from mintmark.privacy.ledger import Ledger

Releases = Sequence[GaussianRelease]


@dataclass(frozen=True)
class BudgetLine:
    """One limit, in epsilon at `delta`: `spent` before this release, `reserved` for other campaigns under way, `after` with
    this release and all that is reserved, and the most that is allowed."""

    what: str
    reason: RefusalReason
    delta: float
    spent: float
    reserved: float
    after: float
    limit: float

    def check(self) -> None:
        """Raises `Refused` when the release does not fit."""
        if not self.after <= self.limit:
            raise Refused(
                self.reason, f"{self.what}: expected at most epsilon {self.limit:g}, would be {self.after:.4g}"
            )


def check_budget(budget: Budget, ledger: Ledger, plan: RoundPlan, cost: GaussianRelease, now: datetime) -> None:
    """Raises `Refused` when the release would exceed the plan's own terms or one of the bank's budgets."""
    for line in budget_lines(budget, ledger, plan, cost, now):
        line.check()


def stated_budget(
    budget: Budget, ledger: Ledger, plan: RoundPlan, now: datetime, more: Releases = ()
) -> BudgetStatement:
    """What the bank tells of its budget when its policy lets it: the limits less what the ledger and `more` have spent,
    rounded down to thousandths."""
    here, this_year = ledger.releases(campaign=plan.campaign.name), ledger.releases(year=now.astimezone(UTC).year)

    def left(limit: float, releases: Releases) -> float:
        unspent = limit - epsilon([*releases, *more], delta=budget.delta)
        return math.floor(1000 * max(0.0, unspent)) / 1000

    return BudgetStatement(
        campaign_left=left(budget.epsilon_per_campaign, here),
        year_left=left(budget.epsilon_per_year, this_year),
        delta=budget.delta,
    )


def budget_lines(
    budget: Budget, ledger: Ledger, plan: RoundPlan, cost: GaussianRelease, now: datetime
) -> list[BudgetLine]:
    """Every limit that the release must fit, the plan's own terms first. Raises `Refused` for a plan without noise."""
    terms, campaign, year = plan.campaign.privacy, plan.campaign.name, now.astimezone(UTC).year
    if terms.epsilon is None:
        raise Refused(RefusalReason.OVER_CAMPAIGN_BUDGET, "the campaign asks for sums without noise")
    since = now - timedelta(days=budget.reservation_days)
    here, this_year = ledger.releases(campaign=campaign), ledger.releases(year=year)
    others = ledger.reserved(since=since, besides=campaign)
    rest = remainder(terms.epsilon, terms.delta, here)
    # What the campaign takes out of the budgets: all of it when it begins, afterwards what it asks for now.
    taken = [rest] if rest is not None and not ledger.under_way(campaign, since=since) else [cost]

    def line(
        what: str, reason: RefusalReason, limit: float, spent: Releases, more: Releases, reserved: Releases = ()
    ) -> BudgetLine:
        def price(*releases: GaussianRelease) -> float:
            return epsilon(releases, delta=budget.delta)

        after = price(*spent, *reserved, *more)
        return BudgetLine(what, reason, budget.delta, price(*spent), price(*reserved), after, limit)

    over, before = RefusalReason.OVER_CAMPAIGN_BUDGET, epsilon(here, delta=terms.delta)
    own_after = epsilon([*here, cost], delta=terms.delta)
    return [
        BudgetLine("the campaign's own terms", over, terms.delta, before, 0.0, own_after, terms.epsilon),
        line("a round", RefusalReason.OVER_ROUND_BUDGET, budget.epsilon_per_round, (), [cost]),
        line(f"campaign {campaign}", over, budget.epsilon_per_campaign, here, taken),
        line(f"the year {year}", RefusalReason.OVER_YEAR_BUDGET, budget.epsilon_per_year, this_year, taken, others),
    ]
