"""How a campaign stands, for people: each round, and each bank with what it did, what it cost and what it says it has left.

Read from the mailbox alone and verified; the same figures are told in Prefect (`tasks/artifacts.py`) and by `mintmark
status`. An open round is told as far as it is.

    status = StatusReader(coordinator, "cards-7").read()
    status.banks[0].spent, status.banks[0].budget
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mintmark import mailbox
from mintmark.aggregation.report import is_suspicious, last_suspicion
from mintmark.messages import BudgetStatement
from mintmark.plan import Campaign
from mintmark.privacy.accountant import GaussianRelease, epsilon
from tasks.coordinator import Coordinator
from tasks.progress import CampaignWatch, RoundProgress
from tasks.records import stated_budget
from tasks.register import RegisteredModel, read_registration


@dataclass(frozen=True)
class BankStatus:
    """One bank of the cohort. `last` is what became of it in the newest round; `share` is its part in the last
    settled round; `spent` is epsilon, priced from the plans it answered; `budget` is the bank's own word, if any."""

    bank: str
    last: str
    accepted: int
    rejected: int
    late: int
    share: float | None
    suspicion: float
    spent: float
    budget: BudgetStatement | None


@dataclass(frozen=True)
class CampaignStatus:
    """A campaign and how far it is; `model` once it is registered."""

    campaign: Campaign
    rounds: tuple[RoundProgress, ...]
    banks: tuple[BankStatus, ...]
    model: RegisteredModel | None

    @property
    def closed(self) -> int:
        """How many rounds are settled, the one that evaluates included."""
        return sum(progress.manifest is not None for progress in self.rounds)

    @property
    def stage(self) -> str:
        """One word: open, settled, or registered."""
        if self.model is not None:
            return "registered"
        return "settled" if self.closed > self.campaign.rounds else "open"


class StatusReader:
    """Reads one campaign again and again, with as few requests as there is news."""

    def __init__(self, coordinator: Coordinator, campaign: str) -> None:
        self._coordinator, self._campaign = coordinator, campaign
        self._watch: CampaignWatch | None = None
        self._stated: dict[tuple[str, int, int], BudgetStatement | None] = {}

    def read(self) -> CampaignStatus | None:
        """None before the first plan. Raises `ProtocolError` for what is not the coordinator's, and `StorageError`."""
        store, key = self._coordinator.store, self._coordinator.signer.public_key
        if self._watch is None:
            # Who takes part stands in the first plan; until it is read nobody is asked for.
            first = CampaignWatch(store, self._campaign, (), key).rounds()
            if not first:
                return None
            self._watch = CampaignWatch(store, self._campaign, first[0].plan.campaign.cohort, key)
        rounds = tuple(self._watch.rounds())
        campaign = rounds[0].plan.campaign
        banks = tuple(self._bank(bank, rounds) for bank in campaign.cohort)
        return CampaignStatus(campaign, rounds, banks, self._model())

    def _bank(self, bank: str, rounds: Sequence[RoundProgress]) -> BankStatus:
        words = [what_became(bank, progress) for progress in rounds]
        reports = [progress.report for progress in rounds if progress.report]
        shares = [figures.share for report in reports[-1:] for figures in report.accepted if figures.bank == bank]
        privacy = rounds[0].plan.campaign.privacy
        answered = [progress.plan for progress in rounds if bank in progress.answered]
        # One coordinate: the lattice's slack, a thousandth of delta at most, is left out.
        cost = [GaussianRelease(plan.clipping_norm, plan.noise_scale, 1) for plan in answered]
        return BankStatus(
            bank=bank,
            last=words[-1] if words[-1] != "waiting" or len(words) == 1 else f"{words[-2]}, now waiting",
            accepted=words.count("accepted"),
            rejected=sum(word.startswith("rejected") for word in words),
            late=words.count("late"),
            share=shares[0] if shares else None,
            suspicion=last_suspicion(reports).get(bank, 0.0),
            spent=epsilon(cost, delta=privacy.delta),
            budget=self._budget(bank, rounds),
        )

    def _budget(self, bank: str, rounds: Sequence[RoundProgress]) -> BudgetStatement | None:
        """What the bank's newest update says, if it is the bank's and says anything."""
        told = [progress.plan for progress in rounds if bank in progress.answered]
        if not told:
            return None
        plan = told[-1]
        place = (bank, plan.round, plan.attempt)
        if place not in self._stated:
            self._stated[place] = stated_budget(self._coordinator, bank, plan)
        return self._stated[place]

    def _model(self) -> RegisteredModel | None:
        key = mailbox.registration_key(self._campaign)
        return read_registration(self._coordinator, self._campaign) if self._coordinator.store.list(key) else None


def what_became(bank: str, progress: RoundProgress) -> str:
    """A bank's part in a round: accepted, late, rejected and why, answered (not judged yet) or waiting."""
    if progress.manifest is None:
        return "answered" if bank in progress.answered else "waiting"
    if any(update.bank == bank for update in progress.manifest.accepted):
        return "accepted"
    for rejection in progress.manifest.rejected:
        if rejection.bank == bank:
            return f"rejected: {str(rejection.reason).replace('_', ' ')}"
    return "late"


def campaign_names(coordinator: Coordinator) -> tuple[str, ...]:
    """The campaigns of which something lies in the mailbox."""
    keys = coordinator.store.list("public/campaigns/")
    return tuple(sorted({key.split("/")[2] for key in keys}))


def as_json(status: CampaignStatus) -> dict[str, Any]:
    """The figures for programs: plain numbers, words and lists."""
    return {
        "campaign": status.campaign.name,
        "stage": status.stage,
        "learner": status.campaign.learner,
        "epsilon": status.campaign.privacy.epsilon,
        "delta": status.campaign.privacy.delta,
        "rule": status.campaign.aggregation.chain,
        "quorum": status.campaign.quorum,
        "rounds": [round_as_json(progress) for progress in status.rounds],
        "banks": [bank_as_json(bank) for bank in status.banks],
        "model": status.model.model_dump() if status.model else None,
    }


def round_as_json(progress: RoundProgress) -> dict[str, Any]:
    """One round."""
    manifest = progress.manifest
    told: dict[str, Any] = {
        "round": progress.round,
        "attempt": progress.plan.attempt,
        "asks_for": str(progress.plan.asks_for),
        "opened": progress.plan.opens_at.isoformat(),
        "closes": progress.plan.closes_at.isoformat(),
        "answered": list(progress.answered),
        "closed": manifest is not None,
    }
    if manifest is None:
        return told | {"waiting": list(progress.waiting)}
    return told | {
        "seconds": round(manifest.seconds, 2),
        "accepted": [update.bank for update in manifest.accepted],
        "rejected": {rejection.bank: str(rejection.reason) for rejection in manifest.rejected},
        "late": list(manifest.late),
    }


def bank_as_json(status: BankStatus) -> dict[str, Any]:
    """One bank."""
    return {
        "bank": status.bank,
        "last": status.last,
        "accepted": status.accepted,
        "rejected": status.rejected,
        "late": status.late,
        "share": None if status.share is None else round(status.share, 4),
        "suspicion": round(status.suspicion, 2),
        "suspicious": is_suspicious(status.suspicion),
        "epsilon_spent": round(status.spent, 4),
        "states": status.budget.model_dump() if status.budget else None,
    }
