"""The parts of the boosting, each alone: bins of a schema, gains from sums, trees from gains, sums by level."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from consortium import SCHEMA
from shapes import chain, complete, leaves_below

from mintmark.models.bins import CategoryBins, NumberBins, public_bins
from mintmark.models.feature_trees import feature_trees
from mintmark.models.guidance import Guidance, from_bins
from mintmark.models.leaf_values import HESSIAN
from mintmark.models.random_trees import build_trees, draw_trees
from mintmark.models.routing import route
from mintmark.models.splits import Splits, node_sums
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
    positives = np.ones((3, 5)) * (np.arange(5) <= edges[:, None])
    return Guidance(np.array(features), np.ones((3, 4)) * (np.arange(4) < edges[:, None]), edges, positives)


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
    found = from_bins(sums, 0.0, lam, np.array([own.splits for own in BINS]), rate=0.5)
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
    taken = from_bins(sums, 0.0, 5.0, edges, 0.5).threshold
    debiased = from_bins(sums, 50.0, 5.0, edges, 0.5).threshold
    assert debiased.mean() < 0.5 * taken.mean()


def test_positives_are_what_noise_leaves_of_them() -> None:
    """Of N rows and Y positives a bin tells Y; below the noise it tells none, and none is ever below 0."""
    rows, positives, rate = np.array([[0, 50, 80, 20.0, 0, 0]]), np.array([[0, 5, 40, 2.0, 0, 0]]), 0.2
    sums = np.stack([rate * rows - positives, rate * (1 - rate) * rows], axis=2)
    exact = from_bins(sums, 0.0, 5.0, np.array([2]), rate)
    np.testing.assert_allclose(exact.positives, [[5, 40, 2]])
    np.testing.assert_allclose(exact.positive_shares(), [0.9 * np.array([5, 40, 2]) / 47 + 0.1 / 3])
    sd = 4.0 * np.hypot(1, 1 / (HESSIAN * (1 - rate)))
    noisy = from_bins(sums, 4.0, 5.0, np.array([2]), rate)
    np.testing.assert_allclose(noisy.positives, [[0, 40 * (1 - sd**2 / 40**2), 0]])


def test_a_key_draws_the_same_trees_everywhere() -> None:
    """One key, one structure; another key, another. Features are drawn about as often as their gains say."""
    one, again = (draw_trees(guidance(1, 1, 1), 20, 32, 5, KEY) for _ in range(2))
    other = draw_trees(guidance(1, 1, 1), 20, 32, 5, KEY[::-1])
    for name in ("feature", "threshold", "missing_left", "children"):
        drawn = getattr(one, name).tolist()
        assert drawn == getattr(again, name).tolist()
        assert name == "children" or drawn != getattr(other, name).tolist()
    strong = draw_trees(guidance(20, 1, 1), 200, 2, 1, KEY).feature.ravel()
    assert (strong == 0).mean() == pytest.approx(0.9 * 20 / 22 + 0.1 / 3, abs=0.08)
    assert set(strong.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("leaves", "depth"), [(8, 3), (8, 5), (64, 8)])
def test_drawn_trees_are_trees(leaves: int, depth: int) -> None:
    """Every node but the root hangs once, each split before those below it, none deeper than asked; even where all
    features have run out of cuts."""
    splits = draw_trees(guidance(1, 1, 1), 30, leaves, depth, KEY)
    for children, depths in zip(splits.children, splits.depth, strict=True):
        assert sorted(children.ravel().tolist()) == list(range(1, 2 * leaves - 1))
        for split in range(leaves - 1):
            for child in children[split][children[split] < leaves - 1]:
                assert child > split and depths[child] == depths[split] + 1
        assert depths.max() < depth
    with pytest.raises(ValueError, match=f"at most {2**depth} leaves"):
        draw_trees(guidance(1, 1, 1), 1, 2**depth + 1, depth, KEY)


def test_trees_grow_where_the_positives_are() -> None:
    """Of two bins, one with nearly all positives: the side that holds it is split, the other nearly never."""
    edges = np.array([1, 4])
    positives = np.array([[99.0, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    known = Guidance(np.array([1.0, 1e-9]), np.ones((2, 4)) * (np.arange(4) < edges[:, None]), edges, positives)
    splits = draw_trees(known, 400, 3, 2, KEY)
    first = splits.feature[:, 0] == 0
    rich = splits.children[first, 0, 0] == 1
    share = known.positive_shares()[0, 0]
    assert first.sum() > 300 and rich.mean() == pytest.approx(share**2 / (share**2 + (1 - share) ** 2), abs=0.02)


def test_splits_stay_within_their_ancestors() -> None:
    """While a feature has a cut left, none is repeated below it: no split of a small tree leaves a side without values."""
    trees = draw_trees(guidance(1, 1, 0), 50, 4, 2, KEY)
    for feature, threshold, children in zip(trees.feature, trees.threshold, trees.children, strict=True):
        for child, left in zip(children[0].tolist(), (True, False), strict=True):
            if child < 3 and feature[child] == feature[0] != 2:
                assert threshold[child] < threshold[0] if left else threshold[child] > threshold[0]


def test_trees_say_what_was_drawn() -> None:
    """Leaf i is the node M + i; words go left by their bins' order, and missing ones never do."""
    splits = draw_trees(guidance(1, 5, 1), 30, 8, 4, KEY)
    for number, (tree, feature, cut) in enumerate(
        zip(build_trees(splits, BINS), splits.feature, splits.threshold, strict=True)
    ):
        for side, places in enumerate((tree.left, tree.right)):
            nodes = np.where(places >= 0, places, 7 + ~places)
            assert nodes.tolist() == splits.children[number, :, side].tolist()
        for split in range(7):
            own = BINS[feature[split]]
            if isinstance(own, CategoryBins):
                groups = own.groups[: cut[split] + 1]
                assert tree.categories[split] == tuple(sorted(code for group in groups for code in group))
                assert not tree.missing_left[split]
            else:
                assert tree.threshold[split] == own.edges[cut[split]] and split not in tree.categories


@pytest.mark.parametrize("shape", [complete(3, 3), chain(3, 7)])
def test_sums_of_nodes_are_sums_of_leaves(shape: Splits) -> None:
    """Every node holds the sum of the leaves below it, and knows how many they are."""
    sums = np.random.default_rng(1).normal(size=(3, 8, 2))
    nodes = node_sums(shape.children, sums)
    for node in range(15):
        below = leaves_below(shape, node)
        np.testing.assert_allclose(nodes.gradient[:, node], sums[:, below, 0].sum(axis=1))
        np.testing.assert_allclose(nodes.hessian[:, node], sums[:, below, 1].sum(axis=1))
        assert (nodes.leaves[:, node] == len(below)).all()


def test_a_tree_over_one_feature_is_one_step() -> None:
    """A tree of full bins takes one look-up, however many bins there are."""
    trees = feature_trees(public_bins(SCHEMA, 64))
    assert min(tree.leaves for tree in trees) > 20
    assert route(SCHEMA, trees).feature.shape[1] == 1
