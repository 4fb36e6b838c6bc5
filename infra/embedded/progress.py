"""How far a campaign is, read off the mailbox alone: plans, updates, manifests. The state lives there and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from mintmark import mailbox
from mintmark.envelope import verify
from mintmark.mailbox import ObjectStore
from mintmark.plan import MAX_PLAN_BYTES, RoundPlan
from mintmark.round import MAX_MANIFEST_BYTES, PLAN_TYPE, Manifest


@dataclass(frozen=True)
class RoundProgress:
    """One planned round: whose update lies in the mailbox, and its manifest once it is closed."""

    round: int
    answered: tuple[str, ...]
    manifest: Manifest | None


class CampaignWatch:
    """Follows one campaign with as few requests as there is news. Closed rounds are read once."""

    def __init__(self, store: ObjectStore, campaign: str, banks: tuple[str, ...], coordinator_key: bytes) -> None:
        self._store, self._campaign, self.banks, self._key = store, campaign, banks, coordinator_key
        self._closed: dict[int, RoundProgress] = {}

    def rounds(self) -> list[RoundProgress]:
        """All planned rounds, first to last (attempt 0)."""
        planned = self._store.list(f"public/campaigns/{self._campaign}/plans/")
        closed = set(self._store.list(f"public/campaigns/{self._campaign}/manifests/"))
        for round_ in range(len(planned)):
            if round_ not in self._closed and mailbox.manifest_key(self._campaign, round_, 0) in closed:
                self._closed[round_] = RoundProgress(round_, self._answered(round_), self._manifest(round_))
        return [
            self._closed.get(round_) or RoundProgress(round_, self._answered(round_), None)
            for round_ in range(len(planned))
        ]

    @property
    def closed(self) -> int:
        """How many rounds were closed at the last look."""
        return len(self._closed)

    def plan(self, round_: int) -> RoundPlan:
        """A planned round's plan."""
        key = mailbox.plan_key(self._campaign, round_, 0)
        message = mailbox.get_required(self._store, key, max_bytes=MAX_PLAN_BYTES)
        return RoundPlan.from_bytes(
            verify(message, PLAN_TYPE, self._key, max_bytes=MAX_PLAN_BYTES), max_bytes=MAX_PLAN_BYTES
        )

    def _answered(self, round_: int) -> tuple[str, ...]:
        keys = {bank: mailbox.update_key(bank, self._campaign, round_, 0) for bank in self.banks}
        return tuple(bank for bank, key in keys.items() if key in self._store.list(key))

    def _manifest(self, round_: int) -> Manifest:
        key = mailbox.manifest_key(self._campaign, round_, 0)
        return Manifest.read(mailbox.get_required(self._store, key, max_bytes=MAX_MANIFEST_BYTES), self._key)
