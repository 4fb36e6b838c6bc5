r"""Guided random boosting: trees whose structure never looks at data, leaves fitted to noised sums.

Round 0 agrees on bins. Round 1 asks for gradient and hessian sums of one tree of full bins a feature, which also shows
where splits pay. Every later round draws T random trees from that guidance, asks for their leaves' sums, and appends
them with the values those sums support. A row adds (g, 2 sqrt(2) h) to one leaf of each tree, g = p - y, h = p (1 - p):
$g^2 + 8 h^2 \le 1$ for every p in [0, 1], so the hessian rides along free. With the noise off and the plain sum as the
rule this is exactly boosting on the pooled rows. The learning notes have the measurements (docs/learning.md).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mintmark.canonical import canonical_json, digest
from mintmark.models import bins, guidance, lightgbm_text
from mintmark.models.bins import HistogramQuery
from mintmark.models.guidance import Guidance, Splits
from mintmark.models.learner import NoisySum, Query
from mintmark.models.lightgbm_text import Tree
from mintmark.models.score_histogram import ScoreQuery, count_scores
from mintmark.plan import Campaign
from mintmark.privacy.mechanism import Contributions
from mintmark.schema import FeatureSchema
from mintmark.table import Table

TREES_PER_ROUND = 10
DEPTH = 6
BIN_TREES_STEP = 2.5
RANDOM_TREES_STEP = 2.0
LEAF_PRIOR = 5.0  # hessian added to every leaf, before noise adds its own
LEAF_BOUND = 2.0  # log-odds
BINS_SHARE = 0.05  # of the budget; score histograms take as much
GUIDE_SHARE = 0.15  # of what is left
HESSIAN = 2 * math.sqrt(2)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TreeQuery:
    """A question about leaves: `trees` without values yet. The cell of a row in slot t is its leaf in tree t."""

    schema: FeatureSchema
    trees: tuple[Tree, ...]
    splits: Splits | None  # None: the full-bin trees of round 1
    width: int = 2

    @property
    def slots(self) -> int:
        return len(self.trees)

    @property
    def cells(self) -> int:
        return max(tree.leaves for tree in self.trees)

    def digest(self) -> str:
        parts = [[tree.feature.tolist(), tree.threshold.tolist(), tree.missing_left.tolist()] for tree in self.trees]
        return digest(canonical_json({"query": "leaves", "schema": self.schema.digest(), "trees": parts}))


@dataclass(frozen=True, eq=False)
class BoostingState:
    """The model after `round` settled rounds, and what guides the next. All of it public."""

    campaign: Campaign
    schema: FeatureSchema
    round: int = 0
    edges: tuple[Floats, ...] = ()
    base_score: float = 0.0
    trees: tuple[Tree, ...] = ()
    guidance: Guidance | None = None
    scores: Floats | None = None  # [2, cells] score histograms by class, after the last round


class GuidedBoosting:
    """The learner `guided_boosting`. Stateless: every method is a pure function of its arguments."""

    name: ClassVar[str] = "guided_boosting"

    def start(self, campaign: Campaign, schema: FeatureSchema) -> BoostingState:
        """The state before round 0. Raises `ValueError` when the schema is not the campaign's."""
        if schema.digest() != campaign.schema_digest:
            raise ValueError(f"expected the schema {campaign.schema_digest}, got {schema.digest()}")
        return BoostingState(campaign, schema)

    def budget_share(self, campaign: Campaign, round: int) -> float:
        """5 % for the bins, 5 % for the evaluation, 15 % of the rest for round 1, the others alike."""
        if round in (0, campaign.rounds):
            return BINS_SHARE
        learning = 1 - 2 * BINS_SHARE
        return learning * (GUIDE_SHARE if round == 1 else (1 - GUIDE_SHARE) / (campaign.rounds - 2))

    def query(self, state: BoostingState) -> Query:
        """The next round's question."""
        if state.round == 0:
            return HistogramQuery(state.schema)
        if state.round == state.campaign.rounds:
            return ScoreQuery(state.schema)
        if state.round == 1 or state.guidance is None:
            trees = tuple(_bin_tree(column, edges) for column, edges in enumerate(state.edges))
            return TreeQuery(state.schema, trees, None)
        key = hashlib.sha256(f"mintmark/trees/{state.campaign.seed}/{state.round}".encode()).digest()
        splits = guidance.draw_trees(state.guidance, TREES_PER_ROUND, DEPTH, key)
        return TreeQuery(state.schema, _complete_trees(splits, state.edges), splits)

    def contributions(self, state: BoostingState, query: Query, rows: Table) -> Contributions:
        """Each row's cells and values. Round 0 counts rows, the last round scores, the others gradients."""
        if isinstance(query, HistogramQuery):
            return bins.count_rows(query, rows)
        score = lightgbm_text.load(self.export(state)).predict(rows.features, raw_score=True)
        probability = 1 / (1 + np.exp(-np.asarray(score, dtype=np.float64)))
        if isinstance(query, ScoreQuery):
            return count_scores(query, probability, rows)
        assert isinstance(query, TreeQuery)
        text = lightgbm_text.write(query.trees, names=query.schema.names, base_score=0.0)
        leaves = np.asarray(lightgbm_text.load(text).predict(rows.features, pred_leaf=True))
        cells = leaves.reshape(len(rows), -1)[:, 1:].T.astype(np.uint16)  # tree 0 is the base score
        values = np.stack([probability - rows.labels, HESSIAN * probability * (1 - probability)], axis=1)
        return Contributions(np.ascontiguousarray(cells), values, query.cells)

    def settle(self, state: BoostingState, query: Query, total: NoisySum) -> BoostingState:
        """The next state from a round's aggregate."""
        after = replace(state, round=state.round + 1)
        if isinstance(query, HistogramQuery):
            counts = total.values[..., 0]
            edges = bins.bin_edges(state.schema, counts, total.noise)
            return replace(after, edges=edges, base_score=bins.base_score(counts))
        if isinstance(query, ScoreQuery):
            return replace(after, scores=np.maximum(total.values[0, :, 0], 0.0).reshape(2, -1))
        assert isinstance(query, TreeQuery)
        sums = total.values * np.array([1.0, 1 / HESSIAN])
        lam = LEAF_PRIOR + total.noise / HESSIAN
        if query.splits is None:
            known = guidance.from_bins(sums, total.noise, lam, np.array([len(edges) for edges in state.edges]))
            values = leaf_values([sums], total.noise, lam) * (BIN_TREES_STEP / query.slots)
        else:
            assert state.guidance is not None
            levels = _levels(sums)
            known = guidance.learn_from_trees(state.guidance, query.splits, levels, total.noise, lam)
            values = leaf_values(levels, total.noise, lam) * (RANDOM_TREES_STEP / query.slots)
        grown = tuple(
            replace(tree, leaf_value=value[: tree.leaves]) for tree, value in zip(query.trees, values, strict=True)
        )
        return replace(after, trees=state.trees + grown, guidance=known)

    def export(self, state: BoostingState) -> str:
        """The model so far as a LightGBM text."""
        return lightgbm_text.write(state.trees, names=state.schema.names, base_score=state.base_score)


def leaf_values(levels: list[Floats], noise: float, lam: float) -> Floats:
    r"""Leaf values from the root down, each level shrunk toward its parent by how much is noise.

    `levels[l]` [T, N_l, 2] holds G and H of level l's nodes, `noise` is the standard deviation of a leaf's G. With v the
    parent's value, $r = G + H v$, $s$ the node's noise and $\lambda$ the prior:
    $v \leftarrow v - \max(0, 1 - s^2/r^2)\, r / (\max(H, 0) + \lambda)$, clipped to +-2. Returns [T, leaves].

    >>> leaf_values([np.array([[[-30.0, 10.0]]])], noise=0.0, lam=5.0).tolist()
    [[2.0]]
    """
    value: Floats = np.zeros(levels[0].shape[:2])
    leaves = levels[-1].shape[1]
    for sums in levels:
        nodes = int(sums.shape[1])
        value = np.repeat(value, nodes // value.shape[1], axis=1)
        gradient, hessian = sums[..., 0], np.maximum(sums[..., 1], 0.0)
        variance = noise**2 * (leaves // nodes)
        residual = gradient + hessian * value
        keep = np.maximum(0.0, 1 - variance / np.maximum(residual**2, 1e-300))
        value = np.clip(value - keep * residual / (hessian + lam), -LEAF_BOUND, LEAF_BOUND)
    return value


def _levels(sums: Floats) -> list[Floats]:
    """Sums of every level of complete trees, root first, from the leaves' [T, 2**depth, 2]."""
    levels = [sums]
    while levels[0].shape[1] > 1:
        trees, nodes, width = levels[0].shape
        levels.insert(0, levels[0].reshape(trees, nodes // 2, 2, width).sum(axis=2))
    return levels


def _complete_trees(splits: Splits, edges: tuple[Floats, ...]) -> tuple[Tree, ...]:
    """Heaps of splits as trees; leaf i is the i-th from the left, so that cells add up level by level."""
    nodes = splits.feature.shape[1]
    child = 2 * np.arange(nodes) + 1
    left, right = (np.where(at < nodes, at, ~(at - nodes)) for at in (child, child + 1))
    width = max(len(own) for own in edges)
    padded = np.array([np.pad(own, (0, width - len(own)), mode="edge") for own in edges])
    threshold = padded[splits.feature, splits.threshold]
    return tuple(
        Tree(splits.feature[t], threshold[t], splits.missing_left[t], left, right, np.zeros(nodes + 1))
        for t in range(len(splits.feature))
    )


def _bin_tree(column: int, edges: Floats) -> Tree:
    """One feature's bins as a tree: leaf 0 is missing, leaf b holds edges[b - 2] < x <= edges[b - 1].

    The root cuts at the last edge and sends missing values right, where the same cut once more, with missing left, parts
    them from the top bin: left of it only missing values are left over.
    """
    last = len(edges) - 1
    threshold, missing_left, left, right = [edges[-1], edges[-1]], [False, True], [0, ~0], [1, ~(last + 2)]

    def grow(low: int, high: int) -> int:
        """The subtree over bins low..high, which no missing value reaches."""
        if low == high:
            return ~low
        node, middle = len(threshold), (low + high) // 2
        threshold.append(edges[middle - 1])
        missing_left.append(True)
        left.append(0)
        right.append(0)
        left[node], right[node] = grow(low, middle), grow(middle + 1, high)
        return node

    left[0] = grow(1, last + 1)
    feature = np.full(len(threshold), column)
    return Tree(
        feature, np.array(threshold), np.array(missing_left), np.array(left), np.array(right), np.zeros(last + 3)
    )
