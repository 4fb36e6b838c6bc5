"""A bank's rows: what is refused, and what the accepted form promises."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank_node.table import load_table
from mintmark import parquet
from mintmark.errors import DataError
from mintmark.schema import Feature, FeatureKind, FeatureSchema
from mintmark.table import build_table

SCHEMA = FeatureSchema(
    "cards",
    (
        Feature("amount", FeatureKind.LOG, 1, 100),
        Feature("channel", FeatureKind.CATEGORY, 0, 2, categories=("chip", "online", "7")),
    ),
    label="fraud",
    customer="card",
    bank="bank",
    test="test",
)


def columns(**changes: object) -> dict[str, npt.NDArray[np.generic]]:
    """Six good rows of customers c, a and b, with some columns changed."""
    good: dict[str, object] = {
        "amount": [5.0, 0.5, 300.0, np.nan, 100.0, 1.0],
        "channel": np.array(["chip", "online", "7", None, "sms", "chip"], dtype=object),
        "fraud": [1, 0, 0, 1, 0, 0],
        "card": ["c", "a", "c", "b", "a", "c"],
        "test": [False, False, True, False, True, False],
    }
    return {name: np.asarray(values) for name, values in (good | changes).items() if values is not None}


def test_rows_come_sorted_by_customer_in_their_own_order() -> None:
    """Customers get the numbers of their sorted order; one customer's rows stay in the order they came in."""
    table = build_table(SCHEMA, columns())

    assert len(table) == 6
    assert table.customers.tolist() == [0, 0, 1, 2, 2, 2]
    assert table.labels.tolist() == [0, 0, 1, 1, 0, 0]
    assert table.test.tolist() == [False, True, False, False, True, False]


def test_values_are_clipped_coded_and_missing_as_agreed() -> None:
    """Amounts are clipped to the bounds, words become codes, and missing stays NaN; what was outside is counted."""
    table = build_table(SCHEMA, columns())

    expected = [[1, 1], [100, np.nan], [np.nan, np.nan], [5, 0], [100, 2], [1, 0]]
    np.testing.assert_array_equal(table.features, np.array(expected, dtype=np.float64))
    assert table.clipped_share == (2 / 6, 1 / 6)


def test_integers_may_stand_for_words() -> None:
    """An integer is the category of its decimal text, as float too; any other number is unknown."""
    table = build_table(SCHEMA, columns(channel=np.array([7, 7, 0, 7, np.nan, 7]), card=np.arange(6)))

    np.testing.assert_array_equal(table.features[:, 1], [2, 2, np.nan, 2, np.nan, 2])
    assert table.clipped_share[1] == 1 / 6


def test_masked_values_are_missing() -> None:
    """A masked array's hidden numbers never reach the table."""
    hidden = np.ma.MaskedArray([3, 4, 5, 6, 7, 8], mask=[True, *[False] * 5])
    table = build_table(SCHEMA, columns(amount=None) | {"amount": hidden, "card": np.arange(6)})

    np.testing.assert_array_equal(table.features[:, 0], [np.nan, 4, 5, 6, 7, 8])


def test_the_parts_divide_the_rows_and_number_customers_anew() -> None:
    """Every row is in one part; each part's customers are 0..u-1 without gaps."""
    table = build_table(SCHEMA, columns())
    train, test = table.train(), table.test_part()

    assert (len(train), len(test)) == (4, 2)
    assert train.customers.tolist() == [0, 1, 2, 2] and test.customers.tolist() == [0, 1]
    assert not train.test.any() and test.test.all()
    assert train.labels.tolist() == [0, 1, 1, 0]


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(allow_infinity=False), st.booleans()), min_size=1))
def test_any_rows_keep_their_values_together(rows: list[tuple[int, float, bool]]) -> None:
    """Whatever the rows, sorting and clipping keep each row whole: the rows as a set are those a plain loop gives."""
    rows = [*rows, (3, 50.0, True), (3, 50.0, False)]
    cards, amounts, frauds = (np.array(column) for column in zip(*rows, strict=True))
    table = build_table(
        SCHEMA,
        {
            "amount": amounts,
            "channel": np.full(len(rows), "chip"),
            "fraud": frauds,
            "card": cards,
            "test": np.zeros(len(rows)),
        },
    )

    known = sorted(set(cards.tolist()))
    kept = [
        (known[customer], repr(amount), bool(label))
        for customer, (amount, _), label in zip(table.customers, table.features.tolist(), table.labels, strict=True)
    ]
    plain = [(c, repr(a if math.isnan(a) else min(max(a, 1.0), 100.0)), y) for c, a, y in rows]
    assert sorted(kept) == sorted(plain) and (np.diff(table.customers) >= 0).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"amount": None}, "got none named amount"),
        ({"card": None, "test": None}, "got none named card, test"),
        ({"amount": [1.0, 2.0]}, "columns of one length"),
        ({"amount": ["5"] * 6}, "column amount: expected numbers"),
        ({"amount": [1, np.inf, -np.inf, 1, 1, 1]}, "column amount: expected finite or missing values, got 2 infinite"),
        (
            {"fraud": [1, 0, 0, 2, 0, 0]},
            "column fraud: expected 0 or 1 in every row, got something else or nothing in 1",
        ),
        ({"fraud": [1, 0, 0, np.nan, 0, 0]}, "column fraud: expected 0 or 1"),
        ({"fraud": ["1", "0", "0", "0", "0", "0"]}, "column fraud: expected numbers"),
        ({"test": [0.5] * 6}, "column test: expected 0 or 1 in every row, got something else or nothing in 6 rows"),
        ({"test": [True] * 6}, "expected rows to train on"),
        ({"fraud": [0, 0, 1, 0, 0, 0]}, "expected rows with fraud = 1 to train on, got none in 4 rows"),
        ({"fraud": [1] * 6}, "expected rows with fraud = 0 to train on"),
        ({"card": np.array(["secret", None, "a", "a", "a", None], dtype=object)}, "got none in 2 rows"),
        ({"card": [1.0, np.nan, 1, 1, 1, 1]}, "column card: expected a customer in every row, got none in 1 rows"),
        ({"card": np.array(["secret", 1, "a", "a", "a", 2], dtype=object)}, "got a mixture"),
    ],
)
def test_wrong_rows_are_refused_without_a_customers_value(changes: dict[str, object], sentence: str) -> None:
    """Each fault is a `DataError` that names the column and counts, and quotes no row."""
    with pytest.raises(DataError) as refusal:
        build_table(SCHEMA, columns(**changes))

    assert sentence in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_an_empty_table_is_refused() -> None:
    """No rows at all are refused before anything else is looked at."""
    with pytest.raises(DataError, match="got an empty table"):
        build_table(SCHEMA, {name: column[:0] for name, column in columns().items()})


def test_a_parquet_file_gives_the_table_of_its_columns(tmp_path: Path) -> None:
    """Decimals with gaps, flags and coded words are read as what they mean; a column nobody asked for is not read."""
    path = tmp_path / "bank-a.parquet"
    good = columns()
    arrow = pa.table(
        {
            "street": pa.array(["secret"] * 6),
            "amount": pa.array(
                [Decimal("5.00"), Decimal("0.50"), Decimal("300.00"), None, Decimal("100.00"), Decimal("1.00")]
            ),
            "channel": pa.array(good["channel"].tolist()).dictionary_encode(),
            "fraud": pa.array(good["fraud"] == 1),
            "card": pa.array(good["card"].tolist()),
            "test": pa.array(good["test"].tolist()),
        }
    )
    pq.write_table(arrow, path, row_group_size=4)

    table, expected = load_table(path, SCHEMA), build_table(SCHEMA, good)

    np.testing.assert_array_equal(table.features, expected.features)
    assert table.labels.tolist() == expected.labels.tolist() and table.customers.tolist() == expected.customers.tolist()


def test_an_unreadable_file_is_refused_by_name(tmp_path: Path) -> None:
    """A file that is not there, is not Parquet or lacks a column is a `DataError` that names the file."""
    (tmp_path / "text.parquet").write_text("amount,fraud")
    pq.write_table(pa.table({"amount": [1.0]}), tmp_path / "narrow.parquet")
    pq.write_table(
        pa.table({name: pa.array(column.tolist()) for name, column in columns(fraud=[True, None] * 3).items()}),
        tmp_path / "gaps.parquet",
    )

    for name, sentence in (
        ("none", "expected a readable Parquet file"),
        ("text", "expected a readable Parquet file"),
        ("narrow", "got none named channel, fraud, card, test"),
        ("gaps", "column fraud: expected 0 or 1 in every row, got something else or nothing in 3 rows"),
    ):
        with pytest.raises(DataError, match=f"{name}.parquet: .*{sentence}"):
            load_table(tmp_path / f"{name}.parquet", SCHEMA)


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes and rows are bounded before a row is read."""
    path = tmp_path / "bank-a.parquet"
    pq.write_table(pa.table({name: pa.array(column.tolist()) for name, column in columns().items()}), path)

    for limit, sentence in (("MAX_ROWS", "at most 5 rows, got 6"), ("MAX_TABLE_BYTES", "at most 5 bytes")):
        monkeypatch.setattr(parquet, limit, 5)
        with pytest.raises(DataError, match=sentence):
            load_table(path, SCHEMA)
