"""The steps of a round at which something can be made to happen, by name and without sleeping.

The harness arms one fault in a folder: campaign, round, step and, for a step at a bank, which bank. The process that
reaches the step takes the fault, says where it stands and waits there until it is let go, or killed. Only the entry
modules `infra.chaos.flow` and `infra.chaos.bank` install these hooks, by wrapping functions: nothing in the code that
banks and coordinators run knows of them.

    stage = Stage(folder)                                      # in the harness
    stage.arm(Fault("cards-1", 2, "charged", bank="bank-1"))
    held = stage.held()                                        # None until the step is reached
    stage.let_go()
    Stage(folder).reach("cards-1", 2, "charged", "bank-1")     # in the process
"""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

VARIABLE = "MINTMARK_CHAOS"
COORDINATOR_STEPS = ("plan", "planned", "ring", "rung", "manifest", "closed", "settled")
BANK_STEPS = ("consent", "charge", "charged", "drawn", "send", "sent")
FINAL_STEPS = ("register", "registered")
"""After the last round, once a campaign."""
HOLD_S, POLL_S = 120.0, 0.02


@dataclass(frozen=True)
class Fault:
    """Where to stop; with `disk_full` the step fails instead, as on a disk without room."""

    campaign: str
    round: int
    step: str
    bank: str = ""
    disk_full: bool = False
    number: int = 0
    """Counts the faults of a stage: what lets one go is not another's."""


@dataclass(frozen=True)
class Held:
    """A process that waits at the armed step."""

    pid: int
    parent: int
    number: int


class Stage:
    """The folder through which harness and processes speak. Renaming is what only one process can do."""

    def __init__(self, folder: Path) -> None:
        self._armed, self._taken = folder / "armed.json", folder / "taken.json"
        self._held, self._folder, self._count = folder / "held.json", folder, 0

    def arm(self, fault: Fault) -> None:
        self._count += 1
        _write(self._armed, asdict(replace(fault, number=self._count)))

    def disarm(self) -> None:
        self._armed.unlink(missing_ok=True)

    def held(self) -> Held | None:
        """The process that has reached the newest fault; None before."""
        try:
            held = Held(**json.loads(self._held.read_text()))
        except FileNotFoundError:
            return None
        return held if held.number == self._count else None

    def let_go(self, held: Held) -> None:
        (self._folder / f"go-{held.number}").touch()

    def set_clock(self, party: str, seconds: float) -> None:
        """How far a party's clock is ahead."""
        _write(self._folder / f"clock-{party}.json", seconds)

    def clock(self, party: str) -> float:
        try:
            return float(json.loads((self._folder / f"clock-{party}.json").read_text()))
        except FileNotFoundError:
            return 0.0

    def note(self, role: str, campaign: str) -> None:
        """In a process: say that it plays this role in a campaign."""
        _write(self._folder / f"{role}-{campaign}.json", os.getpid())

    def noted(self, role: str, campaign: str) -> int | None:
        """The newest process in that role."""
        try:
            return int(json.loads((self._folder / f"{role}-{campaign}.json").read_text()))
        except FileNotFoundError:
            return None

    def reach(self, campaign: str, round: int, step: str, bank: str = "") -> None:
        """In a process: stop here if this is the armed step. Raises `OSError` where the disk is to be full."""
        try:
            fault = Fault(**json.loads(self._armed.read_text()))
            if (fault.campaign, fault.round, fault.step, fault.bank) != (campaign, round, step, bank):
                return
            self._armed.rename(self._taken)
        except FileNotFoundError:
            return
        _write(self._held, asdict(Held(os.getpid(), os.getppid(), fault.number)))
        if fault.disk_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        deadline = time.monotonic() + HOLD_S
        while not (self._folder / f"go-{fault.number}").exists() and time.monotonic() < deadline:
            time.sleep(POLL_S)


def _write(path: Path, value: object) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(value))
    fresh.replace(path)
