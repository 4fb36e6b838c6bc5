"""The bank's own file: Parquet in, a checked `Table` out. Only the agreed columns are read.

The file holds the features already derived: a schema's `query` is for preparing it, and is not run here.

    table = load_table(Path("bank-a.parquet"), schema)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mintmark.errors import DataError
from mintmark.schema import FeatureSchema
from mintmark.table import Table, build_table, columns_of

MAX_TABLE_BYTES = 8 * 2**30
MAX_ROWS = 50_000_000


def load_table(path: Path, schema: FeatureSchema) -> Table:
    """Read and check the bank's rows. Raises `DataError`: no such file, not Parquet, too large, or wrong inside."""
    try:
        size = path.stat().st_size
        if size > MAX_TABLE_BYTES:
            raise DataError(f"{path.name}: expected at most {MAX_TABLE_BYTES} bytes, got {size}")
        with pq.ParquetFile(path) as file:
            rows = file.metadata.num_rows
            if rows > MAX_ROWS:
                raise DataError(f"{path.name}: expected at most {MAX_ROWS} rows, got {rows}")
            needed = columns_of(schema)
            arrow = file.read(columns=[name for name in file.schema_arrow.names if name in needed])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path.name}: expected a readable Parquet file, got {type(error).__name__}") from error
    try:
        return build_table(schema, {name: numpy_column(arrow.column(name)) for name in arrow.column_names})
    except DataError as error:
        raise DataError(f"{path.name}: {error}") from None


def numpy_column(column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    """An Arrow column as `build_table` takes it: decimals and flags with nulls become floats."""
    if pa.types.is_decimal(column.type) or (pa.types.is_boolean(column.type) and column.null_count):
        column = column.cast(pa.float64())
    values: npt.NDArray[np.generic] = column.to_numpy()
    return values
