"""Figures that can be traced: each says in which signed record it stands, and where in it.

A figure is `{"value": v, "key": k, "sha256": h, "pointer": p}`: the mailbox holds under k bytes of digest h, signed by the
coordinator, in whose payload the JSON pointer p (RFC 6901) leads to v. What follows from figures by a formula names the
formula and its inputs, and is computed again. In a pack of evidence no number stands in any other way, so that checking it
needs the mailbox and the coordinator's public key, and nobody's word. Text is text: nobody vouches for it here.

>>> source = Source("public/example", "0" * 64, {"weeks": {"2026/w1": {"low": 0.3}}})
>>> source.figure("weeks", "2026/w1", "low")["pointer"]
'/weeks/2026~1w1/low'
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mintmark.aggregation.report import ALARM, REPORT_TYPE
from mintmark.canonical import digest, read_canonical
from mintmark.champion import CHAMPION_TYPE
from mintmark.decision import DECISION_TYPE
from mintmark.drift import feature_drifts, score_drifts
from mintmark.envelope import verify
from mintmark.errors import DataError, ProtocolError, StorageError
from mintmark.evaluation_record import EVALUATION_TYPE
from mintmark.mailbox import ObjectStore, get_required
from mintmark.plan import PLAN_TYPE
from mintmark.privacy.meaning import advantage, gaussian_advantage
from mintmark.round import MANIFEST_TYPE

MAX_RECORD_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
FORMULAS: dict[str, Callable[..., Any]] = {
    "advantage": advantage,
    "gaussian_advantage": gaussian_advantage,
    "release_mu": lambda clipping_norm, noise_scale: clipping_norm / noise_scale if noise_scale else math.inf,
    "alarm": lambda: ALARM,
    "score_drift": score_drifts,  # counts and noise before, and after
    "feature_drift": feature_drifts,
}
_CAMPAIGN = r"public/campaigns/[a-z0-9-]{1,40}"
_TYPES = {
    rf"{_CAMPAIGN}/plans/[0-9-]+": PLAN_TYPE,
    rf"{_CAMPAIGN}/manifests/[0-9-]+": MANIFEST_TYPE,
    rf"{_CAMPAIGN}/reports/[0-9-]+": REPORT_TYPE,
    rf"{_CAMPAIGN}/evaluation": EVALUATION_TYPE,
    r"public/decisions/[0-9]+": DECISION_TYPE,
    r"public/champions/[0-9]+": CHAMPION_TYPE,
}
_FIGURE, _DERIVED = {"value", "key", "sha256", "pointer"}, {"value", "formula", "inputs"}

Figure = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Source:
    """A signed record of the mailbox: its key, the SHA-256 of the signed message, and what it says."""

    key: str
    sha256: str
    payload: dict[str, Any]

    def figure(self, *path: str | int) -> Figure:
        """What stands at that path, with its provenance. Raises `ProtocolError` when nothing does."""
        pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
        return {"value": pick(self.payload, pointer), "key": self.key, "sha256": self.sha256, "pointer": pointer}


def open_source(store: ObjectStore, key: str, coordinator_key: bytes) -> Source:
    """A record, verified. Raises `ProtocolError` when there is none, it is not the coordinator's, or its key names no
    kind of record."""
    for pattern, payload_type in _TYPES.items():
        if re.fullmatch(pattern, key):
            message = get_required(store, key, max_bytes=MAX_RECORD_BYTES)
            payload = verify(message, payload_type, coordinator_key, max_bytes=MAX_RECORD_BYTES)
            return Source(key, digest(message), read_canonical(payload, what=key, max_bytes=MAX_RECORD_BYTES))
    raise ProtocolError(f"expected the key of a signed record, got {key[:100]!r}")


def pick(payload: Any, pointer: str) -> Any:
    """What a JSON pointer leads to. Raises `ProtocolError` when it leads nowhere.

    >>> pick({"checks": [{"got": 0.5}]}, "/checks/0/got")
    0.5
    """
    found = payload
    for part in pointer.split("/")[1:]:
        step = part.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ProtocolError(f"expected something at {pointer[:200]}, got nothing") from None
    return found


def derived(formula: str, *inputs: Figure) -> Figure:
    """A figure that follows from others by a formula of `FORMULAS`; its value is None where an input is."""
    return {"value": _compute(formula, inputs), "formula": formula, "inputs": list(inputs)}


def problems_of(pack: Any, store: ObjectStore, coordinator_key: bytes) -> tuple[int, list[str]]:
    """How many figures a pack holds, and a sentence for each that is not what its record says, or has none."""
    sources: dict[str, Source | ProtocolError | StorageError] = {}
    count, problems = 0, []
    for where, found in _figures(pack, "", 0):
        count += 1
        problem = _problem(found, store, coordinator_key, sources)
        if problem:
            problems.append(f"{where or '/'}: {problem}")
    return count, problems


def _problem(
    found: Any, store: ObjectStore, key: bytes, sources: dict[str, Source | ProtocolError | StorageError]
) -> str | None:
    if not isinstance(found, dict):
        return f"expected every number to name its record, got {str(found)[:40]} alone"
    if found.keys() == _DERIVED:
        try:
            same = _same(_compute(found["formula"], found["inputs"]), found["value"])
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, DataError):
            return "expected a known formula and its inputs, got others"
        return None if same else "expected what the formula gives, got another value"
    where = str(found["key"])
    if where not in sources:
        try:
            sources[where] = open_source(store, where, key)
        except (ProtocolError, StorageError) as error:
            sources[where] = error
    source = sources[where]
    if not isinstance(source, Source):
        return str(source)
    if source.sha256 != found["sha256"]:
        return f"expected {where} to have the digest that the figure names, got {source.sha256}"
    try:
        value = pick(source.payload, str(found["pointer"]))
    except ProtocolError as error:
        return str(error)
    return None if value == found["value"] else f"expected what {where} says at {found['pointer']}, got another value"


def _figures(part: Any, where: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Every figure, and every number or truth value without provenance; inputs of formulas too."""
    if depth > MAX_DEPTH or isinstance(part, int | float) or (isinstance(part, dict) and part.keys() == _FIGURE):
        yield where, part
    elif isinstance(part, dict):
        if part.keys() == _DERIVED:
            yield where, part
            part = {"inputs": part["inputs"]}
        for name, inner in part.items():
            yield from _figures(inner, f"{where}/{name}", depth + 1)
    elif isinstance(part, list):
        for place, inner in enumerate(part):
            yield from _figures(inner, f"{where}/{place}", depth + 1)


def _compute(formula: str, inputs: Any) -> Any:
    values = [figure["value"] for figure in inputs]
    found = None if None in values else FORMULAS[formula](*values)
    return None if isinstance(found, float) and not math.isfinite(found) else found


def _same(one: Any, other: Any) -> bool:
    """Equal, numbers to nine digits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)
