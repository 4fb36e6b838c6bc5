"""The mailbox: an object store that keeps a promise, and the one place where its keys are made.

The promise is write-once: of all writers of a key exactly one wins, and what it wrote stays. Not every server keeps it
(three of six tried overwrote silently), so a store proves itself before anybody trusts it: `prove_write_once`.
Implementations: `MemoryStore` here, for tests and simulations; `S3Store` in `s3.py`.

    public/...            written by the coordinator, read by everybody
    from/<bank>/...       written by that bank, read by it and the coordinator
"""

from __future__ import annotations

import re
import threading
from typing import Protocol

from mintmark.errors import ConflictError, ProtocolError, StorageError, TooLargeError

CHAMPIONS = "public/champions/"
CHAMPION_KEY = re.compile(r"public/champions/([0-9]{6})")
PLAN_KEY = re.compile(r"public/campaigns/([a-z0-9][a-z0-9-]{0,39})/plans/([0-9]{4})-([0-9]{2})")


class ObjectStore(Protocol):
    """Three operations are the whole interface. Each raises `StorageError` when the store cannot be reached."""

    def get(self, key: str, *, max_bytes: int) -> bytes | None:
        """The object, or None. Raises `TooLargeError` when it is longer than `max_bytes`; no more than that is read."""
        ...

    def put_once(self, key: str, data: bytes) -> bool:
        """Write unless the key exists; says whether this call wrote it."""
        ...

    def list(self, prefix: str) -> list[str]:
        """The keys under `prefix`, sorted."""
        ...


class MemoryStore:
    """An `ObjectStore` in a dictionary."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: str, *, max_bytes: int) -> bytes | None:
        data = self._objects.get(key)
        if data is not None and len(data) > max_bytes:
            raise TooLargeError(f"{key}: expected at most {max_bytes} bytes, got {len(data)}")
        return data

    def put_once(self, key: str, data: bytes) -> bool:
        with self._lock:
            if key in self._objects:
                return False
            self._objects[key] = data
            return True

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in self._objects if key.startswith(prefix))


def prove_write_once(store: ObjectStore, key: str) -> None:
    """Write `key` twice; raise `StorageError` unless the first write stays. `key` must be new (a nonce in it)."""
    first = store.put_once(key, b"first")
    second = store.put_once(key, b"second")
    if not first or second or store.get(key, max_bytes=16) != b"first":
        raise StorageError(
            f"the object store does not keep write-once: expected the second write of {key} to be refused with 412, "
            "got it accepted. Use a server that honours If-None-Match (Amazon S3, MinIO, ministack)"
        )


def put_same(store: ObjectStore, key: str, data: bytes) -> None:
    """Write `key`, or find that it already holds just these bytes. Raises `ConflictError` when it holds others."""
    if not store.put_once(key, data) and store.get(key, max_bytes=len(data)) != data:
        raise ConflictError(
            f"{key} already holds other bytes: two coordinators at work, or another campaign of this name"
        )


def get_required(store: ObjectStore, key: str, *, max_bytes: int) -> bytes:
    """The object. Raises `ProtocolError` when there is none."""
    data = store.get(key, max_bytes=max_bytes)
    if data is None:
        raise ProtocolError(f"mailbox: expected an object at {key}, got none")
    return data


def roster_key(version: int) -> str:
    return f"public/rosters/{version:06d}"


def plan_key(campaign: str, round: int, attempt: int) -> str:
    return f"public/campaigns/{campaign}/plans/{round:04d}-{attempt:02d}"


def model_key(campaign: str, model_digest: str) -> str:
    return f"public/campaigns/{campaign}/models/{model_digest}"


def manifest_key(campaign: str, round: int, attempt: int) -> str:
    return f"public/campaigns/{campaign}/manifests/{round:04d}-{attempt:02d}"


def report_key(campaign: str, round: int, attempt: int) -> str:
    return f"public/campaigns/{campaign}/reports/{round:04d}-{attempt:02d}"


def evaluation_key(campaign: str) -> str:
    return f"public/campaigns/{campaign}/evaluation"


def registration_key(campaign: str) -> str:
    return f"public/campaigns/{campaign}/registration"


def champion_key(number: int) -> str:
    return f"{CHAMPIONS}{number:06d}"


def approval_prefix(campaign: str, replaces: int) -> str:
    """All that people said to making this campaign's model the champion after champion `replaces`."""
    return f"public/approvals/{campaign}/{replaces:06d}/"


def decision_key(number: int) -> str:
    return f"public/decisions/{number:06d}"


def update_key(bank: str, campaign: str, round: int, attempt: int) -> str:
    return f"from/{bank}/{campaign}/{round:04d}-{attempt:02d}"


def bank_prefix(bank: str) -> str:
    """All a bank may write."""
    return f"from/{bank}/"


def pool_name(bank: str) -> str:
    """The Prefect work pool in which a bank's bell rings."""
    return f"mintmark-{bank}"
