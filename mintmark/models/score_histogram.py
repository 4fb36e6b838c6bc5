"""The last round: how many held-out rows of each class fall in each score cell (protocol, step 10).

Every held-out row counts 1 in one of 2 x 128 cells: its class, and its probability on a public grid that is even in
log-odds. Curves and figures follow from the noised sum of the counts (`mintmark/evaluation.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.canonical import canonical_json, digest
from mintmark.models.rows import RowState
from mintmark.privacy.mechanism import Contributions
from mintmark.schema import FeatureSchema

SCORE_CELLS = 128
_LOG_ODDS = 8.0  # the grid's ends: probabilities of .0003 and .9997


def score_edges() -> npt.NDArray[np.float64]:
    """The public grid: 127 probabilities, even in log-odds from -8 to 8."""
    return 1 / (1 + np.exp(-np.linspace(-_LOG_ODDS, _LOG_ODDS, SCORE_CELLS - 1)))


@dataclass(frozen=True)
class ScoreQuery:
    """The question of the round after the last: cells 0..127 count negatives, 128..255 positives."""

    schema: FeatureSchema
    slots: int = 1
    cells: int = 2 * SCORE_CELLS
    width: int = 1

    def digest(self) -> str:
        return digest(canonical_json({"query": "scores", "schema": self.schema.digest(), "cells": SCORE_CELLS}))


def count_scores(query: ScoreQuery, probability: npt.NDArray[np.float64], rows: RowState) -> Contributions:
    """Each row's cell: [1, n]. `probability` [n] is the model's."""
    cell = np.searchsorted(score_edges(), probability, side="left") + SCORE_CELLS * rows.labels.astype(np.int64)
    return Contributions(cell[None].astype(np.uint8), np.ones((len(rows), 1)), query.cells)
