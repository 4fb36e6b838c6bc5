"""The bank's ledger: what is read back, what tampering it notices, and what a crash at any moment leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

import mintmark
from mintmark.errors import PrivacyError
from mintmark.plan import PrivacyUnit
from mintmark.privacy.accountant import epsilon
from mintmark.privacy.ledger import Entry, EntryKind, Ledger, entry_after, write_durably

HOME = Path(mintmark.__file__).parents[1]
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
FIELDS = {
    "campaign": "cards",
    "attempt": 0,
    "roster_version": 1,
    "plan_digest": "b" * 64,
    "unit": PrivacyUnit.CUSTOMER,
    "campaign_epsilon": 4.0,
    "campaign_delta": 1e-6,
    "sensitivity": 2**26,
    "noise_scale": 2.0**28,
    "coordinates": 10,
}


class Books:
    """A ledger and its anchor, each in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.ledger, self.anchor = root, root / "ledger" / "ledger.jsonl", root / "anchor" / "ledger.anchor"

    def read(self) -> list[Entry]:
        with Ledger.open(self.ledger, self.anchor) as ledger:
            return ledger.entries

    def charge(self, *rounds: int, kind: EntryKind = EntryKind.CHARGE, at: datetime = NOON, **fields: object) -> None:
        """One entry for each of the rounds."""
        with Ledger.open(self.ledger, self.anchor) as ledger:
            for number in rounds:
                named = {**FIELDS, "round": number, "release_digest": f"{number:064x}", **fields}
                ledger.append(entry_after(ledger, kind, at, **named))


@pytest.fixture
def books(tmp_path: Path) -> Books:
    """Empty books."""
    return Books(tmp_path)


def assert_refused(books: Books) -> None:
    """Opening raises, and leaves the ledger as it was found: it is evidence."""
    before = books.ledger.read_bytes() if books.ledger.exists() else None
    with pytest.raises(PrivacyError, match="nothing leaves"):
        books.read()
    assert (books.ledger.read_bytes() if books.ledger.exists() else None) == before


def test_charges_are_read_back(books: Books) -> None:
    """What was charged is there after reopening, chained, and can be continued."""
    books.charge(0, 1)
    books.charge(2, campaign="loans", noise_scale=2.0**29)
    entries = books.read()
    assert [entry.round for entry in entries] == [0, 1, 2]
    assert [entry.previous for entry in entries] == ["0" * 64, entries[0].digest(), entries[1].digest()]
    assert entries[2].campaign == "loans"
    assert entries[2].noise_scale == 2.0**29
    assert len(books.ledger.read_text().splitlines()) == 3


def test_charges_are_told_from_drawings(books: Books) -> None:
    """A release is charged once, whatever else is noted about it; its noise counts as drawn when that is noted."""
    books.charge(0)
    with Ledger.open(books.ledger, books.anchor) as ledger:
        assert ledger.charged(f"{0:064x}")
        assert not ledger.drawn(f"{0:064x}")
        assert not ledger.charged(f"{1:064x}")
    books.charge(0, kind=EntryKind.DRAWN)
    with Ledger.open(books.ledger, books.anchor) as ledger:
        assert ledger.drawn(f"{0:064x}")
        assert len(ledger.releases()) == 1
        assert ledger.epsilon(delta=1e-6) == epsilon([ledger.entries[0].release], delta=1e-6)


def test_releases_by_campaign_and_year(books: Books) -> None:
    """Costs are asked by campaign and by calendar year in UTC, whatever zone an entry's time is written in."""
    books.charge(0, at=datetime(2025, 12, 31, 23, 30, tzinfo=UTC))
    books.charge(1, at=datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=2))))  # 2025 in UTC
    books.charge(2, at=datetime(2026, 1, 1, 0, 0, tzinfo=UTC), campaign="loans")
    with Ledger.open(books.ledger, books.anchor) as ledger:
        assert len(ledger.releases()) == 3
        assert len(ledger.releases(year=2025)) == 2
        assert len(ledger.releases(year=2026)) == 1
        assert len(ledger.releases(campaign="cards")) == 2
        assert ledger.releases(campaign="cards", year=2026) == []
        assert ledger.epsilon(delta=1e-6, year=2024) == 0
        assert ledger.epsilon(delta=1e-6) > ledger.epsilon(delta=1e-6, year=2025) > 0


def test_entries_must_follow_the_head(books: Books) -> None:
    """An entry made for another head is a mistake, and nothing is written."""
    books.charge(0)
    with Ledger.open(books.ledger, books.anchor) as ledger:
        stale = ledger.entries[0]
        with pytest.raises(ValueError, match="chained to the ledger's head"):
            ledger.append(stale)
    assert len(books.read()) == 1


def test_any_edited_byte_is_noticed(books: Books) -> None:
    """One changed bit at any place of the ledger, line ends included, and nothing leaves."""
    books.charge(0, 1)
    whole = books.ledger.read_bytes()
    for at in range(len(whole)):
        books.ledger.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert_refused(books)
    books.ledger.write_bytes(whole)
    assert len(books.read()) == 2


def test_any_cut_is_noticed(books: Books) -> None:
    """Cut at any line or in the middle of one, the ledger is refused."""
    books.charge(0, 1, 2)
    whole = books.ledger.read_bytes()
    ends = [at for at, byte in enumerate(whole, 1) if byte == ord("\n")]
    for end in (0, *ends[:-1], *(end - 1 for end in ends), *(end + 7 for end in ends[:-1])):
        books.ledger.write_bytes(whole[:end])
        assert_refused(books)


def test_reordered_lost_and_doubled_lines_are_noticed(books: Books) -> None:
    """Lines in another order, without one, or with one twice break the chain."""
    books.charge(0, 1, 2)
    first, second, third = books.ledger.read_bytes().splitlines(keepends=True)
    for lines in ((second, first, third), (first, third), (first, second, second), (first, second, third, third)):
        books.ledger.write_bytes(b"".join(lines))
        assert_refused(books)


def test_entries_that_were_made_up_are_noticed(books: Books) -> None:
    """A ledger rewritten with cheaper entries and a sound chain is not the one the anchor knows."""
    books.charge(0, 1)
    anchor = books.anchor.read_bytes()
    books.ledger.unlink()
    books.anchor.unlink()
    books.charge(0, 1, noise_scale=2.0**40)
    books.anchor.write_bytes(anchor)
    assert_refused(books)


def test_another_banks_ledger_is_noticed(tmp_path: Path) -> None:
    """A ledger of another bank, as long and as sound, is refused."""
    ours, theirs = Books(tmp_path / "ours"), Books(tmp_path / "theirs")
    ours.charge(0, 1)
    theirs.charge(0, 1, plan_digest="c" * 64)
    ours.ledger.write_bytes(theirs.ledger.read_bytes())
    assert_refused(ours)


def test_a_backup_is_noticed(books: Books) -> None:
    """A ledger put back from a backup, with or without an anchor that is not the backup's, is refused."""
    books.charge(0)
    backup = books.ledger.read_bytes()
    books.charge(1)
    between = books.anchor.read_bytes()
    books.charge(2)
    books.ledger.write_bytes(backup)
    assert_refused(books)
    books.anchor.write_bytes(between)
    assert_refused(books)


def test_a_ledger_that_is_gone_is_noticed(books: Books) -> None:
    """While the anchor knows of entries, a missing or empty ledger is refused."""
    books.charge(0)
    books.ledger.unlink()
    assert_refused(books)
    books.ledger.write_bytes(b"")
    assert_refused(books)


@pytest.mark.parametrize("entries", [1, 2])
def test_an_anchor_that_is_gone_is_noticed(books: Books, entries: int) -> None:
    """While the ledger holds entries, be it only one, a missing anchor is refused."""
    books.charge(*range(entries))
    books.anchor.unlink()
    assert_refused(books)


@pytest.mark.parametrize("text", [b"", b"1", b"one two", b"1 2 3", b"\xff\xfe", b"0 " + b"0" * 64, b"-1 " + b"0" * 64])
def test_an_anchor_that_was_edited_is_noticed(books: Books, text: bytes) -> None:
    """An anchor that is unreadable, or says something else, is refused."""
    books.charge(0, 1)
    books.anchor.write_bytes(text)
    assert_refused(books)


def test_a_torn_last_line_is_dropped(books: Books) -> None:
    """Part of a line after the last whole one is what a crash left: it goes, and the ledger continues."""
    books.charge(0, 1)
    whole = books.ledger.read_bytes()
    books.ledger.write_bytes(whole + whole[: len(whole) // 3])
    assert len(books.read()) == 2
    assert books.ledger.read_bytes() == whole
    books.charge(2)
    assert len(books.read()) == 3


def test_an_entry_without_its_anchor_is_kept(books: Books) -> None:
    """After a crash between ledger and anchor the entry counts, and the anchor knows it from then on."""
    books.charge(0)
    behind = books.anchor.read_bytes()
    books.charge(1)
    ahead = books.anchor.read_bytes()
    books.anchor.write_bytes(behind)
    assert len(books.read()) == 2
    assert books.anchor.read_bytes() == ahead


def test_a_second_process_waits(books: Books) -> None:
    """While the ledger is open in one process another cannot have it, and then reads what the first one wrote."""
    program = """
import fcntl, sys
from pathlib import Path
from mintmark.privacy.ledger import Ledger
ledger, anchor = map(Path, sys.argv[1:])
with open(ledger.with_suffix(".lock"), "w") as lock:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("free", flush=True)
    except BlockingIOError:
        print("held", flush=True)
with Ledger.open(ledger, anchor) as opened:
    print(len(opened.entries), flush=True)
"""
    command = [sys.executable, "-c", program, str(books.ledger), str(books.anchor)]
    with Ledger.open(books.ledger, books.anchor) as ledger:
        other = subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, text=True)
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            fields = {**FIELDS, "round": 0, "release_digest": "a" * 64}
            ledger.append(entry_after(ledger, EntryKind.CHARGE, NOON, **fields))
        except BaseException:
            other.kill()
            raise
    assert other.communicate(timeout=60)[0] == "1\n"
    assert other.returncode == 0


CRASH = """
import json, os, shutil, signal, stat, sys
from pathlib import Path
from mintmark.plan import PrivacyUnit
from mintmark.privacy.ledger import Ledger, entry_after, EntryKind
from datetime import UTC, datetime

root, tear = Path(sys.argv[1]), sys.argv[2] == "torn"
fields = json.loads(sys.argv[3])
fields["unit"] = PrivacyUnit(fields["unit"])


def crash_at(number):
    calls = 0
    def counted(real):
        def call(*arguments):
            nonlocal calls
            calls += 1
            if calls == number:
                if tear and isinstance(arguments[0], int) and stat.S_ISREG(os.fstat(arguments[0]).st_mode):
                    os.ftruncate(arguments[0], max(0, os.fstat(arguments[0]).st_size - 9))  # not all of it came to disk
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        return call
    os.fsync, os.replace = counted(os.fsync), counted(os.replace)


number, killed = 0, True
while killed:
    number += 1
    home = root / str(number)
    shutil.copytree(root / "start", home)
    child = os.fork()
    if child == 0:
        crash_at(number)
        with Ledger.open(home / "ledger" / "ledger.jsonl", home / "anchor" / "ledger.anchor") as ledger:
            ledger.append(entry_after(ledger, EntryKind.CHARGE, datetime(2026, 3, 3, tzinfo=UTC), **fields))
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
print(number)
"""


@pytest.mark.parametrize("already", [0, 2])
@pytest.mark.parametrize("disk", ["whole", "torn"])
def test_killed_at_any_moment(tmp_path: Path, already: int, disk: str) -> None:
    """Killed before any fsync or rename, with its bytes on disk or only part of them, the entry is there or it is not:
    what was there before stays, and the ledger continues."""
    start = Books(tmp_path / "start")
    start.root.mkdir()
    before = []
    if already:
        start.charge(*range(already))
        before = start.read()
    fields = {**FIELDS, "round": 7, "release_digest": "a" * 64}
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path), disk, json.dumps(fields)],
        cwd=HOME,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    ends = int(done.stdout)
    assert ends >= 5  # ledger, anchor, rename, folder, and the run that was not killed
    found = []
    for number in range(1, ends + 1):
        books = Books(tmp_path / str(number))
        entries = books.read()
        assert entries[:already] == before
        assert [entry.round for entry in entries[already:]] in ([], [7])
        found.append(len(entries) - already)
        books.charge(8)
        assert [entry.round for entry in books.read()][-1] == 8
    assert disk == "whole" or found[0] == 0
    assert found == sorted(found)  # once it is there, no later crash takes it away
    assert found[-1] == 1


def test_files_are_written_whole(tmp_path: Path) -> None:
    """A durable write replaces what was there, makes its folder, and is not confused by what a crash left beside it."""
    path = tmp_path / "new" / "file"
    write_durably(path, b"one")
    path.with_name("file.part").write_bytes(b"left over from a crash")
    write_durably(path, b"two")
    assert path.read_bytes() == b"two"
    assert [child.name for child in path.parent.iterdir()] == ["file"]
