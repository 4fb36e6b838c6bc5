"""The bank's own file: Parquet in, a checked `Table` out. Only the agreed columns are read.

The file holds the features already derived: a schema's `query` is for preparing it, and is not run here.

    table = load_table(Path("bank-a.parquet"), schema)
"""

from __future__ import annotations

from pathlib import Path

from mintmark.errors import DataError
from mintmark.parquet import read_columns
from mintmark.schema import FeatureSchema
from mintmark.table import Table, build_table, columns_of


def load_table(path: Path, schema: FeatureSchema) -> Table:
    """Read and check the bank's rows. Raises `DataError`: no such file, not Parquet, too large, or wrong inside."""
    columns = read_columns(path, columns_of(schema))
    try:
        return build_table(schema, columns)
    except DataError as error:
        raise DataError(f"{path.name}: {error}") from None
