"""The roster: who is in, who no longer, and what of an old or forged one is believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mintmark.canonical import canonical_json
from mintmark.envelope import generate_signer, sign
from mintmark.errors import ProtocolError
from mintmark.roster import MAX_ROSTER_BYTES, ROSTER_TYPE, Member, Roster, rows_band

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SIGNER = generate_signer()


def member(bank: str, **changes: object) -> Member:
    """A bank that is in for a day before and after now, with a key of its own."""
    values = {
        "bank": bank,
        "signing_key": (bank.encode().hex() * 64)[:64],
        "rows_band": 1024,
        "valid_from": NOW - timedelta(days=1),
        "valid_until": NOW + timedelta(days=1),
    }
    return Member.model_validate(values | changes)


def roster(*members: Member, version: int = 3) -> Roster:
    """A roster of these banks."""
    return Roster(version=version, sealing_key="e" * 64, members=members)


THREE = roster(
    member("bank-c"),
    member("bank-a"),
    member("bank-b", revoked=True),
)


def test_a_signed_roster_is_read_back() -> None:
    """What the coordinator signed is read with its key, and equal."""
    assert Roster.read(THREE.signed(SIGNER), SIGNER.public_key) == THREE


def test_a_forged_roster_is_refused() -> None:
    """Signed by another, changed, cut, or signed as something else: no roster."""
    message = THREE.signed(SIGNER)
    changed = message.replace(b'"revoked":true', b'"revoked":null')
    assert changed != message
    other_type = sign(SIGNER, ROSTER_TYPE + "x", THREE.canonical_bytes())
    for forged in (THREE.signed(generate_signer()), changed, message[:-1], message + b"\0", other_type, b""):
        with pytest.raises(ProtocolError, match="signed message"):
            Roster.read(forged, SIGNER.public_key)


def test_an_older_roster_is_refused() -> None:
    """Who has seen version 3 takes 3 and 4, and never 2 again."""
    for version in (3, 4):
        assert Roster.read(roster(member("a"), version=version).signed(SIGNER), SIGNER.public_key, newer_than=3)
    with pytest.raises(ProtocolError, match="expected version 3 or newer, got 2"):
        Roster.read(roster(member("a"), version=2).signed(SIGNER), SIGNER.public_key, newer_than=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"revoked": True},
        {"valid_until": NOW},
        {"valid_until": NOW - timedelta(hours=1)},
        {"valid_from": NOW + timedelta(microseconds=1)},
    ],
)
def test_members_that_are_not_valid_are_refused(changes: dict[str, object]) -> None:
    """Revoked, expired (at the very moment) or not yet in: no member, and in no cohort."""
    one = roster(member("bank-a"), member("bank-b", **changes))
    assert one.member("bank-a", NOW).bank == "bank-a"
    with pytest.raises(ProtocolError, match="roster 3: expected bank-b to be a valid member"):
        one.member("bank-b", NOW)
    assert one.valid_banks(NOW) == ("bank-a",)


def test_strangers_are_refused() -> None:
    """A bank that the roster does not name is no member."""
    with pytest.raises(ProtocolError, match="expected bank-x to be a valid member"):
        THREE.member("bank-x", NOW)


def test_a_cohort_is_sorted() -> None:
    """The valid banks come by name, whatever the roster's order."""
    assert THREE.valid_banks(NOW) == ("bank-a", "bank-c")
    assert THREE.valid_banks(NOW + timedelta(days=2)) == ()


@pytest.mark.parametrize(
    "members",
    [
        (member("bank-a"), member("bank-a", signing_key="f" * 64)),
        (member("bank-a"), member("bank-b", signing_key=member("bank-a").signing_key)),
        (),
    ],
)
def test_banks_and_keys_are_there_once(members: tuple[Member, ...]) -> None:
    """One bank twice, one key for two banks, or nobody at all is no roster, neither made nor read."""
    with pytest.raises(ValidationError):
        roster(*members)
    values = THREE.model_dump(mode="json") | {"members": [one.model_dump(mode="json") for one in members]}
    message = sign(SIGNER, ROSTER_TYPE, canonical_json(values))
    with pytest.raises(ProtocolError, match="Roster: field"):
        Roster.read(message, SIGNER.public_key)


@pytest.mark.parametrize(
    "changes",
    [
        {"bank": "Bank"},
        {"bank": "../bank"},
        {"signing_key": "F" * 64},
        {"signing_key": "f" * 62},
        {"rows_band": 0},
        {"rows_band": 2**41},
        {"rows_band": 1.5},
        {"rows_band": "1024"},
        {"revoked": 0},
        {"revoked": None},
        {"valid_from": "2026-03-02"},
        {"valid_until": 1_800_000_000},
        {"more": 1},
    ],
)
def test_members_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    """Unknown, missing, wrong or out of range in any field of a member: a `ProtocolError` even with a sound signature."""
    sound = THREE.members[0].model_dump(mode="json")
    without = {name: value for name, value in sound.items() if name not in changes}
    for value in (sound | changes, without if without != sound else {}):
        values = THREE.model_dump(mode="json") | {"members": [value]}
        with pytest.raises(ProtocolError, match="Roster"):
            Roster.from_bytes(canonical_json(values), max_bytes=MAX_ROSTER_BYTES)


@pytest.mark.parametrize("changes", [{"version": 0}, {"version": True}, {"sealing_key": ""}, {"members": {}}, {"x": 1}])
def test_rosters_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    """The same for the roster's own fields."""
    values = THREE.model_dump(mode="json")
    for value in (values | changes, {name: kept for name, kept in values.items() if name not in changes} | {"x": 1}):
        with pytest.raises(ProtocolError, match="Roster"):
            Roster.from_bytes(canonical_json(value), max_bytes=MAX_ROSTER_BYTES)


@settings(max_examples=100)
@given(st.one_of(st.integers(1, 5000), st.integers(1, 2**40)))
def test_bands_are_the_nearest_power_of_two(rows: int) -> None:
    """A band is a power of two, and within a factor of the square root of two of the rows, compared in integers."""
    band = rows_band(rows)
    assert band & (band - 1) == 0
    assert band**2 <= 2 * rows**2 * (1 + 1e-9)
    assert rows**2 <= 2 * band**2 * (1 + 1e-9)


def test_the_smallest_band_is_one() -> None:
    """A bank without rows is in the band of one."""
    assert rows_band(0) == 1
