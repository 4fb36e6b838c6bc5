"""The cells of the fault matrix: who is hit, where in the round, and what is expected.

One cell is played in each round of a campaign, because most of a short campaign's time is its start: so every campaign
also shows that faults one after the other are survived. A flow that is killed too often is left to people; its campaigns
are short.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from infra.chaos.consortium import BANKS
from infra.chaos.proxy import Mode
from infra.chaos.steps import BANK_STEPS, COORDINATOR_STEPS, FINAL_STEPS

FLOW_KILLS = 4  # a campaign
BANK = "bank-b"
VICTIMS = ("flow", "worker", "child", "prefect", "ministack", "mlflow", "postgresql")
STORE_FAULTS: tuple[Mode, ...] = ("status_500", "status_503", "slow", "cut", "stale")
REQUESTS = {"status_500": 8, "status_503": 8, "slow": 6, "cut": 8, "stale": 10}
"""How many requests a fault hits: more than one call of the store tries by itself."""

Kind = Literal["kill", "store", "clock", "disk", "cut off", "twins"]


@dataclass(frozen=True)
class Cell:
    """One fault: `victim` is hit when `step` is reached; of a clock, how many `seconds` it is ahead."""

    kind: Kind
    victim: str
    step: str
    seconds: float = 0.0

    @property
    def name(self) -> str:
        words = {"kill": "SIGKILL", "store": "S3", "clock": "clock", "disk": "disk full", "twins": "two coordinators"}
        who = "S3" if self.victim == "ministack" else self.victim
        off = f"off by {self.seconds:+.0f} s" if self.seconds else ""
        return " ".join(filter(None, (words.get(self.kind, self.kind), who, off, f"at {self.step}")))

    @property
    def at_bank(self) -> bool:
        return self.step in BANK_STEPS


@dataclass(frozen=True)
class Scene:
    """One campaign: the cells of its rounds (None: nothing is done in that round), then those of its end."""

    name: str
    cells: tuple[Cell | None, ...]
    finals: tuple[Cell, ...] = ()
    terms: dict[str, Any] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Training rounds: with the evaluation's there is a round for every cell."""
        return max(3, len(self.cells) - 1)


def scenes() -> Iterator[Scene]:
    """The whole matrix."""
    yield from kills()
    yield from _store_faults()
    yield from _rest()


def kills(victims: tuple[str, ...] = VICTIMS) -> Iterator[Scene]:
    """SIGKILL of each at each step of a round, and at the two of a campaign's end."""
    for victim in victims:
        cells = tuple(Cell("kill", victim, step) for step in (*COORDINATOR_STEPS, *BANK_STEPS))
        finals = tuple(Cell("kill", victim, step) for step in FINAL_STEPS)
        if victim != "flow":
            yield Scene(f"kill-{victim}", cells, finals)
            continue
        for number, start in enumerate(range(0, len(cells), FLOW_KILLS)):
            yield Scene(f"kill-{victim}-{number}", cells[start : start + FLOW_KILLS], finals[number : number + 1])


def _store_faults() -> Iterator[Scene]:
    for party in ("coordinator", BANK):
        step = "planned" if party == "coordinator" else "consent"
        yield Scene(f"store-{party}", tuple(Cell("store", f"{party} {mode}", step) for mode in STORE_FAULTS))


def _rest() -> Iterator[Scene]:
    without_one = {"quorum": BANKS - 1}
    skews = tuple(Cell("clock", BANK, "plan", seconds) for seconds in (600.0, -600.0))
    yield Scene("clock-bank", (None, *skews), terms=without_one)
    yield Scene("clock-coordinator", (None, Cell("clock", "coordinator", "plan", 600.0)), terms={"deadline_s": 20.0})
    full = tuple(Cell("disk", BANK, step) for step in ("charge", "charged", "drawn", "send"))
    yield Scene("disk", full)
    cut = (None, Cell("cut off", BANK, "plan"), None, Cell("cut off", BANK, "rung"))
    yield Scene("partition", cut, terms=without_one)
    yield Scene("twins", (Cell("twins", "", "plan"), Cell("twins", "", "closed")))


def small() -> Iterator[Scene]:
    """What `make test` plays: four cells in one campaign."""
    cells = (
        Cell("kill", "worker", "charged"),
        Cell("kill", "child", "drawn"),
        Cell("kill", "ministack", "manifest"),
        Cell("kill", "flow", "closed"),
    )
    yield Scene("small", cells)
