"""Round 0: a histogram of every feature on its public grid, and what follows from the noised sum of them.

The question: every row counts 1 in one cell of each of its F features and in one of two cells for its label, a
contribution of norm sqrt(F + 1). The answer gives each feature's bin edges, which are edges of the public grid, and the
share of positives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.canonical import canonical_json, digest
from mintmark.privacy.mechanism import Contributions
from mintmark.schema import MAX_EDGES, FeatureSchema
from mintmark.table import Table

MISSING = 0  # the cell and the bin of a missing value
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


def count_rows(query: HistogramQuery, rows: Table) -> Contributions:
    """Each row's cells: [F + 1, n]. Cell 0 is missing, cell 1 + i holds edges[i - 1] < x <= edges[i]."""
    cells = np.empty((query.slots, len(rows)), dtype=np.uint16)
    for column, feature in enumerate(query.schema.features):
        x = rows.features[:, column]
        cells[column] = np.where(np.isnan(x), MISSING, 1 + np.searchsorted(feature.grid(), x, side="left"))
    cells[-1] = rows.labels
    return Contributions(cells, np.ones((len(rows), 1)), query.cells)


def bin_edges(schema: FeatureSchema, counts: Floats, noise: float) -> tuple[Floats, ...]:
    """Edges of each feature: at most 24 of its grid's, at quantiles of count**.33, always at least one.

    `counts` [F + 1, cells] are noised sums, `noise` their standard deviation.
    """
    return tuple(
        _quantile_edges(feature.grid(), counts[column, 1:], noise) for column, feature in enumerate(schema.features)
    )


def _quantile_edges(grid: Floats, counts: Floats, noise: float) -> Floats:
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


def base_score(counts: Floats) -> float:
    """Log-odds of a positive, from the label's slot of `counts` [F + 1, cells]; kept within [1e-4, .5]."""
    negatives, positives = np.maximum(counts[-1, :2], 0.0)
    rate = float(np.clip(positives / max(negatives + positives, 1.0), 1e-4, 0.5))
    return float(np.log(rate / (1 - rate)))
