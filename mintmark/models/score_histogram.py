r"""The last round: how many held-out rows of each class, and how much of the frauds' money, fall in each score cell
(protocol, step 10).

A slot is one way to divide the rows: slot 0 does not, the others divide by a declared feature (customer groups) or by the
campaign's weeks. In each slot a row adds to one cell: its word, its class, and its probability on a public grid even in
log-odds. Figures follow from the noised sums (`mintmark/evaluation.py`).

A row adds (w c, w b v): v is its payment's value over the schema's public limit if it is a fraud, else 0, and
$c^2 + b^2 = 1$; without a declared value it adds w alone. The weight w is public: 1/64 for honest rows in the low cells,
where counts are large, up to 1 for frauds and where the model says fraud; so a customer's many dull payments do not use up
what the plan lets the customer add. w is scaled such that `REACH` frauds of a customer in one cell are within the plan's
norm: clipping takes next to nothing, and figures count rows, as everybody's do (docs/evaluation.md has the measurement).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mintmark.canonical import canonical_json, digest
from mintmark.models.rows import RowState
from mintmark.plan import Campaign, PrivacyUnit
from mintmark.privacy.mechanism import Contributions
from mintmark.schema import Feature, FeatureKind, FeatureSchema

FEW_CELLS, MANY_CELLS = 24, 128  # with noise, and without: the noise of a sum of cells grows with their number
LOW, HIGH = -10.0, 4.0  # log-odds: the grid's ends, probabilities of .00005 and .982
REACH = {PrivacyUnit.CUSTOMER: 3.0, PrivacyUnit.TRANSACTION: 1.0}
VALUE_PART = 0.5  # b
COUNT_PART = (1 - VALUE_PART**2) ** 0.5  # c
_UNCLIPPED = 64.0  # rows: where no noise asks for a bound
_MOST_HALVINGS = 6
_EPOCH = date(1970, 1, 1)

Floats = npt.NDArray[np.float64]


def score_edges(cells: int) -> Floats:
    """The public grid: cells - 1 probabilities, even in log-odds."""
    return 1 / (1 + np.exp(-np.linspace(LOW, HIGH, cells - 1)))


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """What some rows' scores are: for m cells from the lowest score up, `counts` [2, m] of honest rows and frauds and
    `noise` [2, m], the standard deviation in each; `value` [m] of the frauds and its `value_noise` in units of the
    schema's limit, None without a declared value. Noised counts may lie below 0."""

    counts: Floats
    noise: Floats
    value: Floats | None = None
    value_noise: float = 0.0


@dataclass(frozen=True)
class Division:
    """One slot: every row belongs to one of `words`; `feature` is its column, None for weeks and for no division."""

    name: str
    words: tuple[str, ...]
    feature: int | None = None


@dataclass(frozen=True)
class ScoreQuery:
    """The question of the round after the last. Cell (word, class, score) is (2 word + class) `score_cells` + score."""

    schema: FeatureSchema
    campaign: Campaign

    @cached_property
    def divisions(self) -> tuple[Division, ...]:
        """The slots: all rows, the declared features' groups, the campaign's weeks."""
        groups = tuple(
            Division(feature.name, group_words(feature), column)
            for column, feature in enumerate(self.schema.features)
            if feature.fairness
        )
        held_out = self.campaign.held_out
        weeks = (Division("weeks", ("other", *held_out.week_names)),) if held_out else ()
        return (Division("all", ("all",)), *groups, *weeks)

    @property
    def score_cells(self) -> int:
        return MANY_CELLS if self.campaign.privacy.epsilon is None else FEW_CELLS

    @property
    def slots(self) -> int:
        return len(self.divisions)

    @property
    def cells(self) -> int:
        return 2 * self.score_cells * max(len(division.words) for division in self.divisions)

    @property
    def width(self) -> int:
        return 2 if self.schema.value else 1

    @cached_property
    def weights(self) -> Floats:
        """What an honest row and a fraud add in each score cell: [2, score_cells], powers of two but for one factor."""
        privacy = self.campaign.privacy
        reach = _UNCLIPPED if privacy.epsilon is None else REACH[privacy.unit]
        return relative_weights(self.score_cells) * min(1.0, privacy.clip / reach)

    def digest(self) -> str:
        held_out = self.campaign.held_out
        parts = {
            "query": "scores",
            "schema": self.schema.digest(),
            "cells": self.score_cells,
            "weights": [f"{weight:.12g}" for weight in self.weights.ravel()],
            "weeks": held_out.model_dump(mode="json") if held_out else None,
        }
        return digest(canonical_json(parts))


def relative_weights(cells: int) -> Floats:
    """What an honest row and a fraud add in each score cell, to the most that a row adds: [2, cells]."""
    middle = np.linspace(LOW, HIGH, cells)
    return np.stack([2.0 ** -np.clip(np.ceil(-0.7 * middle), 0, _MOST_HALVINGS), np.ones(cells)])


def group_words(feature: Feature) -> tuple[str, ...]:
    """The names of the groups of customers that a feature divides into, missing values first.

    >>> group_words(Feature("age", FeatureKind.INTEGER, 18, 100, fairness=True, fairness_edges=(30.0, 60.0)))
    ('missing', 'up to 30', 'over 30 up to 60', 'over 60')
    """
    if feature.kind is FeatureKind.CATEGORY:
        return ("missing", *feature.categories)
    edges = [f"{edge:g}" for edge in feature.fairness_edges]
    between = (f"over {low} up to {high}" for low, high in pairwise(edges))
    return ("missing", f"up to {edges[0]}", *between, f"over {edges[-1]}")


def count_scores(query: ScoreQuery, probability: Floats, rows: RowState) -> Contributions:
    """Each row's cell in every slot, and what it adds. `probability` [n] is the model's."""
    score = np.searchsorted(score_edges(query.score_cells), probability, side="left")
    labels = rows.labels.astype(np.int64)
    within = labels * query.score_cells + score
    cells = np.stack([_words(query, division, rows) * 2 * query.score_cells + within for division in query.divisions])
    weight = query.weights[labels, score]
    if not query.schema.value:
        return Contributions(_narrow(cells, query), weight[:, None], query.cells)
    value = np.where(labels == 1, _values(query.schema, rows), 0.0)
    return Contributions(
        _narrow(cells, query),
        weight[:, None] * np.stack([np.full(len(rows), COUNT_PART), VALUE_PART * value], axis=1),
        query.cells,
    )


def read_histograms(query: ScoreQuery, sums: Floats, noise: float) -> Mapping[str, Mapping[str, ScoreHistogram]]:
    """The histograms by division and word in `sums` [slots, cells, width], which carry noise of standard deviation
    `noise`; both in units of 1.0."""
    found: dict[str, dict[str, ScoreHistogram]] = {}
    parts = (COUNT_PART, VALUE_PART) if query.schema.value else (1.0, 0.0)
    for division, slot in zip(query.divisions, sums, strict=True):
        by_word = slot.reshape(-1, 2, query.score_cells, query.width)
        found[division.name] = {
            word: ScoreHistogram(
                counts=by_word[at, ..., 0] / query.weights / parts[0],
                noise=noise / query.weights / parts[0],
                value=by_word[at, 1, :, 1] / query.weights[1] / parts[1] if query.schema.value else None,
                value_noise=float(noise / query.weights[1, 0] / parts[1]) if query.schema.value else 0.0,
            )
            for at, word in enumerate(division.words)
        }
    return found


def pooled_counts(query: ScoreQuery, sums: Floats) -> Floats:
    """The counts [2, score_cells] of all rows, none below 0: what a learner's state keeps of the evaluation."""
    return np.maximum(read_histograms(query, sums, 0.0)["all"]["all"].counts, 0.0)


def _words(query: ScoreQuery, division: Division, rows: RowState) -> npt.NDArray[np.int64]:
    """Each row's word in a division: [n]."""
    held_out = query.campaign.held_out
    if division.feature is None:
        if division.name == "all" or held_out is None:
            return np.zeros(len(rows), dtype=np.int64)
        week = (rows.days.astype(np.int64) - (held_out.first_day - _EPOCH).days) // 7 + 1
        within: npt.NDArray[np.int64] = np.where((week > 0) & (week <= held_out.weeks), week, 0)
        return within
    feature = query.schema.features[division.feature]
    codes: npt.NDArray[np.int64] = rows.codes[division.feature].astype(np.int64)
    if feature.kind is FeatureKind.CATEGORY:
        return codes
    # A row's value is known to its cell of the feature's grid: the cell's upper end decides.
    upper = np.append(feature.grid(), feature.upper)
    upper = np.floor(upper) if feature.kind is FeatureKind.INTEGER else upper
    words: npt.NDArray[np.int64] = np.append(0, 1 + np.searchsorted(feature.fairness_edges, upper, side="left"))
    own: npt.NDArray[np.int64] = words[codes]
    return own


def _values(schema: FeatureSchema, rows: RowState) -> Floats:
    """Each row's value over the limit: [n] in [0, 1], known to its cell of the grid (its middle); missing is 0."""
    column = schema.names.index(schema.value)
    feature = schema.features[column]
    ends = np.concatenate([[feature.lower], feature.grid(), [feature.upper]])
    middle = np.append(0.0, (ends[1:] + ends[:-1]) / 2)
    return np.asarray(np.minimum(middle[rows.codes[column]] / schema.value_limit, 1.0))


def _narrow(cells: npt.NDArray[np.int64], query: ScoreQuery) -> npt.NDArray[np.integer]:
    return cells.astype(np.uint8 if query.cells <= 256 else np.uint16)
