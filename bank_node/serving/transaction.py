"""One payment as JSON, checked against the agreed schema: every feature by name, null where it is missing, nothing else.

Sentences name fields, never their values. Out of bounds means: outside what the consortium agreed on. Training clips such
values to the bounds and takes unknown words for missing; a service that gets them is more often asked in the wrong unit, so
they are refused unless `clip` says to do as in training.

    payment = read_transaction(schema, b'{"amount": 12.5, "channel": "online", "hour": null}')
    payment.features   # [1, F], as models take them
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mintmark.errors import DataError
from mintmark.schema import Feature, FeatureKind, FeatureSchema

MAX_BODY_BYTES = 64 * 1024


@dataclass(frozen=True, eq=False)
class Payment:
    """`features` [1, F] in the agreed form, and the names of those that were brought within their bounds."""

    features: npt.NDArray[np.float64]
    outside: tuple[str, ...]


def read_transaction(schema: FeatureSchema, body: bytes, *, clip: bool = False) -> Payment:
    """The payment of a request. Raises `DataError` with one sentence: what was expected where, and what kind was got."""
    values = _parse(body)
    if unknown := sorted(values.keys() - set(schema.names)):
        raise DataError(f"expected only the fields {', '.join(schema.names)}, got {', '.join(unknown)[:100]!r} as well")
    if missing := [name for name in schema.names if name not in values]:
        raise DataError(f"expected the field {missing[0]}, got none: say null where a value is missing")
    features, outside = np.empty((1, len(schema.features))), []
    for column, feature in enumerate(schema.features):
        number, beyond = _value(feature, values[feature.name])
        if beyond and not clip:
            raise DataError(f"field {feature.name}: expected {_allowed(feature)}, got another value")
        features[0, column] = number
        if beyond:
            outside.append(feature.name)
    return Payment(features, tuple(outside))


def _parse(body: bytes) -> Mapping[str, Any]:
    if len(body) > MAX_BODY_BYTES:
        raise DataError(f"expected at most {MAX_BODY_BYTES} bytes, got more")
    try:
        value = json.loads(body, object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise DataError("expected one JSON object of the agreed fields, each once, got something else") from None
    if not isinstance(value, dict):
        raise DataError("expected one JSON object of the agreed fields, got another kind of value")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name twice")
    return values


def _refuse(_: str) -> NoReturn:
    raise ValueError("NaN and infinity are no JSON")


def _value(feature: Feature, value: object) -> tuple[float, bool]:
    """The feature's number, NaN for missing, and whether it was outside the bounds or words agreed on."""
    if value is None:
        return math.nan, False
    if feature.kind is FeatureKind.CATEGORY:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataError(f"field {feature.name}: expected {_allowed(feature)}, got {_kind(value)}")
        word = str(value)
        return (float(feature.categories.index(word)), False) if word in feature.categories else (math.nan, True)
    if isinstance(value, bool) or not isinstance(value, int | float) or value in (math.inf, -math.inf):
        raise DataError(f"field {feature.name}: expected {_allowed(feature)}, got {_kind(value)}")
    if feature.kind is FeatureKind.INTEGER and value != value // 1:
        raise DataError(f"field {feature.name}: expected {_allowed(feature)}, got a fraction")
    return float(min(max(value, feature.lower), feature.upper)), not feature.lower <= value <= feature.upper


def _allowed(feature: Feature) -> str:
    if feature.kind is FeatureKind.CATEGORY:
        words = ", ".join(feature.categories[:8])
        return f"one of {words}{', ...' if len(feature.categories) > 8 else ''}, or null"
    what = "a whole number" if feature.kind is FeatureKind.INTEGER else "a number"
    return f"{what} from {feature.lower:g} to {feature.upper:g}, or null"


def _kind(value: object) -> str:
    names = {bool: "true or false", str: "text", dict: "an object", list: "a list", float: "a number", int: "a number"}
    return names.get(type(value), "another kind of value")
