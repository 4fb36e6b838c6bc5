"""One Parquet file of several banks, taken apart into what each bank holds, for the consortium on one machine.

The schema's query runs in DuckDB over the table `input` and can reach nothing else: no other file, no network, no
extension, no setting. Everything is checked before anything starts. Customers are replaced by numbers, so that no card
number is copied. Left out: at a real bank the bank prepares its own file (`bank_node/table.py`).

    dataset = load_dataset(Path("transactions.parquet"), parse_schema(Path("examples/sparkov.toml").read_text()))
    files = write_bank_files(dataset.banks, schema, Path("state/banks"))  # {"bank-0": state/banks/bank-0.parquet, ...}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from duckdb.sqltypes import DOUBLE, TIMESTAMP, VARCHAR, DuckDBPyType

from mintmark.errors import DataError
from mintmark.schema import FeatureSchema
from mintmark.table import Columns, build_table, columns_of

MEMORY_LIMIT = "1500MB"
MAX_BANKS = 100
BANK_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_NUMERIC = {
    *("tinyint", "smallint", "integer", "bigint", "hugeint"),
    *("utinyint", "usmallint", "uinteger", "ubigint", "uhugeint"),
    *("float", "double", "decimal", "boolean"),
}
_LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": MEMORY_LIMIT,
    "temp_directory": "",
    "python_enable_replacements": False,
    "allow_community_extensions": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """What each bank holds: bank id -> the schema's columns but `bank`, [n] each, checked.

    `shared_customers` have rows at more than one bank: a promise made to a customer holds at each bank by itself only.
    """

    banks: Mapping[str, Columns]
    shared_customers: int


def load_dataset(data: Path, schema: FeatureSchema) -> Dataset:
    """Derive, split by bank and check. Rows keep the file's order, or the order the query asks for.

    Raises `DataError`, naming the bank and the column: a query that fails or is not one SELECT, a missing column, fewer
    than two banks, a row without a bank, and whatever `build_table` refuses at a bank.
    """
    with duckdb.connect(":memory:", config=_LOCKED) as connection:
        _open_input(connection, data)
        _derive(connection, schema)
        numbers: dict[object, int] = {}
        banks: dict[str, Columns] = {}
        for bank, value in _bank_ids(connection, schema).items():
            try:
                banks[bank] = _fetch(connection, schema, value, numbers)
                build_table(schema, banks[bank])
            except DataError as error:
                raise DataError(f"{bank}: {error}") from None
    held = [np.unique(columns[schema.customer]) for columns in banks.values()]
    shared = int((np.bincount(np.concatenate(held)) > 1).sum())
    return Dataset(banks, shared)


def write_bank_files(banks: Mapping[str, Columns], schema: FeatureSchema, directory: Path) -> dict[str, Path]:
    """Write one Parquet file a bank with the schema's columns but `bank`; a file appears whole or not at all."""
    if wrong := [bank for bank in banks if not BANK_ID.fullmatch(bank)]:
        raise DataError(f"expected a bank's id to match {BANK_ID.pattern}, got {wrong[0][:80]!r}")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = columns_of(schema)
    files = {bank: directory / f"{bank}.parquet" for bank in banks}
    for bank, columns in banks.items():
        partial = files[bank].with_suffix(".partial")
        pq.write_table(pa.table({name: pa.array(columns[name]) for name in names}), partial, compression="zstd")
        partial.replace(files[bank])
    return files


def _open_input(connection: duckdb.DuckDBPyConnection, data: Path) -> None:
    """The view `input` over the file; afterwards the connection can read that file and nothing else."""
    path = str(data.resolve())
    literal = path.replace("'", "''")
    connection.execute("SET enable_progress_bar = false")
    connection.execute(f"SET allowed_paths = ['{literal}']")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    try:
        connection.read_parquet(path).create_view("input")
    except duckdb.Error as error:
        raise DataError(f"expected a readable Parquet file at {data}, got {type(error).__name__}") from None


def _derive(connection: duckdb.DuckDBPyConnection, schema: FeatureSchema) -> None:
    """The table `derived` with the schema's columns: what is numeric as DOUBLE, everything else as text."""
    query = schema.query or "FROM input"
    try:
        _check_one_select(connection, query)
        connection.execute(f"CREATE VIEW prepared AS {query}")
        prepared = connection.view("prepared")  # it would rename a column that comes twice; DESCRIBE does not
        got = [name.lower() for name, *_ in connection.execute(f"DESCRIBE {query}").fetchall()]
        needed = (*columns_of(schema), schema.bank)
        _check_columns(needed, got)
        numeric = {name for name, kind in zip(got, prepared.types, strict=True) if kind.id in _NUMERIC}
        numeric -= {schema.customer.lower(), schema.bank.lower()}
        columns = [duckdb.ColumnExpression(name).cast(_kind(name, schema, numeric)).alias(name) for name in needed]
        prepared.select(*columns).create("derived")
    except duckdb.Error as error:
        raise DataError(_sentence(error)) from None


def _check_one_select(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    statements = connection.extract_statements(query)
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        raise DataError(
            f"expected the query to be one SELECT over the table input, got {', '.join(kinds) or 'nothing'}"
        )


def _check_columns(needed: tuple[str, ...], got: list[str]) -> None:
    if missing := [name for name in needed if name.lower() not in got]:
        raise DataError(f"expected the columns {', '.join(needed)}, got no {', '.join(missing)}")
    if twice := [name for name in needed if got.count(name.lower()) > 1]:
        raise DataError(f"expected each column once, got {', '.join(twice)} twice: use SELECT * REPLACE, or list them")


def _sentence(error: duckdb.Error) -> str:
    """What failed. Only errors found before a row is read are quoted: others may hold a customer's value."""
    quotable = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.PermissionException)
    detail = f": {str(error).splitlines()[0]}" if isinstance(error, quotable) else ""
    if isinstance(error, duckdb.OutOfMemoryException):
        detail = f": it needs more than {MEMORY_LIMIT}; select fewer columns in the innermost query"
    return f"expected a query that reads the table input and nothing else, got {type(error).__name__}{detail}"


def _bank_ids(connection: duckdb.DuckDBPyConnection, schema: FeatureSchema) -> dict[str, str]:
    """Bank id -> the value that stands for it in the file; shorter values first, so that numbers come in order."""
    distinct = connection.table("derived").select(duckdb.ColumnExpression(schema.bank)).distinct()
    values = [value for (value,) in distinct.limit(MAX_BANKS + 1).fetchall()]
    if None in values:
        raise DataError(f"column {schema.bank}: expected a bank in every row, got rows without one")
    if not 2 <= len(values) <= MAX_BANKS:
        raise DataError(f"column {schema.bank}: expected 2 to {MAX_BANKS} banks, got {min(len(values), MAX_BANKS + 1)}")
    ids: dict[str, str] = {}
    for value in sorted(values, key=lambda value: (len(value), value)):
        bank = "bank-" + re.sub("[^a-z0-9]+", "-", value.lower()).removeprefix("bank-").strip("-")
        if not BANK_ID.fullmatch(bank) or bank == "bank-" or bank in ids:
            raise DataError(
                f"column {schema.bank}: expected different names of at most 26 letters and digits, got {value[:40]!r}"
                + (f" beside {ids[bank][:40]!r}: both are {bank}" if bank in ids else "")
            )
        ids[bank] = value
    return ids


def _fetch(
    connection: duckdb.DuckDBPyConnection, schema: FeatureSchema, value: str, numbers: dict[object, int]
) -> dict[str, npt.NDArray[np.generic]]:
    """The rows of one bank; `numbers` gives each customer of the file a number, in order of appearance."""
    names = columns_of(schema)
    own = connection.table("derived").filter(duckdb.ColumnExpression(schema.bank) == duckdb.ConstantExpression(value))
    columns: dict[str, Any] = own.select(*map(duckdb.ColumnExpression, names)).fetchnumpy()
    cards = columns[schema.customer].tolist()
    if absent := cards.count(None):
        raise DataError(f"column {schema.customer}: expected a customer in every row, got none in {absent} rows")
    columns[schema.customer] = np.array([numbers.setdefault(card, len(numbers)) for card in cards], dtype=np.int64)
    return {name: _unmasked(column) for name, column in columns.items()}


def _kind(name: str, schema: FeatureSchema, numeric: set[str]) -> DuckDBPyType:
    if name == schema.time:
        return TIMESTAMP
    return DOUBLE if name.lower() in numeric else VARCHAR


def _unmasked(column: npt.NDArray[Any]) -> npt.NDArray[np.generic]:
    if column.dtype.kind == "O":
        return np.array(column.tolist(), dtype=object)
    absent = np.datetime64("NaT") if column.dtype.kind == "M" else np.nan
    plain: npt.NDArray[np.generic] = np.ma.filled(column, absent)
    return plain
