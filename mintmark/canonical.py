"""Bytes that mean one thing: canonical JSON, its strict reading, and digests.

Canonical here: UTF-8, keys sorted, no spaces, no NaN or infinity, floats as Python's shortest round-trip form. Reading
back refuses whatever would not be written the same way again, so a digest names exactly one value.

>>> canonical_json({"b": 1, "a": [0.5, "x"]})
b'{"a":[0.5,"x"],"b":1}'
>>> read_canonical(b'{"a":[0.5,"x"],"b":1}', what="example", max_bytes=100)["b"]
1
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mintmark.errors import ProtocolError

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def canonical_json(value: Any) -> bytes:
    """The one byte string of a JSON value. Raises `ValueError` for NaN, infinity and what JSON cannot hold."""
    return _ENCODER.encode(value).encode()


def read_canonical(data: bytes, *, what: str, max_bytes: int) -> dict[str, Any]:
    """The JSON object that `data` is the canonical form of. `what` names it in errors.

    Raises:
        ProtocolError: longer than `max_bytes`, not JSON, not an object, or not canonical (duplicate keys included).
    """
    if len(data) > max_bytes:
        raise ProtocolError(f"{what}: expected at most {max_bytes} bytes, got {len(data)}")
    try:
        value = json.loads(data)
        same = isinstance(value, dict) and canonical_json(value) == data
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{what}: expected JSON, got something else ({type(error).__name__})") from None
    if not same:
        raise ProtocolError(f"{what}: expected one canonical JSON object, got another form of it")
    return dict(value)


def digest(data: bytes) -> str:
    """SHA-256 of `data`, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
