r"""Guided random boosting: trees whose structure never looks at data, leaves fitted to noised sums.

Bins are public (`bins.py`). The first one to three rounds ask for gradient and hessian sums of one tree of full bins a
feature (`feature_trees.py`): an additive model (`additive.py`), which also shows where splits pay (`guidance.py`). Every
later round draws T random trees from that guidance (`random_trees.py`), asks for their leaves' sums, and appends them with
the values those sums support (`leaf_values.py`). A row adds (g, C h) to one leaf of each tree, g = p - y, h = p (1 - p),
C = `HESSIAN`: $g^2 + 8 h^2 \le 1$ for every p in [0, 1], so its norm is at most 1. With the noise off and the plain sum as
the rule this is exactly boosting on the pooled rows. The learning notes have the measurements (docs/learning.md).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from mintmark.canonical import canonical_json, digest
from mintmark.models import additive, bins, feature_trees, guidance, leaf_values, lightgbm_text, random_trees
from mintmark.models.bins import Bins
from mintmark.models.guidance import Guidance
from mintmark.models.leaf_values import HESSIAN
from mintmark.models.learner import NoisySum, Query
from mintmark.models.logistic_step import Coefficients, Slope
from mintmark.models.rows import RowState, add_leaves, advance, leaves_of
from mintmark.models.score_histogram import ScoreQuery, count_scores, pooled_counts
from mintmark.models.splits import Splits, node_sums
from mintmark.models.tree import Tree
from mintmark.plan import Campaign
from mintmark.privacy.mechanism import Contributions
from mintmark.schema import FeatureSchema, Monotone

if TYPE_CHECKING:
    import lightgbm

FEWEST_TREES = 10  # a round; the most are as many as fill an update
SIGNAL_PER_TREE = 4.0  # standard deviations of round 0's noise in the positives' sum, for every tree of a round
LEAVES, DEPTH = 64, 8  # of a tree, and at most
LEAVES_WITHOUT_NOISE, DEPTH_WITHOUT_NOISE = 128, 10  # noise in twice as many leaves costs more than they are worth
LEAF_PRIOR = 1e-3  # of the released hessian of all rows, added to every node's own
PRIOR_OF_NOISE = 2.0  # standard deviations of a leaf's hessian's noise, added besides
EVALUATION_SHARE = 0.05  # of the budget
ADDITIVE_SHARE, ADDITIVE_SHARE_A_ROUND = 0.15, 0.1  # of what is left

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TreeQuery:
    """A question about leaves: `trees` without values yet. The cell of a row in slot t is its leaf in tree t."""

    schema: FeatureSchema
    trees: tuple[Tree, ...]
    splits: Splits | None  # None: the full-bin trees of round 0
    width: int = 2

    @property
    def slots(self) -> int:
        return len(self.trees)

    @property
    def cells(self) -> int:
        return max(tree.leaves for tree in self.trees)

    def digest(self) -> str:
        parts = [tree.structure() for tree in self.trees]
        return digest(canonical_json({"query": "leaves", "schema": self.schema.digest(), "trees": parts}))


@dataclass(frozen=True, eq=False)
class BoostingState:
    """The model after `round` settled rounds, and what guides the next. All of it public."""

    campaign: Campaign
    schema: FeatureSchema
    bins: tuple[Bins, ...]
    coefficients: Coefficients
    round: int = 0
    slopes: tuple[Slope, ...] = ()
    trees_per_round: int = 0
    trees: tuple[Tree, ...] = ()
    guidance: Guidance | None = None
    scores: Floats | None = None  # [2, cells] score histograms by class, after the last round

    @property
    def base_score(self) -> float:
        """Log-odds of a row before any tree."""
        return self.coefficients.intercept


class GuidedBoosting:
    """The learner `guided_boosting`. Stateless: every method is a pure function of its arguments."""

    name: ClassVar[str] = "guided_boosting"

    def start(self, campaign: Campaign, schema: FeatureSchema) -> BoostingState:
        """The state before round 0. Raises `ValueError` when the schema is not the campaign's."""
        if schema.digest() != campaign.schema_digest:
            raise ValueError(f"expected the schema {campaign.schema_digest}, got {schema.digest()}")
        public = bins.public_bins(schema, _number_bins(campaign.privacy.epsilon))
        return BoostingState(campaign, schema, public, additive.before_round_0(public))

    def budget_share(self, campaign: Campaign, round: int) -> float:
        """5 % for the evaluation; of the rest 25, 35 or 45 % for one, two or three additive rounds, alike; and the trees'
        rounds alike."""
        if round == campaign.rounds:
            return EVALUATION_SHARE
        first = _additive_rounds(campaign)
        share = ADDITIVE_SHARE + ADDITIVE_SHARE_A_ROUND * first
        of_rest = share / first if round < first else (1 - share) / (campaign.rounds - first)
        return (1 - EVALUATION_SHARE) * of_rest

    def query(self, state: BoostingState) -> Query:
        """The next round's question."""
        if state.round == state.campaign.rounds:
            return ScoreQuery(state.schema, state.campaign)
        if state.guidance is None:
            return TreeQuery(state.schema, feature_trees.feature_trees(state.bins), None)
        key = hashlib.sha256(f"mintmark/trees/{state.campaign.seed}/{state.round}".encode()).digest()
        leaves, depth = _tree_size(state.campaign.privacy.epsilon)
        splits = random_trees.draw_trees(state.guidance, state.trees_per_round, leaves, depth, key)
        return TreeQuery(state.schema, random_trees.build_trees(splits, state.bins), splits)

    def advance(self, state: BoostingState, rows: RowState) -> RowState:
        """The rows with the raw scores of all of the state's trees."""
        asked = state.trees[rows.trees : rows.trees + len(rows.leaves)]
        if asked and TreeQuery(state.schema, asked, None).digest() == rows.question:
            rows = add_leaves(rows, asked)
        return advance(rows, state.schema, state.trees)

    def contributions(self, state: BoostingState, query: Query, rows: RowState) -> Contributions:
        """Each row's cells and values. The last round counts scores, the others sum gradients."""
        score = self.advance(state, rows).score + state.base_score
        probability = 1 / (1 + np.exp(-score))
        if isinstance(query, ScoreQuery):
            return count_scores(query, probability, rows)
        assert isinstance(query, TreeQuery)
        values = np.stack([probability - rows.labels, HESSIAN * probability * (1 - probability)], axis=1)
        return Contributions(leaves_of(rows, state.schema, query.trees), values, query.cells)

    def settle(self, state: BoostingState, query: Query, total: NoisySum) -> BoostingState:
        """The next state from a round's aggregate."""
        if isinstance(query, ScoreQuery):
            scores = pooled_counts(query, total.values)
            return replace(state, round=state.round + 1, scores=scores)
        assert isinstance(query, TreeQuery)
        sums = total.values * np.array([1.0, 1 / HESSIAN])
        if query.splits is None:
            return _settle_additive(state, query, sums, total.noise)
        return _settle_random_trees(state, query, query.splits, sums, total.noise)

    def export(self, state: BoostingState) -> str:
        """The model so far as a LightGBM text."""
        return lightgbm_text.write(state.trees, names=state.schema.names, base_score=state.base_score)

    def finished(self, state: BoostingState) -> lightgbm.Booster:
        """The model so far as a Booster."""
        return lightgbm_text.load(self.export(state))


def _settle_additive(state: BoostingState, query: TreeQuery, sums: Floats, noise: float) -> BoostingState:
    """Append what the coefficients changed by; after the last of these rounds order categories and begin the guidance."""
    at, first = state.coefficients, not state.slopes
    leaves, _ = _tree_size(state.campaign.privacy.epsilon)
    slope = additive.slope_of(state.bins, at, sums, noise, first=first)
    slopes = (*state.slopes, slope)
    found = additive.next_monotone(state.bins, slopes, _directions(state.schema))
    after = replace(
        state,
        round=state.round + 1,
        slopes=slopes,
        coefficients=found,
        trees=state.trees + _with_values(query.trees, found.weights - at.weights),
        trees_per_round=_affordable_trees(slope, noise, leaves) if first else state.trees_per_round,
    )
    return _guided(after) if after.round == _additive_rounds(state.campaign) else after


def _guided(state: BoostingState) -> BoostingState:
    """What all additive rounds together say of splits, and of the order of words."""
    sums, noise = additive.pooled_sums(state.slopes)
    lam = _prior(sums, noise)
    values = leaf_values.bin_values(sums, lam, state.bins, _directions(state.schema))
    order = feature_trees.category_order(state.bins, values)
    ordered = np.take_along_axis(sums, order[..., None], axis=1)
    rate = 1 / (1 + math.exp(-state.slopes[0].at.intercept))
    known = guidance.from_bins(ordered, noise, lam, bins.split_counts(state.bins), rate)
    return replace(state, bins=feature_trees.in_order(state.bins, order), guidance=known)


def _settle_random_trees(
    state: BoostingState, query: TreeQuery, splits: Splits, sums: Floats, noise: float
) -> BoostingState:
    """Append the random trees with the values of their leaves, none where the round shows no gain above the noise; learn
    from their nodes."""
    assert state.guidance is not None  # there since the last additive round
    lam, nodes = _prior(sums, noise), node_sums(splits.children, sums)
    known = guidance.learn_from_trees(state.guidance, splits, nodes, noise, lam)
    added: tuple[Tree, ...] = ()
    if leaf_values.shows_gain(sums, noise, lam):
        values = leaf_values.round_values(splits, nodes, lam, _directions(state.schema)[splits.feature])
        added = _with_values(query.trees, values)
    return replace(state, round=state.round + 1, trees=state.trees + added, guidance=known)


def _number_bins(epsilon: float | None) -> int:
    """A number's bins: the fewer, the more noise there will be in each."""
    if epsilon is None:
        return 64
    return 24 if epsilon <= 2 else 32


def _additive_rounds(campaign: Campaign) -> int:
    """The more noise, the longer one coefficient a bin is what can be learned; one round at least is left for trees."""
    epsilon = campaign.privacy.epsilon
    wanted = 1 if epsilon is None else 3 if epsilon <= 1 else 2
    return min(wanted, campaign.rounds - 1)


def _tree_size(epsilon: float | None) -> tuple[int, int]:
    """Leaves of a tree, and the most splits above one."""
    return (LEAVES_WITHOUT_NOISE, DEPTH_WITHOUT_NOISE) if epsilon is None else (LEAVES, DEPTH)


def _affordable_trees(first: Slope, noise: float, leaves: int) -> int:
    """Trees of a round, of so many `leaves`: many average out what is random in each, few leave more of the budget for
    each, and an update holds `MAX_CELLS`.

    `first` is round 0's slope at the rows' own rate p, where H = p (1 - p) N and G = p N - Y; `noise` that of its sums.
    """
    rate = 1 / (1 + math.exp(-first.at.intercept))
    positives = float((first.hessian / (1 - rate) - first.gradient).sum(axis=1).mean())
    return int(np.clip(positives / max(SIGNAL_PER_TREE * noise, 1e-9), FEWEST_TREES, bins.MAX_CELLS // leaves))


def _prior(sums: Floats, noise: float) -> float:
    """The hessian added to every node, from a round's [T, leaves, 2]. Relative, because clipping scales all sums."""
    return LEAF_PRIOR * max(float(sums[..., 1].sum(axis=1).mean()), 1e-9) + PRIOR_OF_NOISE * noise / HESSIAN


def _directions(schema: FeatureSchema) -> npt.NDArray[np.int64]:
    """1, -1 or 0 for each feature: [F]."""
    sign = {Monotone.INCREASING: 1, Monotone.DECREASING: -1, None: 0}
    return np.array([sign[feature.monotone] for feature in schema.features])


def _with_values(trees: tuple[Tree, ...], values: Floats) -> tuple[Tree, ...]:
    """The trees with their leaves' values, from the first columns of `values` [T, W]."""
    return tuple(replace(tree, leaf_value=own[: tree.leaves]) for tree, own in zip(trees, values, strict=True))
