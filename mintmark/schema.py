"""The features a consortium agreed on: names, kinds, units, public bounds, and the public grid that follows from them.

The grid must not depend on anybody's data: histograms are counted on it, and the thresholds of every tree are its edges.
A value x is left of an edge e when x <= e, as in LightGBM. The names of the columns that hold the label, the customer,
the bank, the time and the test flag, and the SQL that derives the columns, belong to one bank's file: the digest leaves
them out. Reading tables is in `table.py`.

    schema = parse_schema(Path("examples/uci_default.toml").read_text())
    schema.digest()            # what a plan names
    schema.features[0].grid()  # at most 254 edges: at most 255 cells and one for missing values, a byte
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mintmark.canonical import canonical_json, digest
from mintmark.errors import DataError

MAX_EDGES = 254  # with the cells around them and one for missing values, a row's cell is one byte
MAX_FEATURES = 512
MAX_CATEGORIES = 200
MAX_GROUPS, MAX_GROUPED = 8, 2  # words of a feature that divides customers, missing included; and such features
MAX_SCHEMA_CHARS = 1_000_000
MAX_BOUND = 1e15  # whole numbers and their halves are exact in float64 up to 2**52
MIN_WIDTH = 1e-9
LOG_DECADES = 6  # a log grid from zero starts this many decades under its upper bound

_FEATURE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SCHEMA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SCHEMA_KEYS = dict.fromkeys(("name", "label", "customer", "bank", "test", "query", "time", "value"), str) | {
    "features": list,
    "value_limit": float,
}
_OPTIONAL_KEYS = {"query", "time", "value", "value_limit"}
_FEATURE_KEYS = dict.fromkeys(("name", "kind", "scope", "unit", "monotone"), str) | {
    "lower": float,
    "upper": float,
    "categories": list,
    "fairness": bool,
    "fairness_edges": list,
}
_Member = TypeVar("_Member", bound=StrEnum)


class FeatureKind(StrEnum):
    """How the public grid covers a feature."""

    LINEAR = "linear"
    LOG = "log"
    INTEGER = "integer"
    CATEGORY = "category"


class Scope(StrEnum):
    """Which rows a feature looks at, and so which privacy unit covers it.

    `ROW`: its own row. `CUSTOMER`: other rows of the same customer; needs the customer as the unit. `ENTITY`: rows of
    other customers (a merchant's history); no unit covers it, so a plan that uses it in a released model is refused.
    """

    ROW = "row"
    CUSTOMER = "customer"
    ENTITY = "entity"


class Monotone(StrEnum):
    """How the model's score may move when a feature grows and all else stays: never down, or never up."""

    INCREASING = "increasing"
    DECREASING = "decreasing"


@dataclass(frozen=True)
class Feature:
    """One agreed column. `lower` and `upper` are public knowledge, never a bank's minimum or maximum.

    A category has `categories` (2 to 200 words of printable ASCII) and bounds 0 and len(categories) - 1: the codes.
    `monotone` binds every model made with the schema; categories have no order that it could follow. `fairness` asks
    evaluations how the model does for each of the feature's groups of customers: its categories, or its numbers up to and
    over each of `fairness_edges`.
    Raises `DataError` when the parts contradict each other.
    """

    name: str
    kind: FeatureKind
    lower: float
    upper: float
    scope: Scope = Scope.ROW
    unit: str = ""
    categories: tuple[str, ...] = ()
    monotone: Monotone | None = None
    fairness: bool = False
    fairness_edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "lower", float(self.lower) + 0.0)  # -0.0 becomes 0.0: one schema, one digest
        object.__setattr__(self, "upper", float(self.upper) + 0.0)
        object.__setattr__(self, "fairness_edges", tuple(float(edge) for edge in self.fairness_edges))
        _check_match(_FEATURE_NAME, self.name, "a feature's name")
        if not (len(self.unit) <= 32 and self.unit.isascii() and self.unit.isprintable()):
            raise DataError(f"feature {self.name}: expected a unit of at most 32 printable ASCII characters")
        self._check_bounds()
        if self.kind is FeatureKind.CATEGORY:
            self._check_categories()
        elif self.categories:
            raise DataError(f"feature {self.name}: expected no categories for kind {self.kind}, got some")
        self._check_groups()

    def grid(self) -> npt.NDArray[np.float64]:
        """The public edges, [m] float64, strictly increasing, lower <= edge < upper, 1 <= m <= 254.

        A linear or log grid begins at `lower` itself, so that what is clipped there has a cell of its own. A log grid
        from zero begins six decades under `upper`: a feature that is mostly zero keeps its zeros together.
        """
        match self.kind:
            case FeatureKind.LINEAR:
                edges = np.linspace(self.lower, self.upper, MAX_EDGES + 1)
            case FeatureKind.LOG:
                edges = np.geomspace(self.lower or self.upper / 10**LOG_DECADES, self.upper, MAX_EDGES + 1)
            case FeatureKind.INTEGER | FeatureKind.CATEGORY:
                return self.lower - 0.5 + _thinned(int(self.upper - self.lower))
        # Logarithms differ in the last bit between machines; twelve digits are the same on all, and readable in a tree.
        rounded = np.array([float(f"{edge:.12g}") for edge in edges[:-1]])
        rounded = np.unique(np.maximum(rounded, self.lower))
        return rounded[rounded < self.upper]

    def _check_bounds(self) -> None:
        low, high = self.lower, self.upper
        if not (math.isfinite(low) and math.isfinite(high) and max(abs(low), abs(high)) <= MAX_BOUND):
            raise DataError(f"feature {self.name}: expected finite bounds within {MAX_BOUND:g}, got {low} and {high}")
        if high - low < MIN_WIDTH:
            raise DataError(f"feature {self.name}: expected lower < upper by {MIN_WIDTH:g} or more, got {low}, {high}")
        if self.kind is FeatureKind.LOG and low < 0:
            raise DataError(f"feature {self.name}: expected lower >= 0 for a log grid, got {low}")
        if self.kind is FeatureKind.INTEGER and not (low.is_integer() and high.is_integer()):
            raise DataError(f"feature {self.name}: expected whole bounds for kind integer, got {low} and {high}")

    def _check_categories(self) -> None:
        words = self.categories
        if self.monotone:
            raise DataError(f"feature {self.name}: expected no monotone for kind category, got {self.monotone}")
        if not 2 <= len(words) <= MAX_CATEGORIES or len(set(words)) != len(words):
            raise DataError(f"feature {self.name}: expected 2 to {MAX_CATEGORIES} different categories, got {words}")
        if not all(word and word.isascii() and word.isprintable() and " " not in word for word in words):
            raise DataError(f"feature {self.name}: expected categories of printable ASCII without spaces, got {words}")
        if (self.lower, self.upper) != (0, len(words) - 1):
            raise DataError(
                f"feature {self.name}: expected the bounds 0 and {len(words) - 1} of its {len(words)} categories, "
                f"got {self.lower} and {self.upper}"
            )

    def _check_groups(self) -> None:
        edges, category = self.fairness_edges, self.kind is FeatureKind.CATEGORY
        if bool(edges) != (self.fairness and not category):
            raise DataError(
                f"feature {self.name}: expected fairness_edges for numbers with fairness = true, and no others"
            )
        if list(edges) != sorted(set(edges)) or not all(self.lower <= edge < self.upper for edge in edges):
            raise DataError(f"feature {self.name}: expected ascending fairness_edges within its bounds, got {edges}")
        groups = 1 + (len(self.categories) if category else len(edges) + 1)
        if self.fairness and groups > MAX_GROUPS:
            raise DataError(f"feature {self.name}: expected at most {MAX_GROUPS} groups with fairness, got {groups}")


@dataclass(frozen=True)
class FeatureSchema:
    """The agreement (`name`, `features`, `value`) and how one bank's file names the rest. Raises `DataError`.

    `query` is optional SQL over the table `input` that derives all columns; it stays local. `time` is the column that
    holds the day or time of each row, for evaluations by week; empty: there is none. `value` names the feature that is the
    money of a row, if one is; evaluations count it up to `value_limit`, the feature's upper bound when 0.
    """

    name: str
    features: tuple[Feature, ...]
    label: str
    customer: str
    bank: str
    test: str
    query: str = ""
    time: str = ""
    value: str = ""
    value_limit: float = 0.0

    def __post_init__(self) -> None:
        _check_match(_SCHEMA_NAME, self.name, "the schema's name")
        if not 1 <= len(self.features) <= MAX_FEATURES:
            raise DataError(f"schema {self.name}: expected 1 to {MAX_FEATURES} features, got {len(self.features)}")
        roles = {role: getattr(self, role) for role in ("label", "customer", "bank", "test")}
        roles |= {"time": self.time} if self.time else {}
        for role, column in roles.items():
            _check_match(_COLUMN_NAME, column, f"the {role} column")
        columns = [column.lower() for column in (*self.names, *roles.values())]  # SQL does not tell cases apart
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise DataError(f"schema {self.name}: expected every column once, got {', '.join(twice)} more than once")
        if not all(character.isprintable() or character in "\n\t" for character in self.query):
            raise DataError(f"schema {self.name}: expected a query of printable text, got control characters")
        if (grouped := sum(feature.fairness for feature in self.features)) > MAX_GROUPED:
            raise DataError(f"schema {self.name}: expected fairness of at most {MAX_GROUPED} features, got {grouped}")
        self._check_value()

    def _check_value(self) -> None:
        if not self.value:
            if self.value_limit:
                raise DataError(
                    f"schema {self.name}: expected no value_limit without a value, got {self.value_limit:g}"
                )
            return
        feature = next((feature for feature in self.features if feature.name == self.value), None)
        if feature is None or feature.kind is FeatureKind.CATEGORY or feature.lower < 0:
            raise DataError(
                f"schema {self.name}: expected value to name a feature of numbers from 0, got {self.value!r}"
            )
        object.__setattr__(self, "value_limit", float(self.value_limit) or feature.upper)
        if not MIN_WIDTH <= self.value_limit <= feature.upper:
            raise DataError(
                f"schema {self.name}: expected a value_limit up to {feature.upper:g}, got {self.value_limit}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names, in the order of the table's columns."""
        return tuple(feature.name for feature in self.features)

    def canonical_bytes(self) -> bytes:
        """What the consortium agreed on, as compact JSON with sorted keys: the name and the features, in order, and what
        evaluations count besides rows."""
        value = {"value": self.value, "value_limit": self.value_limit} if self.value else {}
        return canonical_json({"name": self.name, "features": [_agreed(feature) for feature in self.features], **value})

    def digest(self) -> str:
        """SHA-256 of `canonical_bytes`, hex."""
        return digest(self.canonical_bytes())


@lru_cache(maxsize=8)
def public_edges(schema: FeatureSchema) -> npt.NDArray[np.float64]:
    """All features' grids: [F, 256] float64, each ascending and then +inf; only +inf for categories. Read only."""
    edges = np.full((len(schema.features), MAX_EDGES + 2), np.inf)
    for row, feature in zip(edges, schema.features, strict=True):
        if feature.kind is not FeatureKind.CATEGORY:
            grid = feature.grid()
            row[: len(grid)] = grid
    edges.setflags(write=False)
    return edges


def parse_schema(text: str) -> FeatureSchema:
    """Read a schema from TOML (see `examples/`). Raises `DataError` on anything unknown, missing or contradictory."""
    if len(text) > MAX_SCHEMA_CHARS:
        raise DataError(f"expected a schema of at most {MAX_SCHEMA_CHARS} characters, got {len(text)}")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: not TOML, or a number of too many digits
        raise DataError(f"expected a schema in TOML, got text that is not: {error}") from None
    values = _read(document, "the schema", _SCHEMA_KEYS, optional=_OPTIONAL_KEYS)
    values["features"] = tuple(_parse_feature(item) for item in values["features"])
    return FeatureSchema(**values)


def dump_schema(schema: FeatureSchema) -> str:
    """Write `schema` as TOML that `parse_schema` reads back to an equal value."""
    lines = [f"{role} = {json.dumps(getattr(schema, role))}" for role in ("name", "label", "customer", "bank", "test")]
    lines += [f"{role} = {json.dumps(getattr(schema, role))}" for role in ("time", "value") if getattr(schema, role)]
    lines += [f"value_limit = {schema.value_limit!r}"] if schema.value else []
    if schema.query:
        escaped = schema.query.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'query = """\n{escaped}"""')
    lines.append("features = [")
    for feature in schema.features:
        values = _agreed(feature)
        if feature.kind is FeatureKind.CATEGORY:
            del values["lower"], values["upper"]
        pairs = (f"{key} = {json.dumps(value)}" for key, value in values.items() if value not in ("", ()))
        lines.append(f"  {{ {', '.join(pairs)} }},")
    return "\n".join([*lines, "]", ""])


def _agreed(feature: Feature) -> dict[str, Any]:
    """A feature's fields; the newer ones only where they are declared, so that older schemas keep their digests."""
    newer = {"monotone": None, "fairness": False, "fairness_edges": ()}
    return {key: value for key, value in asdict(feature).items() if key not in newer or value != newer[key]}


def _parse_feature(item: object) -> Feature:
    if not isinstance(item, dict):
        raise DataError(f"the schema: expected every feature to be a table, got a {type(item).__name__}")
    name = item.get("name")
    where = f"feature {name[:64]!r}" if isinstance(name, str) else "a feature without a name"
    values = _read(item, where, _FEATURE_KEYS, optional=_FEATURE_KEYS.keys() - {"name", "kind"})
    values["kind"] = _member(FeatureKind, values["kind"], where)
    values["scope"] = _member(Scope, values.get("scope", Scope.ROW), where)
    if "monotone" in values:
        values["monotone"] = _member(Monotone, values["monotone"], where)
    edges = values["fairness_edges"] = tuple(values.get("fairness_edges", ()))
    if not all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in edges):
        raise DataError(f"{where}: expected fairness_edges that are all numbers")
    words = values["categories"] = tuple(values.get("categories", ()))
    if not all(isinstance(word, str) for word in words):
        raise DataError(f"{where}: expected categories that are all strings")
    bounds = sorted({"lower", "upper"} & values.keys())
    if values["kind"] is FeatureKind.CATEGORY:
        if bounds:
            raise DataError(
                f"{where}: expected no bounds for kind category, got {' and '.join(bounds)}: leave them out"
            )
        values |= {"lower": 0.0, "upper": len(words) - 1.0}
    elif len(bounds) < 2:
        raise DataError(f"{where}: expected lower and upper, got {' and '.join(bounds) or 'neither'}")
    return Feature(**values)


def _read(item: Mapping[str, Any], where: str, types: Mapping[str, type], optional: AbstractSet[str]) -> dict[str, Any]:
    """The item's values; refuses unknown keys, wrong types, and missing keys that are not optional."""
    if unknown := sorted(item.keys() - types.keys()):
        raise DataError(f"{where}: expected only the keys {', '.join(sorted(types))}, got {str(unknown)[:200]}")
    if missing := sorted(types.keys() - optional - item.keys()):
        raise DataError(f"{where}: expected the keys {', '.join(missing)}, got none")
    for key, value in item.items():
        if types[key] is float:
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_BOUND:
                raise DataError(f"{where}: expected {key} to be a number within {MAX_BOUND:g}, got none such")
        elif not isinstance(value, types[key]):
            raise DataError(f"{where}: expected {key} to be a {types[key].__name__}, got a {type(value).__name__}")
    return dict(item)


def _member(kind: type[_Member], word: str, where: str) -> _Member:
    try:
        return kind(word)
    except ValueError:
        raise DataError(f"{where}: expected one of {', '.join(kind)}, got {word[:40]!r}") from None


def _check_match(pattern: re.Pattern[str], text: str, what: str) -> None:
    if not pattern.fullmatch(text):
        raise DataError(f"expected {what} to match {pattern.pattern}, got {text[:80]!r}")


def _thinned(count: int) -> npt.NDArray[np.float64]:
    """The offsets 1..count, or MAX_EDGES of them: every one at first, then geometrically sparser, ending at count."""
    if count <= MAX_EDGES:
        return np.arange(1, count + 1, dtype=np.float64)
    offsets = [1]
    for left in range(MAX_EDGES - 1, 0, -1):
        last = offsets[-1]
        offsets.append(max(last + 1, round(last * (count / last) ** (1 / left))))
    return np.array(offsets, dtype=np.float64)
