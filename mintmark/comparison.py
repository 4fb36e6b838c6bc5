r"""Two evaluations compared: the interval of a difference, and what may be said of it.

MOVER (Zou and Donner 2008, "Construction of confidence limits about effect measures", Statistics in Medicine 27,
Section 2): with independent estimates $x$ in $[l, u]$ and $x'$ in $[l', u']$, $x - x'$ lies in

$$\left[x - x' - \sqrt{(x - l)^2 + (u' - x')^2},\ \ x - x' + \sqrt{(u - x)^2 + (x' - l')^2}\right].$$

Judged on the same rows the two estimates move together and the interval is wider than it need be: that errs on the side of
refusing. Judged on different rows, the difference is that of the models *and* of the rows; `comparability` says which.

>>> difference(Figure(value=0.50, low=0.46, high=0.54), Figure(value=0.40, low=0.37, high=0.43))
Interval(value=0.1, low=0.05, high=0.15)
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mintmark.decision import Check
from mintmark.evaluation_record import EvaluationRecord, Figure


class Interval(NamedTuple):
    """A figure that is defined, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(figure: Figure) -> Interval | None:
    """None for a figure that is not defined."""
    if figure.value is None or figure.low is None or figure.high is None:
        return None
    return Interval(figure.value, figure.low, figure.high)


def difference(figure: Figure, other: Figure) -> Interval | None:
    """The interval of `figure` less `other` (formula above), to nine digits; None when one of them is not defined."""
    x, y = interval(figure), interval(other)
    if x is None or y is None:
        return None
    below = math.hypot(x.value - x.low, y.high - y.value)
    above = math.hypot(x.high - x.value, y.value - y.low)
    gap = x.value - y.value
    return Interval(*(round(end, 9) for end in (gap, gap - below, gap + above)))


def comparability(challenger: EvaluationRecord, champion: EvaluationRecord | None) -> str:
    """What may be said of a difference between the two, by the weeks of their held-out rows: a sentence for people."""
    if champion is None:
        return "There is no champion to compare with: this would be the first."
    new, old = set(challenger.weeks), set(champion.weeks)
    if not new or not old:
        return "The weeks of the held-out rows are not told: a difference may be the models' or the rows'."
    if new == old:
        return "Both were judged on the same weeks: a difference is the models', but for rows that banks added since."
    common = len(new & old)
    return (
        f"The challenger was judged on {len(new)} weeks, the champion on {len(old)}, {common} of them the same: "
        "a difference is that of the models and of the weeks together."
    )


def at_least(name: str, figure: Figure, least: int) -> Check:
    """Whether a count is surely that large."""
    found = interval(figure)
    expected = f"at least {least:,} at the interval's low end"
    if found is None:
        return Check(name=name, expected=expected, got="not defined", passed=False)
    got = f"{found.value:,.0f} [{found.low:,.0f}, {found.high:,.0f}]"
    return Check(name=name, expected=expected, got=got, passed=found.low >= least, **found._asdict())


def at_most(name: str, found: Interval | None, most: float) -> Check:
    """Whether a figure is surely that small."""
    expected = f"at most {most:g} at the interval's high end"
    if found is None:
        return Check(name=name, expected=expected, got="not defined", passed=False)
    return Check(name=name, expected=expected, got=str(found), passed=found.high <= most, **found._asdict())


def no_worse(name: str, new: Figure, old: Figure | None, margin: float) -> Check:
    """Whether `new` is surely not worse than `old` by more than the margin; without `old`, whether it is defined."""
    expected = f"difference to the champion above -{margin:g} at its low end"
    if old is None:
        found = interval(new)
        got = f"{found}, no champion yet" if found else "not defined"
        return Check(name=name, expected="to be defined", got=got, passed=found is not None)
    gap = difference(new, old)
    if gap is None:
        return Check(name=name, expected=expected, got="not defined", passed=False)
    return Check(name=name, expected=expected, got=str(gap), passed=gap.low >= -margin, **gap._asdict())
