"""Who may take part: banks, their public keys, validity and size (protocol, steps 1, 3 and 8).

The roster is signed by the coordinator's key, which every bank pins when it joins. It is versioned: whoever has seen
version v refuses anything older (`newer_than`). Sizes are the bands banks state when they join; nothing in an update
changes them.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, model_validator

from mintmark.agreed import Agreed, Name, SignedRecord
from mintmark.errors import ProtocolError

MAX_ROSTER_BYTES = 1024 * 1024
ROSTER_TYPE = "application/x-mintmark-roster"

PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Member(Agreed):
    """One bank. `rows_band` is its number of training rows, rounded to a power of two."""

    bank: Name
    signing_key: PublicKey
    rows_band: Annotated[int, Field(ge=1, le=2**40)]
    valid_from: AwareDatetime
    valid_until: AwareDatetime
    revoked: bool = False

    def valid_at(self, now: datetime) -> bool:
        return not self.revoked and self.valid_from <= now < self.valid_until


class Roster(SignedRecord):
    """The consortium at one version. `sealing_key` is the coordinator's: updates are sealed to it."""

    payload_type = ROSTER_TYPE
    most_bytes = MAX_ROSTER_BYTES
    version: Annotated[int, Field(ge=1)]
    sealing_key: PublicKey
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names, keys = {member.bank for member in self.members}, {member.signing_key for member in self.members}
        if len(names) != len(self.members) or len(keys) != len(self.members):
            raise ValueError("expected every bank and every key once")
        return self

    def member(self, bank: str, now: datetime) -> Member:
        """The bank's entry. Raises `ProtocolError` when there is none valid at `now`."""
        for member in self.members:
            if member.bank == bank and member.valid_at(now):
                return member
        raise ProtocolError(f"roster {self.version}: expected {bank} to be a valid member, got none")

    def valid_banks(self, now: datetime) -> tuple[str, ...]:
        """The names of all valid members, sorted: a cohort."""
        return tuple(sorted(member.bank for member in self.members if member.valid_at(now)))

    @classmethod
    def read(cls, message: bytes, key: bytes, *, newer_than: int = 0) -> Self:
        """The roster of a signed message. Raises `ProtocolError` when it is forged, or older than one already seen."""
        roster = super().read(message, key)
        if roster.version < newer_than:
            raise ProtocolError(f"roster: expected version {newer_than} or newer, got {roster.version}")
        return roster


def rows_band(rows: int) -> int:
    """The band that a number of rows belongs to: the nearest power of two.

    >>> rows_band(130_000)
    131072
    """
    return int(2 ** round(math.log2(max(rows, 1))))
