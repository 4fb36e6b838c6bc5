"""The bank's ledger: what it has spent, on disk before noise is drawn (protocol, step 5).

A file of JSON lines, each chained to the one before by SHA-256, appended and fsynced by one process at a time. The
`anchor` is a second file, best on another disk: it holds the length and the last link, so that a ledger that was cut
short, edited, put back from a backup or swapped for another's is recognised. Then `Ledger.open` raises, and nothing
leaves the bank.

An entry says what was done (a `charge` of a release, that its noise was `drawn`, a roster seen); what it cost is
computed by the accountant, so a better bound never needs a new ledger.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import AwareDatetime, Field

from mintmark.agreed import Agreed, Digest, Name
from mintmark.canonical import digest
from mintmark.errors import PrivacyError, ProtocolError
from mintmark.plan import MAX_EPSILON, PrivacyUnit
from mintmark.privacy.accountant import GaussianRelease, epsilon, remainder

MAX_LINE_BYTES = 8192
GENESIS = "0" * 64


class EntryKind(StrEnum):
    """`CHARGE`: a release is paid for. `DRAWN`: its noise exists on disk; it is never drawn again."""

    CHARGE = "charge"
    DRAWN = "drawn"


class Entry(Agreed):
    """One line. `release_digest` names the question answered; `unit`, `campaign_epsilon` and `campaign_delta` are the
    terms that the whole campaign was consented to under; the other fields say what was released."""

    previous: Digest
    kind: EntryKind
    at: AwareDatetime
    campaign: Name
    round: Annotated[int, Field(ge=0)]
    attempt: Annotated[int, Field(ge=0)]
    roster_version: Annotated[int, Field(ge=1)]
    plan_digest: Digest
    release_digest: Digest
    unit: PrivacyUnit
    campaign_epsilon: Annotated[float, Field(gt=0, le=MAX_EPSILON)]
    campaign_delta: Annotated[float, Field(gt=0, lt=1)]
    sensitivity: Annotated[int, Field(gt=0)]
    noise_scale: Annotated[float, Field(ge=0)]
    coordinates: Annotated[int, Field(gt=0)]

    @property
    def release(self) -> GaussianRelease:
        return GaussianRelease(self.sensitivity, self.noise_scale, self.coordinates)


class Ledger:
    """Open with `Ledger.open`, as a context: one process at a time."""

    def __init__(self, path: Path, anchor: Path, entries: list[Entry]) -> None:
        self._path, self._anchor, self.entries = path, anchor, entries

    @classmethod
    @contextmanager
    def open(cls, path: Path, anchor: Path) -> Iterator[Self]:
        """Lock, read and verify. Waits for another holder.

        Raises `PrivacyError` when the ledger is not the one that the anchor knows.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        anchor.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = _read_verified(path, anchor)
            yield cls(path, anchor, entries)

    @property
    def head(self) -> str:
        """The last link of the chain."""
        return self.entries[-1].digest() if self.entries else GENESIS

    def charged(self, release_digest: str) -> bool:
        return any(entry.release_digest == release_digest for entry in self.entries)

    def drawn(self, release_digest: str) -> bool:
        return any(entry.release_digest == release_digest and entry.kind is EntryKind.DRAWN for entry in self.entries)

    def releases(self, *, campaign: str | None = None, year: int | None = None) -> list[GaussianRelease]:
        """What was charged, of one campaign or one calendar year (UTC), or in all."""
        return [
            entry.release
            for entry in self._charges()
            if (campaign is None or entry.campaign == campaign)
            and (year is None or entry.at.astimezone(UTC).year == year)
        ]

    def epsilon(self, *, delta: float, campaign: str | None = None, year: int | None = None) -> float:
        """What that cost, at `delta`."""
        return epsilon(self.releases(campaign=campaign, year=year), delta=delta)

    def under_way(self, campaign: str, *, since: datetime) -> bool:
        """Whether the campaign was charged at or after `since`."""
        return any(entry.campaign == campaign and entry.at >= since for entry in self._charges())

    def reserved(self, *, since: datetime, besides: str | None = None) -> list[GaussianRelease]:
        """What other campaigns that were charged at or after `since` may still spend, each as one release: two campaigns
        at once never count on the same budget."""
        newest = {entry.campaign: entry for entry in self._charges() if entry.campaign != besides and entry.at >= since}
        left = (
            remainder(entry.campaign_epsilon, entry.campaign_delta, self.releases(campaign=campaign))
            for campaign, entry in newest.items()
        )
        return [release for release in left if release is not None]

    def _charges(self) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.kind is EntryKind.CHARGE)

    def append(self, entry: Entry) -> None:
        """Write one entry durably: on disk, then in the anchor, before this returns."""
        if entry.previous != self.head:
            raise ValueError("expected an entry chained to the ledger's head")
        new = not self._path.exists()
        with open(self._path, "ab") as file:
            file.write(entry.canonical_bytes() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            _sync_directory(self._path.parent)
        self.entries.append(entry)
        _write_anchor(self._anchor, len(self.entries), self.head)


def entry_after(ledger: Ledger, kind: EntryKind, at: datetime, **fields: object) -> Entry:
    """An entry chained to the ledger's head."""
    return Entry.model_validate({"previous": ledger.head, "kind": kind, "at": at, **fields})


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_directory(path.parent)


def _read_verified(path: Path, anchor: Path) -> list[Entry]:
    data = path.read_bytes() if path.exists() else b""
    complete = data[: data.rfind(b"\n") + 1]
    entries, links = _parse(complete, path)
    if not entries and not anchor.exists():
        _write_anchor(anchor, 0, GENESIS)  # before the first entry, so that entries without an anchor are recognised
    length, head = _read_anchor(anchor)
    # A crash between ledger and anchor leaves the ledger one entry ahead; nothing was drawn for that entry yet.
    if len(entries) - length not in (0, 1) or links[length] != head:
        raise PrivacyError(
            f"ledger {path}: expected the {length} entries that the anchor {anchor} knows, got {len(entries)}, "
            "or others. It was cut, edited, restored or swapped: restore the newest copy; nothing leaves until then"
        )
    if len(complete) < len(data):  # the torn last line of a crash: it was not fsynced, so nothing followed from it
        with open(path, "r+b") as file:
            file.truncate(len(complete))
            os.fsync(file.fileno())
    if len(entries) > length:
        _write_anchor(anchor, len(entries), links[-1])
    return entries


def _parse(lines: bytes, path: Path) -> tuple[list[Entry], list[str]]:
    """The entries and the chain's links: one before the first entry, and one after each."""
    entries, links = [], [GENESIS]
    for number, line in enumerate(lines.splitlines(), 1):
        try:
            entry = Entry.from_bytes(line, max_bytes=MAX_LINE_BYTES)
        except ProtocolError as error:
            raise PrivacyError(f"ledger {path}, line {number}: {error}; nothing leaves until it is restored") from None
        if entry.previous != links[-1]:
            raise PrivacyError(
                f"ledger {path}, line {number}: the chain is broken; nothing leaves until it is restored"
            )
        entries.append(entry)
        links.append(digest(line))  # a canonical line is the entry's digest's preimage
    return entries, links


def _read_anchor(anchor: Path) -> tuple[int, str]:
    try:
        length, head = anchor.read_text().split()
        return int(length), head
    except (OSError, ValueError) as error:
        raise PrivacyError(f"ledger's anchor {anchor}: unreadable ({type(error).__name__}); nothing leaves") from None


def _write_anchor(anchor: Path, length: int, head: str) -> None:
    write_durably(anchor, f"{length} {head}\n".encode())


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
