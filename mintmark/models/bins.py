"""Step 1, round 0: a histogram of every feature on its public grid, and the bins that follow from the noised sum.

The question: every row counts 1 in one cell of each of its F features and in one of two cells for its label, a
contribution of norm sqrt(F + 1). The answer gives each feature's bins and the share of positives. A number's bins lie
between edges of the public grid. A category's bins are its most frequent words, one each, and one bin for all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.canonical import canonical_json, digest
from mintmark.models.rows import RowState
from mintmark.privacy.mechanism import Contributions
from mintmark.schema import MAX_EDGES, Feature, FeatureKind, FeatureSchema

MAX_BIN_EDGES = 24
_NOISE_FLOOR = 2.0  # cells under this many standard deviations of the noise count as empty
_TEMPER = 0.33  # edges are quantiles of count**.33: features that are mostly zero keep edges where the rest is

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HistogramQuery:
    """The question of round 0. Slot j is feature j, the last slot the label (cells 0 and 1)."""

    schema: FeatureSchema
    width: int = 1
    cells: int = MAX_EDGES + 2

    @property
    def slots(self) -> int:
        return len(self.schema.features) + 1

    def digest(self) -> str:
        return digest(canonical_json({"query": "histograms", "schema": self.schema.digest()}))


@dataclass(frozen=True, eq=False)
class NumberBins:
    """The bins of a number: bin b holds edges[b - 2] < x <= edges[b - 1], b from 1; bin 0 is missing. Split t sends
    bins up to t + 1 left."""

    edges: Floats

    @property
    def splits(self) -> int:
        return len(self.edges)


@dataclass(frozen=True)
class CategoryBins:
    """The bins of a category, in the order that trees cut: bin b holds the codes groups[b - 1]; bin 0 is missing or
    unknown. Split t sends bins 1 to t + 1 left, all else right."""

    groups: tuple[tuple[int, ...], ...]

    @property
    def splits(self) -> int:
        return len(self.groups) - 1

    def left_codes(self, split: int) -> tuple[int, ...]:
        """The codes that the split sends left."""
        return tuple(sorted(code for group in self.groups[: split + 1] for code in group))


Bins = NumberBins | CategoryBins


def count_rows(query: HistogramQuery, rows: RowState) -> Contributions:
    """Each row's cells: [F + 1, n]. A feature's cell is its code, the label's is the label."""
    cells = np.concatenate([rows.codes, rows.labels[None]])
    return Contributions(cells, np.ones((len(rows), 1)), query.cells)


def find_bins(schema: FeatureSchema, counts: Floats, noise: float) -> tuple[Bins, ...]:
    """Each feature's bins, at least two: at most 25 and one for missing values.

    `counts` [F + 1, cells] are noised sums, `noise` their standard deviation.
    """
    return tuple(_bins(feature, counts[column, 1:], noise) for column, feature in enumerate(schema.features))


def split_counts(bins: Sequence[Bins]) -> npt.NDArray[np.int64]:
    """How many splits each feature has: [F]."""
    return np.array([own.splits for own in bins])


def base_score(counts: Floats) -> float:
    """Log-odds of a positive, from the label's slot of `counts` [F + 1, cells]; kept within [1e-4, .5]."""
    negatives, positives = np.maximum(counts[-1, :2], 0.0)
    rate = float(np.clip(positives / max(negatives + positives, 1.0), 1e-4, 0.5))
    return float(np.log(rate / (1 - rate)))


def _bins(feature: Feature, counts: Floats, noise: float) -> Bins:
    if feature.kind is FeatureKind.CATEGORY:
        return CategoryBins(_frequent_groups(counts[: len(feature.categories)]))
    return NumberBins(_quantile_edges(feature.grid(), counts, noise))


def _frequent_groups(counts: Floats) -> tuple[tuple[int, ...], ...]:
    """One group for each of the most frequent codes, in the order of the list, and a last one for all others."""
    if len(counts) <= MAX_BIN_EDGES + 1:
        return tuple((code,) for code in range(len(counts)))
    frequent = sorted(np.argsort(-counts, kind="stable")[:MAX_BIN_EDGES].tolist())
    return *((code,) for code in frequent), tuple(sorted(set(range(len(counts))) - set(frequent)))


def _quantile_edges(grid: Floats, counts: Floats, noise: float) -> Floats:
    """At most 24 edges of the grid, at quantiles of count**.33, at least one."""
    if len(grid) <= MAX_BIN_EDGES:
        return grid
    present = counts[: len(grid) + 1]
    mass = np.where(present > _NOISE_FLOOR * noise, np.maximum(present, 0.0) ** _TEMPER, 0.0)
    total = np.cumsum(mass)
    if total[-1] <= 0:
        return grid[:: len(grid) // MAX_BIN_EDGES + 1]
    quantiles = np.arange(1, MAX_BIN_EDGES + 1) / (MAX_BIN_EDGES + 1)
    chosen = np.unique(np.searchsorted(total / total[-1], quantiles))
    chosen = chosen[chosen < len(grid)]
    return grid[chosen] if len(chosen) else grid[-1:]
