"""A Parquet file of transactions in, a Parquet file of scores out, a batch at a time: memory does not grow with the file.

Columns are checked against the agreed schema before anything is read, values are brought into the same form as in training
(clipped to the public bounds, unknown categories missing), and the output appears whole or not at all. Rows keep order.

    score     probability of fraud        reason_1             the feature that raised the score most
    log_odds  the raw score               reason_1_log_odds    by how much

    scored = score_file(Path("today.parquet"), Path("scores.parquet"), scorer, schema, keep=("payment_id",), reasons=3)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bank_node.personal.scorer import Scores
from mintmark.errors import DataError
from mintmark.parquet import numpy_column
from mintmark.schema import Feature, FeatureKind, FeatureSchema
from mintmark.table import bounded_values

BATCH_ROWS = 50_000
_TURNED_ROWS = 2_048
_READ_BYTES = 2**20  # at a time of each column: else a file of one row group is held whole

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """How many rows were scored, and of how many each feature's value was outside the agreed bounds or categories."""

    rows: int
    outside: dict[str, int]


def score_file(
    source: Path, target: Path, scorer: Scores, schema: FeatureSchema, *, keep: tuple[str, ...] = (), reasons: int = 0
) -> Scored:
    """Score every row of `source`; write `keep` columns, scores and as many reasons a row as asked into `target`.

    Raises `DataError` with one sentence: not readable, a column missing or of another kind, a value that is not finite.
    `target` is then what it was before.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise DataError(f"{target}: expected another file for the scores than the transactions'")
    rows, outside = 0, dict.fromkeys(schema.names, 0)
    try:
        # 'buffer_size' streams the pages of a column; 'pre_buffer' would fetch whole row groups.
        with pq.ParquetFile(source, buffer_size=_READ_BYTES, pre_buffer=False) as file:
            layout = _layout(file.schema_arrow, schema, keep, reasons)
            columns = [*schema.names, *(name for name in keep if name not in schema.names)]
            with _appearing_whole(target) as partial, _writer(partial, layout, keep) as writer:
                for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                    features = batch_features(batch, schema, outside)
                    writer.write_table(_scored(batch, features, scorer, schema, layout, keep, reasons))
                    rows += batch.num_rows
    except DataError as error:
        raise DataError(f"{source.name}: {error}") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"expected a readable Parquet file {source} and a writable {target}, got {type(error).__name__}"
        ) from None
    return Scored(rows, outside)


def _writer(path: Path, layout: pa.Schema, keep: tuple[str, ...]) -> pq.ParquetWriter:
    """Scores and log-odds are nearly all different: a dictionary of them would only cost time."""
    repeated = [*keep, *(name for name in layout.names if pa.types.is_string(layout.field(name).type))]
    return pq.ParquetWriter(path, layout, compression="zstd", use_dictionary=list(dict.fromkeys(repeated)))


def _layout(file: pa.Schema, schema: FeatureSchema, keep: tuple[str, ...], reasons: int) -> pa.Schema:
    """The output's columns. Raises `DataError` when the input's are not the agreed ones."""
    if missing := [name for name in (*schema.names, *keep) if name not in file.names]:
        raise DataError(f"expected the columns {', '.join((*schema.names, *keep))}, got no {', '.join(missing)}")
    for feature in schema.features:
        found = file.field(feature.name).type
        if not (_is_word(found) if feature.kind is FeatureKind.CATEGORY else _is_number(found)):
            raise DataError(f"column {feature.name}: expected kind {feature.kind}, got {found}")
    if not 0 <= reasons <= len(schema.features):
        raise DataError(f"expected 0 to {len(schema.features)} reasons, got {reasons}")
    fields = [(name, file.field(name).type) for name in keep]
    fields += [("score", pa.float64()), ("log_odds", pa.float64())]
    for rank in range(1, reasons + 1):
        fields += [(f"reason_{rank}", pa.string()), (f"reason_{rank}_log_odds", pa.float64())]
    names = [name for name, _ in fields]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"expected other columns to keep than {', '.join(twice)}: the scores have these names")
    return pa.schema(fields)


def _is_number(found: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null)
    return any(kind(found) for kind in kinds)


def _is_word(found: pa.DataType) -> bool:
    if pa.types.is_dictionary(found):
        return _is_word(found.value_type)
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    return any(kind(found) for kind in kinds)


def batch_features(batch: pa.RecordBatch, schema: FeatureSchema, outside: dict[str, int]) -> Floats:
    """The batch's features [n, F] in the agreed form; adds to the counts of values outside."""
    columns = []
    for feature in schema.features:
        values = batch.column(feature.name)
        if pa.types.is_null(values.type):
            values = values.cast(pa.float64())
        if feature.kind is FeatureKind.CATEGORY:
            column, beyond = _coded(feature, values)
        else:
            column, beyond = bounded_values(feature, numpy_column(pa.chunked_array([values])))
        columns.append(column)
        outside[feature.name] += beyond
    features: Floats = np.empty((batch.num_rows, len(columns)))
    for start in range(0, batch.num_rows, _TURNED_ROWS):  # so few that they stay in the cache while they are turned
        features[start : start + _TURNED_ROWS] = np.array([one[start : start + _TURNED_ROWS] for one in columns]).T
    return features


def _coded(feature: Feature, values: pa.Array) -> tuple[Floats, int]:
    """A category's codes [n], and how many words are not in its list: every different word is looked up once."""
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    at = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    words = numpy_column(pa.chunked_array([encoded.dictionary]))
    codes, _ = bounded_values(feature, words)
    unknown = [bounded_values(feature, words[place : place + 1])[1] for place in range(len(words))]
    return np.append(codes, np.nan)[at], int(np.append(unknown, 0).astype(np.int64)[at].sum())


def _scored(
    batch: pa.RecordBatch,
    features: Floats,
    scorer: Scores,
    schema: FeatureSchema,
    layout: pa.Schema,
    keep: tuple[str, ...],
    reasons: int,
) -> pa.Table:
    log_odds = scorer.raw(features)
    columns: list[pa.Array] = [batch.column(name) for name in keep]
    columns += [pa.array(1 / (1 + np.exp(-log_odds))), pa.array(log_odds)]
    if reasons:
        for names, values in top_reasons(scorer.contributions(features), schema.names, reasons):
            columns += [pa.array(names, pa.string()), pa.array(values, from_pandas=True)]
    return pa.Table.from_arrays(columns, schema=layout)


def top_reasons(contributions: Floats, names: tuple[str, ...], count: int) -> Iterator[tuple[list[str | None], Floats]]:
    """For each rank the features' names [n] and log-odds [n] that raised each row's score most; only what raises is one.

    >>> first, second = top_reasons(np.array([[0.5, -2.0, 1.5, -3.0]]), ("amount", "hour", "channel"), 2)
    >>> first[0], first[1].tolist(), second[0]
    (['channel'], [1.5], ['amount'])
    """
    raising = contributions[:, : len(names)]
    order = np.argsort(-raising, axis=1, kind="stable")
    for rank in range(count):
        feature = order[:, rank]
        values = raising[np.arange(len(raising)), feature]
        yield (
            [names[at] if value > 0 else None for at, value in zip(feature, values, strict=True)],
            np.where(values > 0, values, np.nan),
        )


@contextmanager
def _appearing_whole(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes `target` at the end; after an error or Ctrl-C nothing is left of it."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
