"""Campaigns and plans: one spelling, strict reading, terms that are feasible, and which digest names what."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mintmark.canonical import canonical_json, digest
from mintmark.errors import AggregationError, ProtocolError
from mintmark.plan import (
    MAX_PLAN_BYTES,
    AggregationTerms,
    Campaign,
    HeldOutWindow,
    PrivacyTerms,
    PrivacyUnit,
    RoundPlan,
)

NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
PRIVACY = PrivacyTerms(epsilon=4.0, delta=1e-6, unit=PrivacyUnit.CUSTOMER, clip=0.5)
AGGREGATION = AggregationTerms(rule="trimmed_mean", banks=3, byzantine=1, trim=0.34)
CAMPAIGN = Campaign(
    name="cards-7",
    seed=7,
    learner="guided_boosting",
    schema_digest="c" * 64,
    rounds=4,
    privacy=PRIVACY,
    aggregation=AGGREGATION,
    cohort=("bank-a", "bank-b", "bank-c"),
    quorum=3,
    held_out=HeldOutWindow(trained_from=date(2026, 1, 5), first_day=date(2026, 2, 2), weeks=3),
)
PLAN = RoundPlan(
    campaign=CAMPAIGN,
    round=2,
    attempt=1,
    roster_version=5,
    model_digest="a" * 64,
    query_digest="b" * 64,
    noise_scale=2.0**28,
    clipping_norm=2**26,
    opens_at=NINE,
    closes_at=NINE + timedelta(minutes=10),
)
JSON: dict[str, Any] = PLAN.model_dump(mode="json")
At = tuple[str, ...]


def fields(value: dict[str, Any], at: At = ()) -> Iterator[At]:
    """The paths of all fields, nested ones included."""
    for name, inner in value.items():
        yield (*at, name)
        if isinstance(inner, dict):
            yield from fields(inner, (*at, name))


FIELDS = list(fields(JSON))


def parent(value: dict[str, Any], at: At) -> dict[str, Any]:
    """The object that holds a field."""
    for name in at[:-1]:
        value = value[name]
    return value


def changed(at: At, to: object) -> dict[str, Any]:
    """The plan's JSON with another value in one field."""
    other = copy.deepcopy(JSON)
    parent(other, at)[at[-1]] = to
    return other


def read(value: object) -> RoundPlan:
    """The plan of a JSON value."""
    return RoundPlan.from_bytes(canonical_json(value), max_bytes=MAX_PLAN_BYTES)


def test_a_plan_is_read_back() -> None:
    """A plan's canonical bytes are read back to an equal value, and their digest is the plan's."""
    data = PLAN.canonical_bytes()
    assert RoundPlan.from_bytes(data, max_bytes=len(data)) == PLAN
    assert PLAN.digest() == digest(data)
    assert json.loads(data)["format"] == "mintmark/plan/1"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 4),
    st.integers(0, 99),
    st.floats(0, 2.0**59, allow_nan=False),
    st.integers(1, 2**59),
    st.datetimes(datetime(1980, 1, 1), datetime(2200, 1, 1), timezones=st.timezones()),  # noqa: DTZ001
    st.timedeltas(timedelta(microseconds=1), timedelta(days=9)),
)
def test_any_plan_is_read_back(
    round_: int, attempt: int, noise: float, clip: int, opens: datetime, open_for: timedelta
) -> None:
    """Whatever the numbers and the time zone, bytes and value are one and the same."""
    opens = opens.astimezone(timezone(opens.utcoffset() or timedelta(0)))
    plan = RoundPlan.model_validate(
        PLAN.model_dump()
        | {
            "campaign": CAMPAIGN,
            "round": round_,
            "attempt": attempt,
            "noise_scale": noise,
            "clipping_norm": clip,
            "opens_at": opens,
            "closes_at": opens + open_for,
        }
    )
    data = plan.canonical_bytes()
    again = RoundPlan.from_bytes(data, max_bytes=MAX_PLAN_BYTES)
    assert again == plan
    assert again.canonical_bytes() == data


@pytest.mark.parametrize("at", FIELDS, ids=".".join)
def test_a_missing_field_is_refused(at: At) -> None:
    """Every field must be there, those with a default too: bytes have one meaning."""
    other = copy.deepcopy(JSON)
    del parent(other, at)[at[-1]]
    with pytest.raises(ProtocolError, match="RoundPlan"):
        read(other)


@pytest.mark.parametrize("at", [(), ("campaign",), ("campaign", "privacy"), ("campaign", "aggregation")], ids=".".join)
def test_an_unknown_field_is_refused(at: At) -> None:
    """A field that no plan has is refused wherever it is."""
    with pytest.raises(ProtocolError, match=r"RoundPlan: field .*more"):
        read(changed((*at, "more"), 1))


ALLOWED: dict[At, list[object]] = {
    ("campaign", "privacy", "epsilon"): [None, 1.5],
    ("campaign", "privacy", "clip"): [1.5],
    ("noise_scale",): [1.5],
    ("campaign", "name"): ["7"],
    ("campaign", "learner"): ["7"],
    ("campaign", "held_out"): [None],
}


@pytest.mark.parametrize("at", FIELDS, ids=".".join)
def test_a_field_of_another_type_is_refused(at: At) -> None:
    """Null, booleans, texts, numbers, lists and objects where something else belongs are refused, never converted."""
    others: list[object] = [None, True, "?", "7", -7, 1.5, [], ["bank-a"], {}]
    for wrong in others:
        if wrong in ALLOWED.get(at, []):
            continue
        with pytest.raises(ProtocolError, match="RoundPlan"):
            read(changed(at, wrong))


@pytest.mark.parametrize(
    ("at", "wrong"),
    [
        (("format",), "mintmark/plan/2"),
        (("round",), 5),
        (("attempt",), 100),
        (("roster_version",), 0),
        (("model_digest",), "A" * 64),
        (("query_digest",), "b" * 63),
        (("noise_scale",), 2.0**60),
        (("clipping_norm",), 0),
        (("closes_at",), JSON["opens_at"]),
        (("opens_at",), "2026-03-02T09:00:00"),  # no zone
        (("campaign", "name"), "../cards"),
        (("campaign", "name"), "cards\n"),
        (("campaign", "name"), "c" * 41),
        (("campaign", "seed"), 2**63),
        (("campaign", "rounds"), 2),
        (("campaign", "rounds"), 1001),
        (("campaign", "learner"), "os.system"),
        (("campaign", "cohort"), ["bank-b", "bank-a", "bank-c"]),
        (("campaign", "cohort"), ["bank-a", "bank-a", "bank-c"]),
        (("campaign", "cohort"), ["bank-a", "bank-b"]),
        (("campaign", "quorum"), 4),
        (("campaign", "quorum"), 0),
        (("campaign", "quorum"), 2),  # one liar of two
        (("campaign", "privacy", "epsilon"), 0.0),
        (("campaign", "privacy", "epsilon"), 1001.0),
        (("campaign", "privacy", "delta"), 0.01),
        (("campaign", "privacy", "unit"), "nobody"),
        (("campaign", "aggregation", "byzantine"), 2),
        (("campaign", "aggregation", "trim"), 0.5),
        (("campaign", "aggregation", "trim"), 0.3),
        (("campaign", "aggregation", "rule"), "mode"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_values_out_of_range_are_refused(at: At, wrong: object) -> None:
    """Values that contradict the others or leave their range make no plan: a `ProtocolError`, whichever rule they break."""
    with pytest.raises(ProtocolError, match="RoundPlan"):
        read(changed(at, wrong))


def test_other_spellings_are_refused() -> None:
    """The same value written otherwise is refused, so that a digest names one value."""
    data = PLAN.canonical_bytes()
    others = {
        "spaces": json.dumps(JSON, sort_keys=True).encode(),
        "order": json.dumps(dict(reversed(JSON.items())), separators=(",", ":")).encode(),
        "line end": data + b"\n",
        "key twice": data.replace(b'"round":2', b'"round":1,"round":2'),
        "escape": data.replace(b'"cards-7"', b'"\\u0063ards-7"'),
        "whole float": data.replace(b"268435456.0", b"268435456"),
        "exponent": data.replace(b"268435456.0", b"2.68435456e8"),
        "zone": data.replace(b"09:00:00Z", b"09:00:00+00:00"),
        "fraction": data.replace(b"09:00:00Z", b"09:00:00.000000Z"),
        "mark": b"\xef\xbb\xbf" + data,
        "utf-16": data.decode().encode("utf-16"),
        "list": b"[" + data + b"]",
        "nothing": b"",
        "nan": data.replace(b"268435456.0", b"NaN"),
        "infinite": data.replace(b"268435456.0", b"1e999"),
        "deep": b"[" * 100_000,
    }
    for name, other in others.items():
        assert other != data, name
        with pytest.raises(ProtocolError, match="RoundPlan"):
            RoundPlan.from_bytes(other, max_bytes=MAX_PLAN_BYTES)


def test_too_long_is_refused() -> None:
    """One byte over the limit is refused unread."""
    data = PLAN.canonical_bytes()
    with pytest.raises(ProtocolError, match=f"at most {len(data) - 1} bytes"):
        RoundPlan.from_bytes(data, max_bytes=len(data) - 1)


@pytest.mark.parametrize(
    ("rule", "banks", "liars", "trim", "says"),
    [
        ("trimmed_mean", 3, 2, 0.34, "n = 3, f = 2"),
        ("trimmed_mean", 8, 2, 0.24, "2 of 8"),
        ("weighted_mean", 8, 2, 0.0, "n = 8, f = 2"),
        ("arc+nnm+krum", 8, 3, 0.0, "n = 8, f = 3"),
        ("geometric_median", 8, 2, 0.3, "expected no number"),
        ("median", 8, 0, 0.0, "'median'"),
    ],
)
def test_infeasible_terms_are_not_made(rule: str, banks: int, liars: int, trim: float, says: str) -> None:
    """Terms that their rule cannot stand raise `AggregationError` with both numbers when they are made."""
    with pytest.raises(AggregationError, match=says):
        AggregationTerms(rule=rule, banks=banks, byzantine=liars, trim=trim)


def test_a_quorum_that_liars_could_outvote_is_not_made() -> None:
    """All liars may be among the quorum that settles a round: terms that hold for n banks must hold for it, too."""
    terms = AggregationTerms(rule="trimmed_mean", banks=8, byzantine=2, trim=0.35)
    values = CAMPAIGN.model_dump() | {
        "privacy": PRIVACY,
        "aggregation": terms,
        "cohort": tuple(f"bank-{number}" for number in range(8)),
    }
    assert Campaign.model_validate(values | {"quorum": 6}).quorum == 6
    with pytest.raises(AggregationError, match=r"quorum of 5 updates: .* 2 of 5"):
        Campaign.model_validate(values | {"quorum": 5})


def test_plans_cannot_be_changed() -> None:
    """A plan is a value."""
    for value, name in ((PLAN, "round"), (CAMPAIGN, "quorum"), (PRIVACY, "epsilon"), (AGGREGATION, "trim")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(value, name, 1)


OTHERS: dict[At, object] = {
    ("campaign", "name"): "cards-8",
    ("campaign", "seed"): 8,
    ("campaign", "learner"): "another",
    ("campaign", "schema_digest"): "d" * 64,
    ("campaign", "rounds"): 5,
    ("campaign", "privacy", "epsilon"): 3.0,
    ("campaign", "privacy", "delta"): 1e-7,
    ("campaign", "privacy", "unit"): "transaction",
    ("campaign", "privacy", "clip"): 1.0,
    ("campaign", "aggregation", "rule"): "weighted_mean",
    ("campaign", "aggregation", "byzantine"): 0,
    ("campaign", "aggregation", "trim"): 0.4,
    ("campaign", "cohort"): ["bank-a", "bank-b", "bank-d"],
    ("campaign", "quorum"): 2,
    ("campaign", "quorum_share"): 0.5,
    ("campaign", "held_out", "trained_from"): "2026-01-12",
    ("campaign", "held_out", "first_day"): "2026-02-09",
    ("campaign", "held_out", "weeks"): 4,
    ("round",): 3,
    ("attempt",): 2,
    ("roster_version",): 6,
    ("model_digest",): "d" * 64,
    ("query_digest",): "d" * 64,
    ("noise_scale",): 2.0**29,
    ("clipping_norm",): 2**27,
    ("opens_at",): "2026-03-02T09:01:00Z",
    ("closes_at",): "2026-03-02T09:11:00Z",
}
ASIDE = {("attempt",), ("roster_version",), ("opens_at",), ("closes_at",)}


@pytest.mark.parametrize("at", OTHERS, ids=".".join)
def test_what_names_a_release(at: At) -> None:
    """Another attempt, other times or a newer roster ask for the same release; whatever else differs asks for another."""
    value = changed(at, OTHERS[at])
    if at == ("campaign", "aggregation", "rule") or at == ("campaign", "quorum"):
        value["campaign"]["aggregation"] |= {"byzantine": 0, "trim": 0.0}  # what is feasible then
    other = read(value)
    assert other.digest() != PLAN.digest()
    assert (other.release_digest() == PLAN.release_digest()) == (at in ASIDE)


def test_every_field_was_asked() -> None:
    """The test above knows every field but those that have one value only."""
    leaves = {at for at in FIELDS if not isinstance(parent(JSON, at)[at[-1]], dict)}
    assert leaves - OTHERS.keys() == {("format",), ("campaign", "aggregation", "banks")}


def test_the_round_after_the_last_evaluates() -> None:
    """Round `rounds` asks for score histograms, the ones before it train."""
    assert [read(changed(("round",), number)).evaluates for number in range(5)] == [False] * 4 + [True]
