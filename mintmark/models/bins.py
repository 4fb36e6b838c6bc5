"""Step 1: the bins that trees cut between. They follow from the schema alone, so nobody has to be asked for them.

A number's bins lie between edges of its public grid, evenly thinned. A category's bins are its words. Bins fitted to
noised counts were tried first, and lost more to the noise than they gained (docs/learning.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.schema import Feature, FeatureKind, FeatureSchema

MAX_CELLS = 2_432  # with two sums of 32 bits each: what a bank signs and seals stays under 20 kB

Floats = npt.NDArray[np.float64]


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


def public_bins(schema: FeatureSchema, most: int) -> tuple[Bins, ...]:
    """Each feature's bins, at least two and one for missing values: at most `most` for a number, one for every word.

    Fewer where one tree of full bins a feature would ask for more than `MAX_CELLS` cells; words that then have to share a
    bin share it with their neighbours in the list.
    """
    room = max(2, MAX_CELLS // len(schema.features) - 1)
    return tuple(_bins(feature, min(most, room), room) for feature in schema.features)


def split_counts(bins: Sequence[Bins]) -> npt.NDArray[np.int64]:
    """How many splits each feature has: [F]."""
    return np.array([own.splits for own in bins])


def _bins(feature: Feature, numbers: int, words: int) -> Bins:
    if feature.kind is FeatureKind.CATEGORY:
        codes = np.arange(len(feature.categories))
        return CategoryBins(tuple(tuple(group.tolist()) for group in np.array_split(codes, min(words, len(codes)))))
    grid = feature.grid()
    if len(grid) < numbers:
        return NumberBins(grid)
    return NumberBins(grid[np.linspace(0, len(grid) - 1, numbers - 1).round().astype(np.int64)])
