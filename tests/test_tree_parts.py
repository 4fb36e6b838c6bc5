"""The parts of the boosting, each alone: bins of a schema, gains from sums, trees from gains, sums by level."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from consortium import SCHEMA

from mintmark.models.bins import CategoryBins, NumberBins, public_bins
from mintmark.models.feature_trees import feature_trees
from mintmark.models.guidance import Guidance, from_bins
from mintmark.models.leaf_values import sums_by_level
from mintmark.models.random_trees import complete_trees, draw_trees
from mintmark.models.routing import route
from mintmark.models.tree import Tree
from mintmark.schema import Feature, FeatureKind

KEY = bytes(range(32))
BINS = (
    NumberBins(np.array([1.0, 2.0, 3.0, 5.0])),
    CategoryBins(((4,), (0, 2), (1,), (3,))),
    NumberBins(np.array([0.5])),
)


def guidance(*features: float) -> Guidance:
    """Gains of three features over BINS; every threshold alike."""
    edges = np.array([own.splits for own in BINS])
    return Guidance(np.array(features), np.ones((3, 4)) * (np.arange(4) < edges[:, None]), edges)


@pytest.mark.parametrize("most", [2, 3, 24, 64, 1000])
def test_bins_lie_on_the_grid(most: int) -> None:
    """Each number gets at most so many bins, between edges of its own grid, in order, and at least one edge."""
    for feature, own in zip(SCHEMA.features, public_bins(SCHEMA, most), strict=True):
        assert isinstance(own, NumberBins)
        assert 1 <= own.splits == min(most - 1, len(feature.grid())) and (np.diff(own.edges) > 0).all()
        assert np.isin(own.edges, feature.grid()).all()


@pytest.mark.parametrize("features", [1, 30, 512])
def test_round_0_fits_an_update(features: int) -> None:
    """However many features there are, one tree of full bins each asks for no more than 20 kB of sums."""
    own = tuple(Feature(f"x{number}", FeatureKind.LINEAR, 0, 1) for number in range(features))
    trees = feature_trees(public_bins(dataclasses.replace(SCHEMA, features=own), 64))
    assert 8 * len(trees) * max(tree.leaves for tree in trees) < 20_000


def test_gains_are_those_of_the_cuts() -> None:
    """Without noise: for every cut of every feature the gain of its two sides over the whole, by plain loops."""
    rng, lam = np.random.default_rng(2), 5.0
    sums = np.stack([rng.normal(0, 20, (3, 6)), rng.uniform(1, 30, (3, 6))], axis=2)
    found = from_bins(sums, 0.0, lam, np.array([own.splits for own in BINS]))
    for column, own in enumerate(BINS):
        bins = sums[column, 1 : own.splits + 2]
        for cut in range(own.splits):
            sides = [bins[: cut + 1].sum(axis=0), bins[cut + 1 :].sum(axis=0), bins.sum(axis=0)]
            left, right, whole = (g**2 / (h + lam) for g, h in sides)
            assert found.threshold[column, cut] == pytest.approx(max(left + right - whole, 0))
        assert found.feature[column] == pytest.approx(found.threshold[column].max())


def test_noise_shows_no_gain() -> None:
    """Of sums that are noise only, gains less what noise shows average under half of what they would be taken for."""
    rng, edges = np.random.default_rng(3), np.full(400, 4)
    sums = np.stack([rng.normal(0, 50, (400, 6)), np.full((400, 6), 100.0)], axis=2)
    taken = from_bins(sums, 0.0, 5.0, edges).threshold
    debiased = from_bins(sums, 50.0, 5.0, edges).threshold
    assert debiased.mean() < 0.5 * taken.mean()


def test_a_key_draws_the_same_trees_everywhere() -> None:
    """One key, one structure; another key, another. Features are drawn about as often as their gains say."""
    one, again = (draw_trees(guidance(1, 1, 1), 20, 5, KEY) for _ in range(2))
    other = draw_trees(guidance(1, 1, 1), 20, 5, KEY[::-1])
    for name in ("feature", "threshold", "missing_left"):
        assert getattr(one, name).tolist() == getattr(again, name).tolist() != getattr(other, name).tolist()
    strong = draw_trees(guidance(20, 1, 1), 200, 1, KEY).feature.ravel()
    assert (strong == 0).mean() == pytest.approx(0.9 * 20 / 22 + 0.1 / 3, abs=0.08) and set(strong.tolist()) == {
        0,
        1,
        2,
    }


def test_splits_stay_within_their_ancestors() -> None:
    """While a feature has a cut left, none is repeated below it: no split of a small tree leaves a side without values."""
    trees = draw_trees(guidance(1, 1, 0), 50, 2, KEY)
    for feature, threshold in zip(trees.feature, trees.threshold, strict=True):
        for child, left in ((1, True), (2, False)):
            if feature[child] == feature[0] != 2:
                assert threshold[child] < threshold[0] if left else threshold[child] > threshold[0]


def test_complete_trees_say_what_was_drawn() -> None:
    """Leaf i is the i-th from the left; words go left by their bins' order, and missing ones never do."""
    splits = draw_trees(guidance(1, 5, 1), 30, 3, KEY)
    for tree, feature, cut in zip(complete_trees(splits, BINS), splits.feature, splits.threshold, strict=True):
        assert leaves_from_the_left(tree, 0) == list(range(8))
        for split in range(7):
            own = BINS[feature[split]]
            if isinstance(own, CategoryBins):
                groups = own.groups[: cut[split] + 1]
                assert tree.categories[split] == tuple(sorted(code for group in groups for code in group))
                assert not tree.missing_left[split]
            else:
                assert tree.threshold[split] == own.edges[cut[split]] and split not in tree.categories


def test_sums_of_levels_are_sums_of_leaves() -> None:
    """Every node holds the sum of the leaves below it."""
    sums = np.random.default_rng(1).normal(size=(3, 8, 2))
    levels = sums_by_level(sums)
    assert [level.shape for level in levels] == [(3, 1, 2), (3, 2, 2), (3, 4, 2), (3, 8, 2)]
    np.testing.assert_allclose(levels[1][:, 1], sums[:, 4:].sum(axis=1))
    np.testing.assert_allclose(levels[0][:, 0], sums.sum(axis=1))


def test_a_tree_over_one_feature_is_one_step() -> None:
    """A tree of full bins takes one look-up, however many bins there are."""
    trees = feature_trees(public_bins(SCHEMA, 64))
    assert min(tree.leaves for tree in trees) > 20
    assert route(SCHEMA, trees).feature.shape[1] == 1


def leaves_from_the_left(tree: Tree, node: int) -> list[int]:
    """The leaves below a node, in order."""
    if node < 0:
        return [~node]
    return leaves_from_the_left(tree, int(tree.left[node])) + leaves_from_the_left(tree, int(tree.right[node]))
