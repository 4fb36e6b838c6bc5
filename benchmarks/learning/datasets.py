"""The three sets: each bank's rows to train on and the rows held out, and what an undetected fraud costs.

- `simulator`: the project's own (`mintmark.synthetic`), the demonstration's size and seed; held out are the last weeks.
- `sparkov`: 1.3 million payments of the public Sparkov generator; held out are 30 % of the customers.
- `uci_default`: 30,000 real credit card customers; held out are 30 % of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from infra.embedded.dataset import load_dataset
from infra.embedded.demo import ROWS_A_BANK
from mintmark.schema import FeatureSchema, parse_schema
from mintmark.synthetic import simulate
from mintmark.table import Columns, Table, build_table

SETS = ("simulator", "sparkov", "uci_default")
FILES = {"sparkov": "sparkov/transactions.parquet", "uci_default": "uci_default/credit_default.parquet"}
# What a fraud that goes unnoticed costs: the payment's amount; of a default, what the customer owed at the last bill.
AMOUNT = {"simulator": "amount", "sparkov": "amount", "uci_default": "BILL_AMT1"}
SIMULATOR_SEED, SIMULATOR_BANKS = 7, 4
EXAMPLES = Path(__file__).parents[2] / "examples"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BenchmarkSet:
    """Banks from the largest to the smallest by training rows; `amount` names the column whose sum is the value."""

    name: str
    schema: FeatureSchema
    training: Mapping[str, Table]
    held_out: Mapping[str, Table]
    amount: str

    def value(self, rows: Table) -> Floats:
        """[n]: what is lost when a row is a fraud and is not noticed, at least 0; 0 where unknown."""
        column = rows.features[:, self.schema.names.index(self.amount)]
        return np.maximum(np.nan_to_num(column), 0.0)


def load_set(name: str, data: Path) -> BenchmarkSet:
    """Load one of `SETS`; `data` is the folder that holds the two shared ones. Raises `DataError` when it does not."""
    if name == "simulator":
        schema, columns = simulate(SIMULATOR_SEED, banks=SIMULATOR_BANKS, rows=ROWS_A_BANK * SIMULATOR_BANKS)
        return split_set(name, schema, columns, AMOUNT[name])
    schema = parse_schema((EXAMPLES / f"{name}.toml").read_text())
    return split_set(name, schema, load_dataset(data / FILES[name], schema).banks, AMOUNT[name])


def split_set(name: str, schema: FeatureSchema, columns: Mapping[str, Columns], amount: str) -> BenchmarkSet:
    """Every bank's columns as rows to train on and rows held out, the largest bank first."""
    tables = {bank: build_table(schema, own) for bank, own in columns.items()}
    training = {bank: table.train() for bank, table in tables.items()}
    order = sorted(training, key=lambda bank: -len(training[bank]))
    return BenchmarkSet(
        name,
        schema,
        {bank: training[bank] for bank in order},
        {bank: tables[bank].test_part() for bank in order},
        amount,
    )


def pooled(tables: Mapping[str, Table]) -> Table:
    """All banks' rows in one place; a customer of two banks counts as two."""
    parts = list(tables.values())
    starts = np.cumsum([0, *(len(np.unique(part.customers)) for part in parts)])
    return Table(
        parts[0].schema,
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.customers + start for part, start in zip(parts, starts, strict=False)]),
        np.concatenate([part.test for part in parts]),
        parts[0].clipped_share,
    )
