"""The agreed schema: what it refuses, what its digest covers, and the public grids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mintmark.errors import DataError
from mintmark.schema import Feature, FeatureKind, FeatureSchema, Monotone, Scope, dump_schema, parse_schema

AMOUNT = Feature("amount", FeatureKind.LOG, 0.01, 10_000, unit="EUR")
CHANNEL = Feature("channel", FeatureKind.CATEGORY, 0, 2, categories=("chip", "online", "atm"))
SCHEMA = FeatureSchema("cards", (AMOUNT, CHANNEL), label="fraud", customer="card", bank="bank", test="test")

TEXT = """
name = "cards"
label = "fraud"
customer = "card"
bank = "bank"
test = "test"
features = [
  { name = "amount", kind = "log", lower = 0.01, upper = 10_000, unit = "EUR" },
  { name = "channel", kind = "category", categories = ["chip", "online", "atm"] },
]
"""

printable_ascii = st.characters(min_codepoint=33, max_codepoint=126)
bounds = st.one_of(st.floats(-1e15, 1e15), st.integers(-(10**15), 10**15).map(float))
query_text = st.text(st.characters(codec="utf-8").filter(lambda c: c.isprintable() or c in "\n\t"), max_size=60)


@st.composite
def any_feature(draw: st.DrawFn) -> Feature:
    """A valid feature of any kind, with bounds from the whole range."""
    kind, scope = draw(st.sampled_from(FeatureKind)), draw(st.sampled_from(Scope))
    name = draw(st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,63}", fullmatch=True))
    unit = draw(st.text(printable_ascii, max_size=32))
    if kind is FeatureKind.CATEGORY:
        words = draw(st.lists(st.text(printable_ascii, min_size=1, max_size=12), min_size=2, max_size=200, unique=True))
        return Feature(name, kind, 0, len(words) - 1, scope, unit, tuple(words))
    lower, upper = sorted((draw(bounds), draw(bounds)))
    if kind is FeatureKind.LOG:
        lower, upper = sorted((abs(lower), abs(upper)))
        lower *= draw(st.sampled_from((0, 1)))
    if kind is FeatureKind.INTEGER:
        lower, upper = np.floor(lower), np.floor(upper)
    assume(upper - lower >= 1e-9)
    return Feature(name, kind, lower, upper, scope, unit, monotone=draw(st.sampled_from((None, *Monotone))))


@given(any_feature())
def test_every_grid_is_increasing_and_within_bounds(feature: Feature) -> None:
    """Whatever the bounds, there are 1 to 254 finite edges, strictly increasing, and no cell beyond the bounds."""
    edges = feature.grid()

    assert edges.dtype == np.float64 and 1 <= len(edges) <= 254
    assert np.isfinite(edges).all() and (np.diff(edges) > 0).all()
    assert feature.lower <= edges[0] and edges[-1] < feature.upper


@given(st.lists(any_feature(), min_size=1, max_size=6, unique_by=lambda feature: feature.name.lower()), query_text)
def test_a_schema_survives_its_text(features: list[Feature], query: str) -> None:
    """`parse_schema` reads back from `dump_schema` an equal value with the same digest."""
    assume(not {feature.name.lower() for feature in features} & {"label_", "customer_", "bank_", "test_"})
    schema = FeatureSchema("a.b-c", tuple(features), "label_", "customer_", "bank_", "test_", query)

    again = parse_schema(dump_schema(schema))

    assert again == schema and again.digest() == schema.digest()


def test_what_evaluations_count_is_agreed_and_survives_its_text() -> None:
    """Groups, value and its limit are part of the digest and are read back; the time column's name is the bank's own."""
    grouped = (replace(AMOUNT, fairness=True, fairness_edges=(10, 100)), replace(CHANNEL, fairness=True))
    whole = replace(SCHEMA, features=grouped, value="amount", value_limit=500, time="booked_at")
    fewer = [
        replace(whole, value_limit=400),
        replace(whole, value="", value_limit=0),
        replace(whole, features=SCHEMA.features),
    ]

    assert parse_schema(dump_schema(whole)) == whole
    assert replace(whole, time="").digest() == whole.digest()
    assert len({whole.digest(), SCHEMA.digest(), *(schema.digest() for schema in fewer)}) == 5
    assert replace(SCHEMA, value="amount").value_limit == AMOUNT.upper


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: replace(AMOUNT, fairness=True), "expected fairness_edges for numbers"),
        (lambda: replace(AMOUNT, fairness_edges=(10.0,)), "expected fairness_edges for numbers"),
        (lambda: replace(AMOUNT, fairness=True, fairness_edges=(100.0, 10.0)), "ascending fairness_edges"),
        (lambda: replace(AMOUNT, fairness=True, fairness_edges=(1e9,)), "ascending fairness_edges"),
        (lambda: replace(AMOUNT, fairness=True, fairness_edges=tuple(range(1, 9))), "at most 8 groups"),
        (lambda: replace(SCHEMA, value="channel"), "expected value to name a feature of numbers"),
        (lambda: replace(SCHEMA, value="nothing"), "expected value to name a feature of numbers"),
        (lambda: replace(SCHEMA, value="amount", value_limit=1e6), "expected a value_limit up to"),
        (lambda: replace(SCHEMA, value_limit=5), "expected no value_limit without a value"),
        (lambda: replace(SCHEMA, time="amount"), "more than once"),
    ],
)
def test_contradictory_evaluations_are_refused(change: Callable[[], object], message: str) -> None:
    """Groups without edges, edges out of order or bounds, and a value that is none, are refused by name."""
    with pytest.raises(DataError, match=message):
        change()


def test_a_linear_grid_is_even() -> None:
    """254 edges from the lower bound on, each a 254th of the range further."""
    edges = Feature("hour", FeatureKind.LINEAR, -5, 503).grid()

    assert np.allclose(edges, -5 + 2 * np.arange(254), atol=1e-9)


def test_a_log_grid_has_even_ratios_and_may_begin_at_zero() -> None:
    """Neighbouring edges have one ratio; from zero, the first edge is a millionth of the upper bound."""
    for lower, first in ((0.01, 0.01), (0, 0.01)):
        edges = Feature("amount", FeatureKind.LOG, lower, 10_000).grid()
        assert edges[0] == first and len(edges) == 254
        assert np.allclose(edges[1:] / edges[:-1], (10_000 / first) ** (1 / 254))


def test_an_integer_grid_separates_neighbours_while_it_can() -> None:
    """Up to 255 whole numbers have a cell each; of more, the low ones do, and cells widen upwards."""
    few = Feature("age", FeatureKind.INTEGER, -2, 8).grid()
    many = Feature("count", FeatureKind.INTEGER, 0, 100_000).grid()

    assert few.tolist() == [k + 0.5 for k in range(-2, 8)]
    assert len(many) == 254 and many[:5].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5] and many[-1] == 99_999.5
    assert (many % 1 == 0.5).all() and (np.diff(np.diff(many)) >= -1).all()


def test_a_category_has_a_cell_a_code() -> None:
    """Code k lies alone between k - .5 and k + .5."""
    assert CHANNEL.grid().tolist() == [0.5, 1.5]


def test_edges_are_short_decimals() -> None:
    """Edges have at most twelve digits, so that a last bit that differs between machines cannot make two grids."""
    for edge in AMOUNT.grid():
        assert float(f"{edge:.12g}") == edge


def test_the_text_form_is_read() -> None:
    """A schema in TOML gives the value it describes."""
    assert parse_schema(TEXT) == SCHEMA


def test_the_digest_covers_what_was_agreed_and_nothing_local() -> None:
    """Local names and the query leave the digest as it is; any change of a feature or of their order alters it."""
    local = replace(SCHEMA, label="y", customer="c", bank="b", test="t", query="SELECT * FROM input")
    assert local.digest() == SCHEMA.digest() == hashlib.sha256(SCHEMA.canonical_bytes()).hexdigest()

    changed = [
        replace(SCHEMA, name="cards2"),
        replace(SCHEMA, features=(CHANNEL, AMOUNT)),
        replace(SCHEMA, features=(replace(AMOUNT, scope=Scope.CUSTOMER), CHANNEL)),
        replace(SCHEMA, features=(replace(AMOUNT, upper=9_999), CHANNEL)),
        replace(SCHEMA, features=(replace(AMOUNT, unit="USD"), CHANNEL)),
        replace(SCHEMA, features=(replace(AMOUNT, monotone=Monotone.INCREASING), CHANNEL)),
        replace(SCHEMA, features=(replace(AMOUNT, monotone=Monotone.DECREASING), CHANNEL)),
    ]
    assert len({SCHEMA.digest(), *(schema.digest() for schema in changed)}) == 8


def test_a_schema_that_declares_nothing_monotone_keeps_its_digest() -> None:
    """The digest is the one that consortia agreed on before features could be monotone."""
    assert SCHEMA.digest() == "5535d8d80a4e24a8c68b70806604a0a42f2db3c65200b13df5c0aaae2913d845"


def test_whole_and_negative_zero_bounds_are_one_schema() -> None:
    """10000 and 10000.0, and 0 and -0.0, are written the same."""
    one = replace(SCHEMA, features=(Feature("x", FeatureKind.LINEAR, 0, 10_000),))
    other = replace(SCHEMA, features=(Feature("x", FeatureKind.LINEAR, -0.0, 10_000.0),))

    assert one.canonical_bytes() == other.canonical_bytes()
    assert json.loads(one.canonical_bytes())["features"][0]["lower"] == 0


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('name = "cards"', "name = ", "schema in TOML"),
        ('name = "cards"', 'nane = "cards"', "expected only the keys"),
        ('label = "fraud"', "", "expected the keys label"),
        ('label = "fraud"', "label = 3", "expected label to be a str, got a int"),
        ('label = "fraud"', 'label = "amount"', "got amount more than once"),
        ('label = "fraud"', 'label = "card"', "got card more than once"),
        ('label = "fraud"', "label = 'a\"; DROP TABLE input'", "the label column"),
        ('name = "channel"', 'name = "Amount"', "got amount more than once"),
        ('name = "channel"', 'name = "a b"', "a feature's name"),
        (
            'name = "channel"',
            "name = 0x" + "f" * 5000,
            "a feature without a name: expected name to be a str, got a int",
        ),
        ('name = "channel"', 'name = "1a"', "a feature's name"),
        ('name = "channel"', 'name = "a=1\\nb"', "a feature's name"),
        ('kind = "log"', 'kind = "cubic"', "expected one of linear, log, integer, category, got 'cubic'"),
        ('unit = "EUR"', 'unit = "EUR", scope = "world"', "expected one of row, customer, entity"),
        ('unit = "EUR"', 'unit = "€"', "printable ASCII"),
        ('unit = "EUR"', 'categories = ["a", "b"]', "expected no categories for kind log"),
        ('unit = "EUR"', "colour = 1", "got ['colour']"),
        ('unit = "EUR"', 'monotone = "up"', "expected one of increasing, decreasing, got 'up'"),
        ('unit = "EUR"', "monotone = 1", "expected monotone to be a str, got a int"),
        ('["chip", "online", "atm"]', '["a", "b"], monotone = "increasing"', "expected no monotone for kind category"),
        ("lower = 0.01, ", "", "expected lower and upper, got upper"),
        ("lower = 0.01", "lower = -1", "expected lower >= 0"),
        ("lower = 0.01", "lower = 10_000", "expected lower < upper"),
        ("lower = 0.01", "lower = nan", "expected lower to be a number"),
        ("lower = 0.01", "lower = true", "expected lower to be a number"),
        ("upper = 10_000", "upper = inf", "expected upper to be a number"),
        ("upper = 10_000", "upper = 0x" + "f" * 5000, "expected upper to be a number"),
        ("upper = 10_000", "upper = " + "9" * 5000, "schema in TOML"),
        ('"chip", ', '"online", ', "different categories"),
        ('"chip", ', '"a b", ', "without spaces"),
        ('"chip", ', '"", ', "without spaces"),
        ('"chip", ', "1, ", "all strings"),
        ('["chip", "online", "atm"]', '["chip"]', "expected lower < upper"),
        ('["chip", "online", "atm"]', str([f"c{n}" for n in range(201)]), "2 to 200"),
        ('["chip", "online", "atm"]', '["a", "b"], lower = 0', "got lower: leave them out"),
        ("features = [", "features = [ 3,", "expected every feature to be a table"),
        ('test = "test"', 'test = "test"\nquery = "a\\u0000b"', "control characters"),
    ],
)
def test_a_wrong_schema_is_refused_with_a_sentence(old: str, new: str, sentence: str) -> None:
    """Every fault gives a `DataError` that says what was expected."""
    assert TEXT.count(old) == 1

    with pytest.raises(DataError) as refusal:
        parse_schema(TEXT.replace(old, new))

    assert sentence in str(refusal.value)


def test_the_number_of_features_is_bounded() -> None:
    """512 features are accepted; none, and 513, are refused."""
    features = tuple(replace(AMOUNT, name=f"x{n}") for n in range(513))

    assert len(replace(SCHEMA, features=features[:512]).names) == 512
    for wrong in ((), features):
        with pytest.raises(DataError, match="1 to 512 features"):
            replace(SCHEMA, features=wrong)


def test_the_codes_of_a_category_are_its_bounds() -> None:
    """Bounds that are not the codes of the categories contradict them."""
    with pytest.raises(DataError, match="the bounds 0 and 2"):
        replace(CHANNEL, upper=3)


def test_the_examples_are_valid_and_select_no_personal_column() -> None:
    """Both example schemas parse; no name, street, number or birthday is a column of the result."""
    folder = Path(__file__).parents[1] / "examples"
    schemas = {path.stem: parse_schema(path.read_text()) for path in folder.glob("*.toml")}

    assert schemas.keys() == {"sparkov", "uci_default"}
    personal = {"ssn", "cc_num", "first", "last", "street", "zip", "lat", "long", "dob", "acct_num", "trans_num"}
    assert not personal & set(schemas["sparkov"].names)
    assert len(schemas["uci_default"].features) == 23
