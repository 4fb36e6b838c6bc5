"""How far a campaign is, read off the mailbox alone: plans, updates, manifests. The state lives there and nowhere else.

watch = CampaignWatch(coordinator.store, "cards-7", ("bank-a", "bank-b"), coordinator.signer.public_key)
for progress in watch.rounds(): ...
"""

from __future__ import annotations

from dataclasses import dataclass

from mintmark import mailbox
from mintmark.aggregation.report import MAX_REPORT_BYTES, AggregationReport
from mintmark.mailbox import ObjectStore
from mintmark.plan import MAX_PLAN_BYTES, RoundPlan
from mintmark.round import MAX_MANIFEST_BYTES, Manifest


@dataclass(frozen=True)
class RoundProgress:
    """The newest attempt at one round: its plan, whose update lies in the mailbox, and what is known once it is closed."""

    plan: RoundPlan
    answered: tuple[str, ...]
    manifest: Manifest | None = None
    report: AggregationReport | None = None

    @property
    def round(self) -> int:
        return self.plan.round

    @property
    def waiting(self) -> tuple[str, ...]:
        """Banks of the cohort of which nothing has come."""
        return tuple(bank for bank in self.plan.campaign.cohort if bank not in self.answered)


class CampaignWatch:
    """Follows one campaign with as few requests as there is news. Plans, and what is closed, are read once.

    Everything is verified with the coordinator's key; `ProtocolError` when something is not the coordinator's.
    """

    def __init__(self, store: ObjectStore, campaign: str, banks: tuple[str, ...], coordinator_key: bytes) -> None:
        self._store, self._campaign, self.banks, self._key = store, campaign, banks, coordinator_key
        self._plans: dict[str, RoundPlan] = {}
        self._closed: dict[int, RoundProgress] = {}

    def rounds(self) -> list[RoundProgress]:
        """All planned rounds, first to last."""
        folder = f"public/campaigns/{self._campaign}"
        newest = {int(key[-7:-3]): int(key[-2:]) for key in self._store.list(f"{folder}/plans/")}
        closed, reported = (set(self._store.list(f"{folder}/{kind}/")) for kind in ("manifests", "reports"))
        told = []
        for round_, attempt in sorted(newest.items()):
            known = self._closed.get(round_)
            if known is None or known.plan.attempt != attempt:
                known = self._look(round_, attempt, closed, reported)
            told.append(known)
        return told

    @property
    def closed(self) -> int:
        """How many rounds were closed at the last look."""
        return len(self._closed)

    def plan(self, round_: int, attempt: int = 0) -> RoundPlan:
        """A planned round's plan."""
        key = mailbox.plan_key(self._campaign, round_, attempt)
        if key not in self._plans:
            message = mailbox.get_required(self._store, key, max_bytes=MAX_PLAN_BYTES)
            self._plans[key] = RoundPlan.read(message, self._key)
        return self._plans[key]

    def _look(self, round_: int, attempt: int, closed: set[str], reported: set[str]) -> RoundProgress:
        plan, place = self.plan(round_, attempt), (self._campaign, round_, attempt)
        progress = RoundProgress(plan, self._answered(*place))
        if mailbox.manifest_key(*place) not in closed:
            return progress
        message = mailbox.get_required(self._store, mailbox.manifest_key(*place), max_bytes=MAX_MANIFEST_BYTES)
        manifest, report = Manifest.read(message, self._key), None
        if not manifest.settled:  # a failed attempt closes nothing: another follows
            return progress
        if mailbox.report_key(*place) in reported:
            told = mailbox.get_required(self._store, mailbox.report_key(*place), max_bytes=MAX_REPORT_BYTES)
            report = AggregationReport.read(told, self._key)
        progress = RoundProgress(plan, progress.answered, manifest, report)
        if report is not None:
            self._closed[round_] = progress
        return progress

    def _answered(self, campaign: str, round_: int, attempt: int) -> tuple[str, ...]:
        keys = {bank: mailbox.update_key(bank, campaign, round_, attempt) for bank in self.banks}
        return tuple(bank for bank, key in keys.items() if key in self._store.list(key))
