"""Which model banks should score with: the coordinator's signed word, in the mailbox, so that nobody needs MLflow for it.

Every promotion and every rollback publishes one more record, numbered from 1: a rollback is a new record that names an
older model. Whoever has seen record n refuses a mailbox whose newest is older (`seen`). The record names the model by
digest and the signed decision behind it by digest, so whoever holds it can check both.

    champion = newest_champion(store, coordinator_key, seen=3)   # None when nothing was ever promoted
    champion.campaign, champion.model_digest
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from mintmark.agreed import Digest, Name, SignedRecord
from mintmark.errors import ProtocolError
from mintmark.mailbox import CHAMPION_KEY, CHAMPIONS, ObjectStore, champion_key, get_required

CHAMPION_TYPE = "application/x-mintmark-champion"
MAX_CHAMPION_BYTES = 4096
MAX_CHAMPIONS = 999_999  # what six digits number


class Champion(SignedRecord):
    """One promotion or rollback. `decision` is the digest of the signed decision that it follows from."""

    payload_type = CHAMPION_TYPE
    most_bytes = MAX_CHAMPION_BYTES
    number: Annotated[int, Field(ge=1, le=MAX_CHAMPIONS)]
    campaign: Name
    model_digest: Digest
    schema_digest: Digest
    decision: Digest
    promoted_at: AwareDatetime


def newest_champion(store: ObjectStore, coordinator_key: bytes, *, seen: int = 0) -> Champion | None:
    """The champion in force, or None when nothing was promoted yet.

    `seen` is the highest number that the caller has seen. Raises `ProtocolError`: forged, under another record's key, or
    the mailbox was set back to before `seen`.
    """
    numbers = _numbers(store)
    newest = numbers[-1] if numbers else 0
    if newest < seen:
        raise ProtocolError(
            f"champion: expected record {seen} or newer in the mailbox, got {newest or 'none'}: it was set back; "
            "ask the coordinator, and go on with the model in use"
        )
    return _read(store, coordinator_key, newest) if newest else None


def all_champions(store: ObjectStore, coordinator_key: bytes) -> tuple[Champion, ...]:
    """Every record, oldest first. Raises `ProtocolError` as `newest_champion` does, and when one in between is missing."""
    numbers = _numbers(store)
    if numbers != list(range(1, len(numbers) + 1)):
        raise ProtocolError(f"champions: expected the records 1 to {numbers[-1]}, got {len(numbers)} of them")
    return tuple(_read(store, coordinator_key, number) for number in numbers)


def _numbers(store: ObjectStore) -> list[int]:
    numbers = []
    for key in store.list(CHAMPIONS):
        match = CHAMPION_KEY.fullmatch(key)
        if match is None:
            raise ProtocolError(f"champions: expected keys like {champion_key(1)}, got {key[:100]}")
        numbers.append(int(match[1]))
    return sorted(numbers)


def _read(store: ObjectStore, coordinator_key: bytes, number: int) -> Champion:
    key = champion_key(number)
    champion = Champion.read(get_required(store, key, max_bytes=MAX_CHAMPION_BYTES), coordinator_key)
    if champion.number != number:
        raise ProtocolError(f"{key}: expected record {number}, got {champion.number}")
    return champion
