"""Which processes still live below some others: by session, by descent, and when they left both.

A server's own children matter as much as the server: PostgreSQL's backends make sessions of their own, and a
grandchild outlives its parent. Zombies count as gone: a container's first process may never reap them. Read from
Linux's `/proc`; what left both the session and its parents before it was first seen is not found.

    root = identify(process.pid)  # before anybody reaps it
    left = wait_gone({root}, grow_family({root}, frozenset()), timeout_s=4.0)  # empty when all have ended
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.02


@dataclass(frozen=True, order=True)
class Relative:
    """A process, told from a later one with the same number by its start, in clock ticks since boot."""

    pid: int
    born: int


@dataclass(frozen=True)
class _Entry:
    parent: int
    session: int
    born: int


def identify(pid: int) -> Relative:
    """The identity of a process that lives, or has ended and was not reaped. `OSError` if there is none."""
    return Relative(pid, _read(Path(f"/proc/{pid}/stat"))[1].born)


def grow_family(roots: Set[Relative], known: Set[Relative]) -> frozenset[Relative]:
    """Who lives now: the roots (session leaders), their sessions, those in `known`, and the descendants of all."""
    table = _living()
    # While a session has members its number is not given away; so it is a stranger's only if a stranger leads it.
    sessions = {root.pid for root in roots if root.pid not in table or table[root.pid].born == root.born}
    family = {pid for pid, entry in table.items() if entry.session in sessions or Relative(pid, entry.born) in known}
    while more := {pid for pid, entry in table.items() if entry.parent in family} - family:
        family |= more
    return frozenset(Relative(pid, table[pid].born) for pid in family)


def wait_gone(roots: Set[Relative], family: Set[Relative], timeout_s: float) -> frozenset[Relative]:
    """Wait until nobody of the growing family lives, or `timeout_s` seconds; return who is left."""
    deadline = time.monotonic() + timeout_s
    while (left := grow_family(roots, family)) and time.monotonic() < deadline:
        family = family | left
        time.sleep(_POLL_S)
    return left


def kill_family(family: Set[Relative]) -> None:
    """SIGKILL for each of them, and for the groups they lead."""
    for relative in family:
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError):  # gone meanwhile, or leads no group
                kill(relative.pid, signal.SIGKILL)


def _living() -> dict[int, _Entry]:
    table = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended while we read
            state, entry = _read(path)
            if state not in "ZX":
                table[int(path.parent.name)] = entry
    return table


def _read(stat: Path) -> tuple[str, _Entry]:
    # The name stands in parentheses and may hold anything; proc(5) counts the fields after it from 3.
    fields = stat.read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], _Entry(parent=int(fields[1]), session=int(fields[3]), born=int(fields[19]))
