r"""Logistic regression over bins: one coefficient a bin, for small budgets and for those who must explain every figure.

Bins are public, as boosting's (`bins.py`), but fewer, so that each holds enough. Every round asks for the sums of gradient
and hessian in every bin of every feature at the present coefficients, the question of boosting's first round, and steps
(`logistic_step.py`); round 0 gives the base rate besides. The last round counts scores. The finished model is a
scikit-learn `LogisticRegression` behind one-hot bins (`scikit_pipeline.py`); as a LightGBM text it is one tree a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from mintmark.models import additive, bins, lightgbm_text
from mintmark.models.bins import Bins, NumberBins
from mintmark.models.boosting import TreeQuery
from mintmark.models.feature_trees import feature_trees
from mintmark.models.leaf_values import HESSIAN
from mintmark.models.learner import NoisySum, Query
from mintmark.models.logistic_step import Coefficients, Slope, next_coefficients
from mintmark.models.rows import RowState, leaves_of
from mintmark.models.score_histogram import ScoreQuery, count_scores, pooled_counts
from mintmark.models.tree import Tree
from mintmark.plan import Campaign
from mintmark.privacy.mechanism import Contributions
from mintmark.schema import FeatureSchema

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

NUMBER_BINS = 16
EVALUATION_SHARE = 0.05  # of the budget; the other rounds take alike of the rest

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LinearState:
    """The coefficients after `round` settled rounds, and every sum that led to them. All of it public."""

    campaign: Campaign
    schema: FeatureSchema
    bins: tuple[Bins, ...]
    coefficients: Coefficients
    round: int = 0
    slopes: tuple[Slope, ...] = ()
    scores: Floats | None = None  # [2, cells] score histograms by class, after the last round


@dataclass(frozen=True)
class CoefficientRow:
    """One line of the model for people: what a feature's value in `bin` adds to the log-odds of fraud."""

    feature: str
    bin: str
    log_odds: float


class LogisticRegression:
    """The learner `logistic_regression`. Stateless: every method is a pure function of its arguments."""

    name: ClassVar[str] = "logistic_regression"

    def start(self, campaign: Campaign, schema: FeatureSchema) -> LinearState:
        """The state before round 0. Raises `ValueError` when the schema is not the campaign's."""
        if schema.digest() != campaign.schema_digest:
            raise ValueError(f"expected the schema {campaign.schema_digest}, got {schema.digest()}")
        public = bins.public_bins(schema, NUMBER_BINS)
        return LinearState(campaign, schema, public, additive.before_round_0(public))

    def budget_share(self, campaign: Campaign, round: int) -> float:
        """5 % for the evaluation, the other rounds alike."""
        return EVALUATION_SHARE if round == campaign.rounds else (1 - EVALUATION_SHARE) / campaign.rounds

    def query(self, state: LinearState) -> Query:
        """The next round's question."""
        if state.round == state.campaign.rounds:
            return ScoreQuery(state.schema, state.campaign)
        return TreeQuery(state.schema, feature_trees(state.bins), None)

    def advance(self, state: LinearState, rows: RowState) -> RowState:
        """The rows with the scores of the state's coefficients, without the intercept."""
        return replace(rows, score=_score(state, leaves_of(rows, state.schema, feature_trees(state.bins))))

    def contributions(self, state: LinearState, query: Query, rows: RowState) -> Contributions:
        """Each row's cells and values. The last round counts scores, the others sum gradients."""
        cells = leaves_of(rows, state.schema, feature_trees(state.bins))
        probability = 1 / (1 + np.exp(-(_score(state, cells) + state.coefficients.intercept)))
        if isinstance(query, ScoreQuery):
            return count_scores(query, probability, rows)
        values = np.stack([probability - rows.labels, HESSIAN * probability * (1 - probability)], axis=1)
        return Contributions(cells, values, query.cells)

    def settle(self, state: LinearState, query: Query, total: NoisySum) -> LinearState:
        """The next state from a round's aggregate."""
        after = replace(state, round=state.round + 1)
        if isinstance(query, ScoreQuery):
            return replace(after, scores=pooled_counts(query, total.values))
        sums = total.values / np.array([1.0, HESSIAN])
        slope = additive.slope_of(state.bins, state.coefficients, sums, total.noise, first=not state.slopes)
        slopes = (*state.slopes, slope)
        return replace(after, slopes=slopes, coefficients=next_coefficients(state.bins, slopes))

    def export(self, state: LinearState) -> str:
        """The model so far as a LightGBM text: one tree a feature, with a leaf for every bin."""
        return lightgbm_text.write(_trees(state), names=state.schema.names, base_score=state.coefficients.intercept)

    def finished(self, state: LinearState) -> Pipeline:
        """The model as a scikit-learn pipeline that ends in a `LogisticRegression`."""
        from mintmark.models.scikit_pipeline import pipeline

        return pipeline(state.schema.names, state.bins, state.coefficients)


def coefficient_table(state: LinearState) -> tuple[CoefficientRow, ...]:
    """Every coefficient by name: the intercept first, then each feature's bins, missing first."""
    rows = [CoefficientRow("(intercept)", "", state.coefficients.intercept)]
    for feature, own, weights in zip(state.schema.features, state.bins, state.coefficients.weights, strict=True):
        labels = (
            _interval_labels(own.edges) if isinstance(own, NumberBins) else _word_labels(own.groups, feature.categories)
        )
        rows += [CoefficientRow(feature.name, label, float(w)) for label, w in zip(labels, weights, strict=False)]
    return tuple(rows)


def coefficients_csv(state: LinearState) -> str:
    """`coefficient_table` as CSV with the columns feature, bin, log_odds. Agreed words hold no line breaks."""
    lines = [
        f'{row.feature},"{row.bin.replace(chr(34), chr(34) * 2)}",{row.log_odds!r}' for row in coefficient_table(state)
    ]
    return "\n".join(["feature,bin,log_odds", *lines, ""])


def _interval_labels(edges: Floats) -> list[str]:
    """
    >>> _interval_labels(np.array([0.5, 2.0]))
    ['missing', 'up to 0.5', 'over 0.5 up to 2', 'over 2']
    """
    inner = [f"over {low:g} up to {high:g}" for low, high in pairwise(edges)]
    return ["missing", f"up to {edges[0]:g}", *inner, f"over {edges[-1]:g}"]


def _word_labels(groups: Sequence[Sequence[int]], words: Sequence[str]) -> list[str]:
    return ["missing or unknown", *(" ".join(words[code] for code in group) for group in groups)]


def _score(state: LinearState, cells: npt.NDArray[np.uint8]) -> Floats:
    """The sum of the coefficients of each row's bins: [F, n] -> [n], feature after feature."""
    score = np.zeros(cells.shape[1])
    for weights, cell in zip(state.coefficients.weights, cells, strict=True):
        score += weights[cell]
    return score


def _trees(state: LinearState) -> tuple[Tree, ...]:
    return tuple(
        replace(tree, leaf_value=weights[: tree.leaves])
        for tree, weights in zip(feature_trees(state.bins), state.coefficients.weights, strict=True)
    )
