"""A bank that is killed before every line of the code that charges, draws, keeps and sends: a program, for test_crashes.py.

A fork answers a plan and is killed at some point; then another attempt at the round is answered, and the first again.
What lies on disk and in the mailbox after either is printed as JSON, point by point, until nothing is left to kill.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from consortium import Consortium

from bank_node import local_round
from bank_node.settings import Home
from mintmark.mailbox import MemoryStore, update_key
from mintmark.privacy import ledger
from mintmark.privacy.mechanism import BoundedSum, Ints, release


class DirectoryStore(MemoryStore):
    """What is put lies in a folder too, and outlives the process: a file is linked into place, whole and once."""

    def __init__(self, root: Path, objects: dict[str, bytes]) -> None:
        super().__init__()
        self._root = root
        root.mkdir(exist_ok=True)
        self._objects.update(objects)
        self._objects |= {file.name.replace("~", "/"): file.read_bytes() for file in root.iterdir()}

    def put_once(self, key: str, data: bytes) -> bool:
        fresh = self._root.with_name(f"{os.getpid()}.new")
        fresh.write_bytes(data)
        try:
            os.link(fresh, self._root / key.replace("/", "~"))
        except FileExistsError:
            return False
        return super().put_once(key, data)


class KilledBank:
    """bank-0 of a consortium, asked twice about round 0; a folder of its own for every point."""

    def __init__(self, root: Path) -> None:
        self._root, self._consortium = root, Consortium(root / "consortium", sizes=(100, 100, 100))
        model = self._consortium.campaign()
        self._plans = [self._consortium.plan(model, attempt=attempt) for attempt in (0, 1)]
        self._bank, self._objects = self._consortium.banks["bank-0"], dict(self._consortium.store._objects)
        local_round.release = self._release
        self._move_to(root / "warm")
        self._consortium.answer("bank-0", self._plans[0])  # loads what every fork then has

    def observe(self, point: int) -> dict[str, Any]:
        """Whether there was anything to kill at that point, and what was found before and after the bank went on."""
        self._move_to(self._root / f"{point:04d}")
        child = os.fork()
        if child == 0:
            self._answer_until_killed(point)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = {"status": status, "killed": self._left()}
        self._open()
        for plan in reversed(self._plans):
            self._consortium.answer("bank-0", plan)
        return {**found, "resumed": self._left()}

    def _move_to(self, home: Path) -> None:
        self._home = home
        shutil.copytree(self._bank.home.path, home / "bank")
        self._open()

    def _open(self) -> None:
        """As a new process finds it: only what is on disk counts."""
        store = DirectoryStore(self._home / "mailbox", self._objects)
        self._consortium.store = store
        self._consortium.banks["bank-0"] = replace(self._bank, home=Home(self._home / "bank"), store=store)

    def _answer_until_killed(self, point: int) -> None:
        sys.settrace(_killer(point))
        try:
            self._consortium.answer("bank-0", self._plans[0])
            os._exit(0)
        finally:
            os._exit(1)

    def _release(self, total: BoundedSum, *, noise_scale: float) -> Ints:
        """The real one, of as many numbers as it takes to tell draws apart, and a line: the charges on disk by then."""
        with open(self._home / "draws", "a") as draws:
            draws.write(f"{self._charges()}\n")
        return release(BoundedSum(total.vector[:8], total.sensitivity), noise_scale=noise_scale)

    def _charges(self) -> int:
        """Whole lines of the ledger that are charges, read without the bank's own code."""
        path = self._home / "bank" / "ledger" / "ledger.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return sum(json.loads(line)["kind"] == "charge" for line in lines)

    def _left(self) -> dict[str, Any]:
        """Charges on disk, the charges there were at each draw, and the sums that left by attempt."""
        self._open()
        put = {file.name for file in (self._home / "mailbox").iterdir()}
        keys = {plan.attempt: update_key("bank-0", "cards", 0, plan.attempt).replace("/", "~") for plan in self._plans}
        sent = [self._consortium.sums_sent("bank-0", plan).hex() for plan in self._plans if keys[plan.attempt] in put]
        draws = self._home / "draws"
        by_then = [int(line) for line in draws.read_text().split()] if draws.exists() else []
        return {"charges": self._charges(), "charges_at_draws": by_then, "sent": sent}


WATCHED = {
    function.__code__
    for function in (
        ledger.Ledger.append,
        ledger.write_durably,
        ledger._read_verified,
        DirectoryStore.put_once,
        KilledBank._release,
    )
}


def _killer(point: int) -> Any:
    """A trace function that kills the process before the watched line of that number."""
    lines = iter(range(point + 1))

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code not in WATCHED:
            return None
        if event == "line" and next(lines) == point:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def main() -> None:
    os.fsync = lambda _: None  # for speed: a killed process, unlike a machine, loses nothing that the kernel has
    bank, found = KilledBank(Path(sys.argv[1])), []
    while not found or found[-1]["status"] == -signal.SIGKILL:
        found.append(bank.observe(len(found)))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
