"""One file of several banks: the query's confinement, the checks before anything starts, and the banks' files."""

from __future__ import annotations

import stat
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bank_node.table import load_table
from infra.embedded.dataset import load_dataset, write_bank_files
from mintmark.errors import DataError
from mintmark.schema import Feature, FeatureKind, FeatureSchema, Scope
from mintmark.synthetic import simulate
from mintmark.table import build_table

SCHEMA = FeatureSchema(
    "cards",
    (
        Feature("amount", FeatureKind.LOG, 1, 1_000),
        Feature("channel", FeatureKind.CATEGORY, 0, 1, categories=("chip", "online")),
    ),
    label="fraud",
    customer="card",
    bank="bank",
    test="test",
)
ROWS: dict[str, list[object]] = {
    "amount": [10.0, 20.0, None, 40.0, 50.0, 60.0, 70.0, 80.0],
    "channel": ["chip", "online", None, "chip", "fax", "chip", "chip", "online"],
    "fraud": [1, 0, 0, 0, 1, 0, 0, 1],
    "card": ["4929-1", "4929-2", "4929-1", "4929-3", "4929-4", "4929-5", "4929-4", "4929-5"],
    "bank": ["North", "North", "North", "North", "South Sea", "South Sea", "South Sea", "South Sea"],
    "test": [False, False, True, False, False, False, True, True],
    "name": ["Ann", "Bob", "Ann", "Cy", "Di", "Ed", "Di", "Ed"],
}


def write(folder: Path, **changes: object) -> Path:
    """The eight rows as Parquet, with some columns replaced, or left out for None."""
    path = folder / "it's all.parquet"
    columns = {name: values for name, values in (ROWS | changes).items() if values is not None}
    pq.write_table(pa.table(columns), path)
    return path


def test_rows_are_divided_by_bank_and_customers_numbered(tmp_path: Path) -> None:
    """Each bank gets its own rows in the file's order; a card number becomes a number; other columns stay behind."""
    dataset = load_dataset(write(tmp_path), SCHEMA)

    assert list(dataset.banks) == ["bank-north", "bank-south-sea"] and dataset.shared_customers == 0
    north, south = dataset.banks.values()
    assert set(north) == {"amount", "channel", "fraud", "card", "test"}
    np.testing.assert_array_equal(north["amount"], [10, 20, np.nan, 40])
    assert north["channel"].tolist() == ["chip", "online", None, "chip"]
    assert north["card"].tolist() == [0, 1, 0, 2] and south["card"].tolist() == [3, 4, 3, 4]


def test_a_query_derives_the_columns(tmp_path: Path) -> None:
    """The schema's SELECT runs over `input`; windows, comments and a final semicolon are all right."""
    query = """
    SELECT *, count(*) OVER (PARTITION BY card ORDER BY amount) - 1 AS "before" -- so far
    FROM (SELECT * REPLACE (coalesce(amount, 99) AS amount) FROM input) ORDER BY amount DESC; -- end"""
    before = Feature("before", FeatureKind.INTEGER, 0, 5, Scope.CUSTOMER)
    schema = replace(SCHEMA, features=(*SCHEMA.features, before), query=query)

    north = load_dataset(write(tmp_path), schema).banks["bank-north"]

    assert north["amount"].tolist() == [99, 40, 20, 10] and north["before"].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("SELECT * FROM read_csv('{secret}')", "PermissionException.*Cannot access file"),
        ("SELECT * FROM read_text('{secret}')", "PermissionException"),
        ("SELECT * FROM glob('/*')", "PermissionException"),
        ("SELECT * FROM '{other}'", "PermissionException"),
        ("SELECT *, (SELECT content FROM read_text('{secret}')) AS x FROM input", "PermissionException"),
        ("COPY (SELECT * FROM input) TO '{out}'", "one SELECT over the table input, got COPY"),
        ("SELECT * FROM query('COPY input TO ''{out}''')", "Expected a single SELECT statement"),
        ("SELECT * FROM input; COPY input TO '{out}'", "got SELECT, COPY"),
        ("ATTACH '{out}'", "got ATTACH"),
        ("INSTALL httpfs", "got LOAD"),
        ("SET memory_limit = '99GB'", "got SET"),
        ("CREATE TABLE x AS SELECT 1", "got CREATE"),
        ("-- nothing", "got nothing"),
        ("SELECT * FROM frame", "CatalogException"),
        (
            "SELECT amount FROM input",
            "expected the columns .*, got no channel, fraud, card, test, bank",
        ),
        ("SELECT *, 2 * amount AS amount FROM input", "expected each column once, got amount twice"),
        ("SELECT *, 2 * amount AS Amount FROM input", "expected each column once, got amount twice"),
        ("SELECT nothing FROM input", "BinderException"),
        ("SELEC * FROM input", "ParserException"),
    ],
)
def test_a_query_reaches_nothing_but_the_input(tmp_path: Path, query: str, sentence: str) -> None:
    """Reading or writing any other file, a Python variable, an extension or a setting is refused with a sentence."""
    frame = {"amount": [1.0]}
    secret, other, out = tmp_path / "secret.csv", tmp_path / "other.parquet", tmp_path / "out"
    secret.write_text("a,b\n1,2\n")
    pq.write_table(pa.table(frame), other)
    schema = replace(SCHEMA, query=query.format(secret=secret, other=other, out=out))

    with pytest.raises(DataError, match=sentence):
        load_dataset(write(tmp_path), schema)

    assert not out.exists()


def test_a_failing_query_quotes_no_value(tmp_path: Path) -> None:
    """An error met while reading rows names its kind only: DuckDB's text would quote the customer's value."""
    schema = replace(SCHEMA, query="SELECT * REPLACE (CAST(card AS INTEGER) AS amount) FROM input")

    with pytest.raises(DataError, match="got ConversionException") as refusal:
        load_dataset(write(tmp_path), schema)

    assert "4929" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"amount": None}, "expected the columns .*, got no amount"),
        ({"amount": ["x"] * 8}, "bank-north: column amount: expected numbers"),
        ({"amount": [date(2021, 1, 1)] * 8}, "bank-north: column amount: expected numbers"),
        ({"amount": [*[1.0] * 7, float("inf")]}, "bank-south-sea: column amount: .* got 1 infinite"),
        ({"fraud": [0, 1, 0, 0, 1, 2, 0, 0]}, "bank-south-sea: column fraud: expected 0 or 1"),
        ({"fraud": [0, 1, 0, None, 1, 0, 0, 0]}, "bank-north: column fraud: expected 0 or 1"),
        ({"fraud": [0, 1, 0, 0, 0, 0, 0, 1]}, "bank-south-sea: expected rows with fraud = 1 to train on"),
        ({"test": [False] * 4 + [True] * 4}, "bank-south-sea: expected rows to train on"),
        ({"card": ["a"] * 7 + [None]}, "bank-south-sea: column card: .* got none in 1 rows"),
        ({"bank": [1] * 7 + [None]}, "column bank: expected a bank in every row"),
        ({"bank": [1] * 8}, "column bank: expected 2 to 100 banks, got 1"),
        ({"bank": ["A b"] * 4 + ["a-B"] * 4}, "expected different names .* both are bank-a-b"),
        ({"bank": ["!"] * 4 + ["b"] * 4}, "expected different names"),
        ({"bank": ["b" * 27] * 4 + ["c"] * 4}, "expected different names"),
    ],
)
def test_wrong_data_are_refused_before_anything_starts(
    tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    """Every fault is one sentence that names the column and, where it is one bank's, the bank."""
    with pytest.raises(DataError, match=sentence):
        load_dataset(write(tmp_path, **changes), SCHEMA)


def test_a_file_that_is_not_there_or_not_parquet_is_refused(tmp_path: Path) -> None:
    """A missing file, a text file and a pattern that would match files are refused alike."""
    write(tmp_path)
    (tmp_path / "text.parquet").write_text("a,b")

    for name in ("none.parquet", "text.parquet", "*.parquet"):
        with pytest.raises(DataError, match="expected a readable Parquet file"):
            load_dataset(tmp_path / name, SCHEMA)


def test_customers_of_two_banks_are_counted(tmp_path: Path) -> None:
    """A customer with rows at two banks is no error, and is reported."""
    cards = ["a", "b", "c", "d", "a", "b", "e", "f"]

    assert load_dataset(write(tmp_path, card=cards), SCHEMA).shared_customers == 2


def test_bank_numbers_come_in_order(tmp_path: Path) -> None:
    """Whole numbers give bank-2 before bank-10, and a name that already says bank- keeps it once."""
    assert list(load_dataset(write(tmp_path, bank=[10] * 4 + [2] * 4), SCHEMA).banks) == ["bank-2", "bank-10"]
    named = write(tmp_path, bank=["bank-a"] * 4 + ["Bank B"] * 4)
    assert set(load_dataset(named, SCHEMA).banks) == {"bank-a", "bank-b"}


def test_the_banks_files_hold_the_same_table(tmp_path: Path) -> None:
    """What a bank reads from its file is what was checked; the file holds only the schema's columns, for the owner."""
    schema, banks = simulate(seed=2, banks=2, rows=5_000)

    files = write_bank_files(banks, schema, tmp_path / "new" / "banks")

    assert files == {bank: tmp_path / "new" / "banks" / f"{bank}.parquet" for bank in ("bank-a", "bank-b")}
    assert stat.S_IMODE((tmp_path / "new" / "banks").stat().st_mode) == 0o700
    assert sorted(path.name for path in (tmp_path / "new" / "banks").iterdir()) == ["bank-a.parquet", "bank-b.parquet"]
    for bank, path in files.items():
        read, built = load_table(path, schema), build_table(schema, banks[bank])
        np.testing.assert_array_equal(read.features, built.features)
        np.testing.assert_array_equal(read.customers, built.customers)
        np.testing.assert_array_equal(read.labels, built.labels)
        assert set(pq.read_schema(path).names) == {
            *schema.names,
            schema.label,
            schema.customer,
            schema.test,
            schema.time,
        }


def test_words_with_gaps_survive_the_way_to_the_bank(tmp_path: Path) -> None:
    """A missing number or word in the file of all banks is missing in the bank's table too."""
    dataset = load_dataset(write(tmp_path), SCHEMA)

    table = load_table(write_bank_files(dataset.banks, SCHEMA, tmp_path / "banks")["bank-north"], SCHEMA)

    np.testing.assert_array_equal(table.features, [[10, 0], [np.nan, np.nan], [20, 1], [40, 0]])


def test_a_banks_id_cannot_leave_the_directory(tmp_path: Path) -> None:
    """An id that is not one is refused before a file is written."""
    schema, banks = simulate(seed=2, banks=2, rows=5_000)

    with pytest.raises(DataError, match="expected a bank's id"):
        write_bank_files({**banks, "../bank-a": banks["bank-a"]}, schema, tmp_path / "banks")

    assert not list(tmp_path.iterdir())
