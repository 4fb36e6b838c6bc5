"""A bank's rows as the learners see them: one byte a feature, and the model's raw score so far.

The public grid codes a value once for all rounds and all campaigns of a schema; trees cut codes (`routing.py`), and each
round adds the trees that are new to the score that the round before left.

    rows = code_table(table.train())
    rows = advance(rows, schema, state.trees)           # only those that it has not seen
    cells = leaves_of(rows, schema, query.trees)        # [T, n]
    rows = remember(rows, query.digest(), cells)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mintmark.models.routing import route
from mintmark.models.tree import Tree
from mintmark.schema import FeatureSchema, public_edges
from mintmark.table import Table


@dataclass(frozen=True, eq=False)
class RowState:
    """n rows of F features, those of a customer next to each other, and where the model stands on them.

    `codes` [F, n] uint8: 0 is missing, 1 + i holds edges[i - 1] < x <= edges[i] of the feature's grid, or the category i.
    `score` [n] is the sum of the first `trees` trees' leaf values, in log-odds without the base score. `leaves` [T, n]
    are those of the trees that the question with the digest `question` asked for: when they come back with values, no row
    has to fall through them again. `days` [n] are the rows' days since 1970, empty where the schema knows no time.
    """

    codes: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]  # [n]; 1 is fraud
    customers: npt.NDArray[np.int64]  # [n]; not decreasing
    score: npt.NDArray[np.float64]
    trees: int = 0
    question: str = ""
    leaves: npt.NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0), np.uint8))
    days: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    def __post_init__(self) -> None:
        # Compiled loops read these arrays without checking their ends.
        lengths = {self.codes.shape[1], len(self.labels), len(self.customers), len(self.score)}
        if len(lengths) > 1:
            raise ValueError(f"expected codes, labels, customers and scores of one length, got {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.labels)


def code_table(table: Table) -> RowState:
    """Code every value of a table; no tree has been added to the score yet."""
    codes = code_features(table.schema, table.features)
    return RowState(codes, table.labels, table.customers, np.zeros(len(table)), days=table.days)


def code_features(schema: FeatureSchema, features: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """The codes [F, n] of `features` [n, F], whatever they hold: outside the bounds and infinite is the last cell, a
    category outside the list is missing."""
    from mintmark.models import kernels  # compiles, or loads what was compiled

    codes = np.empty((len(schema.features), len(features)), dtype=np.uint8)
    categories = np.array([len(feature.categories) for feature in schema.features])
    kernels.code_rows(np.ascontiguousarray(features), public_edges(schema), categories, codes)
    return codes


def leaves_of(rows: RowState, schema: FeatureSchema, trees: Sequence[Tree]) -> npt.NDArray[np.uint8]:
    """Each row's leaf in each tree: [T, n]."""
    from mintmark.models import kernels

    routing = route(schema, trees)
    leaves = np.empty((len(trees), len(rows)), dtype=np.uint8)
    kernels.find_leaves(rows.codes, routing.feature, routing.following, leaves)
    return leaves


def advance(rows: RowState, schema: FeatureSchema, trees: Sequence[Tree]) -> RowState:
    """The rows with the scores of all `trees`, the first `rows.trees` of which are in their score already.

    The result is the same, bit for bit, whether trees come one by one or all at once. Raises `ValueError` for rows that
    have seen more trees than there are.
    """
    from mintmark.models import kernels

    if rows.trees > len(trees):
        raise ValueError(f"expected rows that saw at most {len(trees)} trees, got {rows.trees}")
    if not (new := trees[rows.trees :]):
        return rows
    routing, score = route(schema, new), rows.score.copy()
    kernels.add_scores(rows.codes, routing.feature, routing.following, _values(new), score)
    return replace(rows, score=score, trees=len(trees))


def remember(rows: RowState, question: str, cells: npt.NDArray[np.integer]) -> RowState:
    """The rows with the cells [slots, n] that answered the question of that digest, for the next round's `advance`;
    without, when a cell is no byte."""
    return replace(rows, question=question, leaves=cells.view(np.uint8)) if cells.dtype == np.uint8 else rows


def add_leaves(rows: RowState, trees: Sequence[Tree]) -> RowState:
    """What `advance` does, for the `trees` that the rows' leaves are in."""
    from mintmark.models import kernels

    score = rows.score.copy()
    kernels.add_values(rows.leaves, _values(trees), score)
    return replace(rows, score=score, trees=rows.trees + len(trees))


def _values(trees: Sequence[Tree]) -> npt.NDArray[np.float64]:
    values = np.zeros((len(trees), 256))
    for row, tree in zip(values, trees, strict=True):
        row[: tree.leaves] = tree.leaf_value
    return values
