r"""The table of rules and steps, chains of them by name, and the public door.

A name is a rule, or steps before it joined by "+": `"arc+nnm+geometric_median"`. Some take a number after a colon:
`"trimmed_mean:0.35"`, `"bucketing:3+krum"`, `"static_clipping:2.5+trimmed_mean"`.

X [n, d] holds one update a row, w [n] the weights that follow from the roster, never from an update, f how many banks may
lie. `check_feasible` says, before anything is asked of a bank, whether the chain stands f of n.

>>> updates = np.array([[1.0, 10.0], [2.0, 20.0], [900.0, -900.0]])
>>> aggregate("trimmed_mean", updates, f=1).vector.tolist()
[2.0, 10.0]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from mintmark.aggregation import centres, coordinatewise, preaggregation, selection
from mintmark.aggregation.mixture import Aggregate, Floats, Mixture, Rows, Updates, mixture_of, normalised
from mintmark.errors import AggregationError

DEFAULT_RULE = "centred_clipping"  # by measurement: docs/adr/0008
MAX_NAME = 120  # characters
_MAJORITY = "n > 2 f"


@dataclass(frozen=True)
class Rule:
    """`apply(updates, weights, f[, number])`. `stands(n, f)` is its condition, `condition` the same in words.

    `by_coordinate` rules give each coordinate other shares. One that is `by_distance` gives a row less the farther it
    lies, and so the noisier it is, by itself. `number` names what may stand after the colon.
    """

    apply: Callable[..., Aggregate]
    stands: Callable[[int, int], bool]
    condition: str
    by_coordinate: bool = False
    by_distance: bool = False
    number: str = ""


@dataclass(frozen=True)
class Step:
    """A pre-aggregation: `apply(updates, weights, f[, number])` returns rows and weights; `rows(n, number)` how many."""

    apply: Callable[..., preaggregation.Step]
    number: str = ""
    needs_number: bool = False
    rows: Callable[[int, float], int] = lambda n, number: n


def _majority(n: int, f: int) -> bool:
    return n > 2 * f


def _krum(n: int, f: int) -> bool:
    return n > 2 * f + 2


def _subsets(n: int, f: int) -> bool:
    return n > 2 * f and selection.few_subsets(n, f)


_FEW = f"n > 2 f and at most {selection.MAX_SUBSETS} sets of n - f of n"
RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "weighted_mean": Rule(centres.weighted_mean, lambda n, f: f == 0, "f = 0"),
        "coordinate_median": Rule(coordinatewise.coordinate_median, _majority, _MAJORITY, by_coordinate=True),
        "trimmed_mean": Rule(coordinatewise.trimmed_mean, _majority, _MAJORITY, by_coordinate=True, number="trim"),
        "meamed": Rule(coordinatewise.meamed, _majority, _MAJORITY, by_coordinate=True),
        "geometric_median": Rule(centres.geometric_median, _majority, _MAJORITY, by_distance=True),
        "centred_clipping": Rule(centres.centred_clipping, _majority, _MAJORITY),
        "caf": Rule(centres.caf, _majority, _MAJORITY),
        "krum": Rule(selection.krum, _krum, "n > 2 f + 2"),
        "multi_krum": Rule(selection.multi_krum, _krum, "n > 2 f + 2"),
        "bulyan": Rule(selection.bulyan, lambda n, f: n >= 4 * f + 3, "n >= 4 f + 3", by_coordinate=True),
        "monna": Rule(selection.monna, _majority, _MAJORITY),
        "mda": Rule(selection.mda, _subsets, _FEW),
        "smea": Rule(selection.smea, _subsets, _FEW),
    }
)
STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "nnm": Step(preaggregation.nnm),
        "bucketing": Step(
            preaggregation.bucketing, number="size", rows=lambda n, size: preaggregation.buckets_of(n, size or 2)
        ),
        "static_clipping": Step(preaggregation.static_clipping, number="radius", needs_number=True),
        "arc": Step(preaggregation.arc),
    }
)


@dataclass(frozen=True)
class Chain:
    """A parsed name: steps and their numbers (0 for none), then the rule and its number."""

    name: str
    steps: tuple[tuple[str, float], ...]
    rule: str
    number: float

    @property
    def by_coordinate(self) -> bool:
        """Whether the last rule gives each coordinate other shares."""
        return RULES[self.rule].by_coordinate

    @property
    def by_distance(self) -> bool:
        """Whether the last rule gives noisier rows less by itself."""
        return RULES[self.rule].by_distance

    def check_feasible(self, n: int, f: int) -> None:
        """Raise `AggregationError` with both numbers when the chain cannot stand f liars of n banks."""
        rows = n
        for name, number in self.steps:
            if not _majority(rows, f):
                raise AggregationError(f"{self.name}, at {name}: expected {_MAJORITY}, got n = {rows}, f = {f}")
            rows = STEPS[name].rows(rows, number)
        rule = RULES[self.rule]
        if f < 0 or not rule.stands(rows, f):
            after = "" if rows == n else f" (of {n} banks)"
            raise AggregationError(f"{self.name}: expected {rule.condition}, got n = {rows}{after}, f = {f}")
        if self.number and self.rule == "trimmed_mean" and self.number < f / rows:
            raise AggregationError(
                f"{self.name}: expected trim >= f / n, or {f} of {rows} liars are not cut; got trim = {self.number}"
            )

    def mixed(self, updates: Updates | Mixture, weights: Floats | None, f: int) -> tuple[Mixture, Floats]:
        """The rows and weights that the steps make."""
        mixture = mixture_of(updates)
        shares = normalised(weights, len(mixture))
        for name, number in self.steps:
            step = STEPS[name]
            mixture, shares = _with_number(step.apply, step.number, number)(mixture, shares, f)
        return mixture, shares

    def concluded(self, mixture: Mixture, weights: Floats, f: int) -> Aggregate:
        """What the last rule makes of them."""
        rule = RULES[self.rule]
        made = _with_number(rule.apply, rule.number, self.number)(mixture, weights, f)
        assert isinstance(made, Aggregate)
        return made


def _with_number(apply: Callable[..., Any], keyword: str, number: float) -> Callable[..., Any]:
    if not number:
        return apply
    return partial(apply, **{keyword: int(number) if keyword == "size" else number})


def chain(name: str) -> Chain:
    """Parse a name. Raises `AggregationError` for an unknown part, or a number that is missing, not positive or unwanted.

    >>> chain("bucketing:3+trimmed_mean:0.35").steps
    (('bucketing', 3.0),)
    """
    if len(name) > MAX_NAME:
        raise AggregationError(f"aggregation rule: expected a name of at most {MAX_NAME} characters, got {len(name)}")
    *steps, rule = (_parsed(part) for part in name.split("+"))
    for part, number in steps:
        if part not in STEPS:
            raise AggregationError(f"before a rule: expected a step of {', '.join(STEPS)}, got {part!r}")
        _check_number(part, number, STEPS[part].number, needed=STEPS[part].needs_number)
    if rule[0] not in RULES:
        raise AggregationError(f"aggregation: expected a rule of {', '.join(RULES)}, got {rule[0]!r}")
    _check_number(*rule, RULES[rule[0]].number, needed=False)
    return Chain(name, tuple(steps), *rule)


def _parsed(part: str) -> tuple[str, float]:
    name, colon, number = part.partition(":")
    try:
        return name, float(number) if colon else 0.0
    except ValueError:
        raise AggregationError(f"{name}: expected a number after the colon, got {number!r}") from None


def _check_number(part: str, number: float, keyword: str, *, needed: bool) -> None:
    if number and not keyword:
        raise AggregationError(f"{part}: expected no number, got {number}")
    if needed and not number:
        raise AggregationError(f"{part}: expected a {keyword} after a colon, as in {part}:2.5; got none")
    limits = {"trim": 0.5, "size": 1e6}.get(keyword, np.inf)
    if (number and not 0 < number < limits) or (keyword == "size" and number != int(number)):
        raise AggregationError(f"{part}: expected a {keyword} above 0 and below {limits:g}, got {number}")


def check_feasible(name: str, banks: int, byzantine: int) -> None:
    """Raise `AggregationError` with both numbers when the chain cannot stand `byzantine` liars of `banks`."""
    chain(name).check_feasible(banks, byzantine)


def aggregate(name: str, updates: npt.ArrayLike, weights: npt.ArrayLike | None = None, f: int = 0) -> Aggregate:
    """Apply a chain by name to `updates` [n, d]: vector [d], shares [n] and what the rule saw.

    float32 updates are read as they are (never copied whole), others as float64; `weights` [n] > 0, equal for None. Inputs
    are never overwritten. The same set of rows gives the same bytes in whatever order they come, on whatever processor.

    Raises:
        AggregationError: another name, an infeasible (n, f), shapes that do not fit, a value not finite, a weight not
            positive.

    >>> result = aggregate("arc+nnm+geometric_median", [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [-50.0, 80.0]], f=1)
    >>> result.vector.round(3).tolist(), result.shares.round(3).tolist()
    ([0.375, 0.867], [0.399, 0.199, 0.399, 0.003])
    """
    parsed = chain(name)
    rows = np.asarray(updates)
    rows = rows if rows.dtype == np.float32 else rows.astype(np.float64, copy=False)
    banks = len(mixture_of(rows))
    parsed.check_feasible(banks, f)
    own = np.ones(banks) if weights is None else np.asarray(weights, dtype=np.float64)
    normalised(own, banks)
    order = row_order(rows, own)
    return in_order(parsed.concluded(*parsed.mixed(Mixture(Rows(rows, order)), own[order], f), f), order)


def row_order(updates: Updates, weights: Floats) -> npt.NDArray[np.intp]:
    """An order [n] of the rows that follows from their weights and contents alone; equal rows stay as they came."""
    rank = np.unique(weights, return_inverse=True)[1]
    start, length = 0, 8
    while start < updates.shape[1] and rank.max() + 1 < len(rank):
        block = np.column_stack([rank, updates[:, start : start + length]])
        rank = np.unique(block, axis=0, return_inverse=True)[1].reshape(-1)
        start, length = start + length, 4096
    return np.argsort(rank, kind="stable")


def in_order(result: Aggregate, order: npt.NDArray[np.intp]) -> Aggregate:
    """A result on rows taken in `order`, told in the order in which they came."""
    back = np.argsort(order)
    seen = {what: figures[back] for what, figures in result.seen.items()}
    return replace(result, shares=result.shares[back], seen=seen)
