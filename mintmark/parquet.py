"""Columns of a Parquet file as NumPy arrays, for tables and for reference rows: only those that are needed.

columns = read_columns(Path("bank-a.parquet"), columns_of(schema))
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mintmark.errors import DataError

MAX_TABLE_BYTES = 8 * 2**30
MAX_ROWS = 50_000_000


def read_columns(path: Path, needed: Collection[str]) -> dict[str, npt.NDArray[np.generic]]:
    """The needed columns that the file has. Raises `DataError`: no such file, not Parquet, or too large."""
    try:
        size = path.stat().st_size
        if size > MAX_TABLE_BYTES:
            raise DataError(f"{path.name}: expected at most {MAX_TABLE_BYTES} bytes, got {size}")
        with pq.ParquetFile(path) as file:
            rows = file.metadata.num_rows
            if rows > MAX_ROWS:
                raise DataError(f"{path.name}: expected at most {MAX_ROWS} rows, got {rows}")
            arrow = file.read(columns=[name for name in file.schema_arrow.names if name in needed])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path.name}: expected a readable Parquet file, got {type(error).__name__}") from error
    return {name: numpy_column(arrow.column(name)) for name in arrow.column_names}


def numpy_column(column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    """An Arrow column as `build_table` takes it: decimals and flags with nulls become floats."""
    if pa.types.is_decimal(column.type) or (pa.types.is_boolean(column.type) and column.null_count):
        column = column.cast(pa.float64())
    values: npt.NDArray[np.generic] = column.to_numpy()
    return values
