"""One bank's rows, checked against the schema: what every computation at a bank starts from.

Values outside the public bounds are clipped to them, as the privacy accounting presumes; what is missing stays NaN.
Reading files is `bank_node/table.py`. Messages name columns and counts, never a value from a customer's row.

    table = build_table(schema, {"amount": amounts, "channel": channels, "fraud": labels, "card": cards, "test": flags})
    table.train().features  # [n, F] float64, rows of one customer next to each other
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mintmark.errors import DataError
from mintmark.schema import Feature, FeatureKind, FeatureSchema

Columns = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class Table:
    """n rows of F features, sorted by customer; the order of a customer's rows is the order they came in.

    Made by `build_table`, which checks; a part made by `train` or `test_part` may be empty.
    """

    schema: FeatureSchema
    features: npt.NDArray[np.float64]  # [n, F]; NaN is missing, a category is its code
    labels: npt.NDArray[np.uint8]  # [n]; 1 is fraud
    customers: npt.NDArray[np.int64]  # [n]; 0..u-1, not decreasing
    test: npt.NDArray[np.bool_]  # [n]; held out of training
    clipped_share: tuple[float, ...]  # per feature, of all the rows the table was built from
    days: npt.NDArray[np.int32] = field(
        default_factory=lambda: np.empty(0, np.int32)
    )  # [n] since 1970; or [0]: no time

    def __len__(self) -> int:
        return len(self.labels)

    def train(self) -> Table:
        """The rows that models learn from, with customers numbered anew."""
        return self.part(~self.test)

    def test_part(self) -> Table:
        """The rows held out, with customers numbered anew."""
        return self.part(self.test)

    def part(self, rows: npt.NDArray[np.bool_]) -> Table:
        """The rows that are marked [n], with customers numbered anew."""
        return replace(
            self,
            features=self.features[rows],
            labels=self.labels[rows],
            customers=np.unique(self.customers[rows], return_inverse=True)[1].astype(np.int64),
            test=self.test[rows],
            days=self.days[rows] if len(self.days) else self.days,
        )


def build_table(schema: FeatureSchema, columns: Columns) -> Table:
    """Check `columns` (one [n] array each; others than the schema's are ignored) and bring them into the agreed form.

    Numeric features are arrays of numbers, NaN where missing. Categories are words, or integers that stand for their
    decimal text; None and NaN are missing, unknown words become missing and count as clipped. A time is NumPy's datetime64.
    Raises `DataError` with the column's name: missing, not numeric, infinite; a label or test flag that is not 0 or 1;
    a customer missing; no rows, or no fraud or no honest row to train on.
    """
    needed = columns_of(schema)
    if missing := [name for name in needed if name not in columns]:
        raise DataError(f"expected the columns {', '.join(needed)}, got none named {', '.join(missing)}")
    shapes = {columns[name].shape for name in needed}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1:
        raise DataError("expected columns of one length, got different ones")
    if shape[0] == 0:
        raise DataError("expected rows, got an empty table")
    labels = _flags(schema.label, columns[schema.label]).astype(np.uint8)
    test = _flags(schema.test, columns[schema.test])
    _check_trainable(schema, labels[~test])
    customers = _codes(schema.customer, columns[schema.customer])
    order = np.argsort(customers, kind="stable")
    features = np.empty((len(order), len(schema.features)), dtype=np.float64)
    clipped = []
    for column, feature in enumerate(schema.features):
        values, outside = bounded_values(feature, columns[feature.name])
        features[:, column] = values[order]
        clipped.append(outside / len(order))
    days = _days(schema.time, columns[schema.time])[order] if schema.time else np.empty(0, np.int32)
    return Table(schema, features, labels[order], customers[order], test[order], tuple(clipped), days)


def columns_of(schema: FeatureSchema) -> tuple[str, ...]:
    """The columns that a bank's file must have."""
    return (*schema.names, schema.label, schema.customer, schema.test, *([schema.time] if schema.time else ()))


def bounded_values(feature: Feature, column: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.float64], int]:
    """The feature's values [n] in the agreed form, within its bounds, and how many were outside (see `build_table`).

    Raises `DataError` when the column is not numeric, or infinite somewhere.
    """
    if feature.kind is FeatureKind.CATEGORY:
        return _category_codes(feature, column)
    values = _numbers(feature.name, column)
    if infinite := int(np.isinf(values).sum()):
        raise DataError(f"column {feature.name}: expected finite or missing values, got {infinite} infinite ones")
    outside = int(((values < feature.lower) | (values > feature.upper)).sum())
    return np.clip(values, feature.lower, feature.upper), outside


def _category_codes(feature: Feature, column: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.float64], int]:
    codes: dict[object, float] = {word: float(code) for code, word in enumerate(feature.categories)}
    codes |= {int(word): code for word, code in codes.items() if isinstance(word, str) and _is_integer(word)}
    words = column.tolist()
    values = np.array([codes.get(word, np.nan) for word in words], dtype=np.float64)
    unknown = {word for word in set(words) if word not in codes and not _is_missing(word)}
    return values, sum(word in unknown for word in words) if unknown else 0


def _is_integer(word: str) -> bool:
    return word.removeprefix("-").isdigit() and str(int(word)) == word


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _numbers(name: str, column: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    if column.dtype.kind not in "biuf":
        raise DataError(f"column {name}: expected numbers, got {column.dtype}: convert them, or declare a category")
    return np.ma.filled(column.astype(np.float64), np.nan)  # a masked array's hidden values are missing ones


def _flags(name: str, column: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    values = _numbers(name, column)
    if wrong := int(((values != 0) & (values != 1)).sum()):  # NaN is neither
        raise DataError(f"column {name}: expected 0 or 1 in every row, got something else or nothing in {wrong} rows")
    flags: npt.NDArray[np.bool_] = values == 1
    return flags


def _days(name: str, column: npt.NDArray[np.generic]) -> npt.NDArray[np.int32]:
    """Days since 1970-01-01 (UTC)."""
    if column.dtype.kind != "M" or np.isnat(column).any():
        raise DataError(
            f"column {name}: expected a date or a time in every row, got {column.dtype}, or none in some rows"
        )
    return column.astype("datetime64[D]").astype(np.int64).astype(np.int32)


def _codes(name: str, column: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Dense codes of the customers, in their sorted order."""
    keys = column.tolist()
    distinct = set(keys)
    if any(map(_is_missing, distinct)):
        absent = sum(map(_is_missing, keys))
        raise DataError(f"column {name}: expected a customer in every row, got none in {absent} rows")
    try:
        codes = {key: code for code, key in enumerate(sorted(distinct))}
    except TypeError:
        raise DataError(f"column {name}: expected customers all numbers or all text, got a mixture") from None
    return np.array([codes[key] for key in keys], dtype=np.int64)


def _check_trainable(schema: FeatureSchema, labels: npt.NDArray[np.uint8]) -> None:
    if not len(labels):
        raise DataError(f"expected rows to train on, got only rows with {schema.test} set")
    for label in (1, 0):
        if not (labels == label).any():
            raise DataError(f"expected rows with {schema.label} = {label} to train on, got none in {len(labels)} rows")
