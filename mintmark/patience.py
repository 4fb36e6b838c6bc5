"""How long a round waits for the slow once its quorum is there: as long as the signed record says they need.

A bank that answered lately is given twice the longest it took, and ten seconds. One that has not is given what the
slowest of the others is; one that nobody knows yet, or whose last update came after its round had closed (it lives, it is
slow), is waited for until the round's own end. No clock here: seconds are counted from the round's opening.

>>> patience(("a", "b", "c"), [Pace(seconds={"a": 2.0, "b": 30.0}, lost=())])
{'a': 14.0, 'b': 70.0, 'c': 70.0}
>>> patience(("a", "c"), [Pace(seconds={"a": 2.0}, lost=("c",))])["c"]
inf
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from mintmark.round import Manifest

ROUNDS = 5
"""How many attempts back a pace is remembered."""
FACTOR, SLACK_S = 2.0, 10.0


@dataclass(frozen=True)
class Pace:
    """Of one closed attempt: after how many `seconds` each accepted bank had answered, and whose update was `lost`."""

    seconds: Mapping[str, float]
    lost: Collection[str]

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        return cls({update.bank: update.seconds for update in manifest.accepted}, manifest.lost)


def patience(cohort: Sequence[str], past: Sequence[Pace]) -> dict[str, float]:
    """For each bank the seconds after the opening at which waiting for it may end; infinity: not before the deadline.

    `past` are the campaign's closed attempts, oldest first.
    """
    recent = past[-ROUNDS:]
    longest: dict[str, float] = {}
    for pace in recent:
        longest |= {bank: max(seconds, longest.get(bank, 0.0)) for bank, seconds in pace.seconds.items()}
    slowest = max(longest.values(), default=math.inf)
    alive = recent[-1].lost if recent else ()
    return {bank: math.inf if bank in alive else FACTOR * longest.get(bank, slowest) + SLACK_S for bank in cohort}
