"""Champion records: what a bank believes of the mailbox about which model to score with."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from mintmark.champion import CHAMPION_TYPE, Champion, all_champions, newest_champion
from mintmark.envelope import generate_signer, sign
from mintmark.errors import ProtocolError, TooLargeError
from mintmark.mailbox import MemoryStore, champion_key

SIGNER = generate_signer()
KEY = SIGNER.public_key


def champion(number: int, campaign: str = "cards-1") -> Champion:
    """A sound record."""
    return Champion(
        number=number,
        campaign=campaign,
        model_digest="a" * 64,
        schema_digest="b" * 64,
        decision="c" * 64,
        promoted_at=datetime(2026, 3, 2, 9, tzinfo=UTC),
    )


def mailbox(*champions: Champion) -> MemoryStore:
    """A mailbox with these records under their keys."""
    store = MemoryStore()
    for record in champions:
        store.put_once(champion_key(record.number), record.signed(SIGNER))
    return store


def test_the_newest_record_is_in_force() -> None:
    """A rollback is one more record: the highest number counts, whatever campaign it names."""
    records = (champion(1), champion(2, "cards-2"), champion(3, "cards-1"))
    assert newest_champion(mailbox(*records), KEY) == records[2]
    assert all_champions(mailbox(*records), KEY) == records


def test_an_empty_mailbox_has_no_champion() -> None:
    """Before the first promotion there is none, and that is no error."""
    assert newest_champion(MemoryStore(), KEY) is None
    assert all_champions(MemoryStore(), KEY) == ()


def test_a_mailbox_that_was_set_back_is_refused() -> None:
    """Who has seen record 2 takes 2 and 3, and neither 1 nor nothing."""
    for last in (2, 3):
        records = [champion(number) for number in range(1, last + 1)]
        assert newest_champion(mailbox(*records), KEY, seen=2) == records[-1]
    for store in (mailbox(champion(1)), MemoryStore()):
        with pytest.raises(ProtocolError, match="expected record 2 or newer"):
            newest_champion(store, KEY, seen=2)


def test_forged_records_are_refused() -> None:
    """Another's signature, another type, a changed byte, another record's key, or too many bytes: no champion."""
    payload, sound = champion(1).canonical_bytes(), champion(1).signed(SIGNER)
    for forged in (
        champion(1).signed(generate_signer()),
        sign(SIGNER, CHAMPION_TYPE + "x", payload),
        sound.replace(b"cards-1", b"cards-2"),
        champion(2).signed(SIGNER),
        sound[:-1],
    ):
        store = MemoryStore()
        store.put_once(champion_key(1), forged)
        with pytest.raises(ProtocolError):
            newest_champion(store, KEY)
    store = MemoryStore()
    store.put_once(champion_key(1), bytes(5000))
    with pytest.raises(TooLargeError):
        newest_champion(store, KEY)


def test_a_gap_in_the_past_is_noticed() -> None:
    """Whoever looks at all past champions learns that one is missing."""
    with pytest.raises(ProtocolError, match="expected the records 1 to 3, got 2"):
        all_champions(mailbox(champion(1), champion(3)), KEY)


@pytest.mark.parametrize(
    "changes",
    [{"number": 0}, {"campaign": "../x"}, {"model_digest": "A" * 64}, {"decision": ""}, {"model": "x"}],
)
def test_malformed_records_do_not_exist(changes: dict[str, object]) -> None:
    """Numbers from 1, names and digests of their form, nothing else."""
    with pytest.raises(ValidationError):
        Champion.model_validate(champion(1).model_dump() | changes)
