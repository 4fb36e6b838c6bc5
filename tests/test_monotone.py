"""Monotone features: whatever the noise says, the model's score follows them one way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from consortium import SCHEMA, payments
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapes import chain, complete, leaves_below
from sklearn.isotonic import IsotonicRegression
from test_boosting import terms

from mintmark.campaign import replay, shape_of
from mintmark.messages import ModelArtifact
from mintmark.models.boosting import BoostingState, GuidedBoosting
from mintmark.models.leaf_values import leaf_values
from mintmark.models.learner import NoisySum
from mintmark.models.lightgbm_text import load
from mintmark.models.monotone import isotonic
from mintmark.models.splits import Splits, node_sums
from mintmark.schema import FeatureSchema, Monotone
from mintmark.table import build_table

SPLITS = 15
SHAPES = (complete(2, 4), chain(2, SPLITS))

directions = arrays(np.int64, (2, SPLITS), elements=st.integers(-1, 1))
leaf_sums = arrays(np.float64, (2, SPLITS + 1, 2), elements=st.floats(-200, 200))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SHAPES), leaf_sums, directions, st.sampled_from([0.1, 5.0, 60.0]))
def test_children_lie_on_their_sides(shape: Splits, sums: np.ndarray, direction: np.ndarray, lam: float) -> None:
    """At every split on a monotone feature, each leaf under one child is at most, or at least, each under the other."""
    values = leaf_values(shape, node_sums(shape.children, sums), lam, direction)
    for tree, split in np.argwhere(direction):
        left, right = (values[tree, leaves_below(shape, int(child))] for child in shape.children[tree, split])
        if direction[tree, split] > 0:
            assert left.max() <= right.min()
        else:
            assert left.min() >= right.max()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SHAPES), leaf_sums, directions, st.sampled_from([0.1, 5.0]))
def test_a_direction_binds_its_own_tree_only(
    shape: Splits, sums: np.ndarray, direction: np.ndarray, lam: float
) -> None:
    """A tree where nothing is monotone has the values it has alone, whatever is asked of the other."""
    nodes = node_sums(shape.children, sums)
    bound = leaf_values(shape, nodes, lam, np.stack([direction[0], np.zeros(SPLITS, np.int64)]))
    free = leaf_values(shape, nodes, lam, np.zeros((2, SPLITS), np.int64))
    assert bound[1].tolist() == free[1].tolist()


@given(arrays(np.float64, 9, elements=st.floats(-5, 5)), arrays(np.float64, 9, elements=st.floats(0.01, 50)))
def test_isotonic_is_the_nearest_rising_line(values: np.ndarray, weight: np.ndarray) -> None:
    """The same as scikit-learn's, to rounding, and exactly ordered."""
    found = isotonic(values, weight)
    assert (np.diff(found) >= 0).all()
    expected = IsotonicRegression().fit_transform(np.arange(9), values, sample_weight=weight)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def schema(**monotone: Monotone) -> FeatureSchema:
    features = tuple(dataclasses.replace(f, monotone=monotone.get(f.name)) for f in SCHEMA.features)
    return dataclasses.replace(SCHEMA, features=features)


def model(agreed: FeatureSchema, seed: int, noise: float, rounds: int = 5) -> BoostingState:
    """A finished model of sums that are noise only: `noise` times a standard normal, and one row's worth of counts."""
    campaign = terms(1, rounds).model_copy(update={"schema_digest": agreed.digest()})
    learner, artifact, rng = GuidedBoosting(), ModelArtifact(campaign), np.random.default_rng(seed)
    for _ in range(rounds):
        query = learner.query(replay(artifact, agreed))
        shape = shape_of(query)
        total = NoisySum(rng.normal(size=shape) * noise + rng.uniform(0, 30, size=shape), noise / 10)
        artifact = ModelArtifact(campaign, (*artifact.history, total))
    return replay(artifact, agreed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sign", [1, -1])
def test_the_finished_model_is_monotone(seed: int, sign: int) -> None:
    """Along a declared feature no score moves the wrong way, whatever the others are, missing and infinite included."""
    agreed = schema(
        amount=Monotone.INCREASING if sign > 0 else Monotone.DECREASING,
        hour=Monotone.DECREASING if sign > 0 else Monotone.INCREASING,
    )
    booster = load(GuidedBoosting().export(model(agreed, seed, noise=60.0)))
    rng = np.random.default_rng(seed)
    for column, direction in ((0, sign), (1, -sign)):
        line = np.concatenate([[-np.inf, -5.0], agreed.features[column].grid(), [1e6, np.inf]])
        for _ in range(20):
            rows = np.repeat([[rng.uniform(1, 900), rng.integers(0, 24), rng.integers(0, 50)]], len(line), axis=0)
            rows[:, rng.integers(0, 3)] = np.nan
            rows[:, column] = line
            steps = np.diff(np.asarray(booster.predict(rows, raw_score=True)))
            assert (direction * steps >= 0).all()


def test_without_a_declaration_it_is_not() -> None:
    """The same sums make a score that goes up and down where nothing was declared."""
    booster = load(GuidedBoosting().export(model(SCHEMA, 0, noise=60.0)))
    line = SCHEMA.features[0].grid()
    rows = np.column_stack([line, np.full(len(line), 3.0), np.full(len(line), 9.0)])
    steps = np.diff(np.asarray(booster.predict(rows, raw_score=True)))
    assert (steps > 0).any() and (steps < 0).any()


def test_a_true_direction_costs_nothing_where_data_follow_it() -> None:
    """Rows whose risk rises with the amount: the bounded model ranks them as well as the free one does."""
    from sklearn.metrics import roc_auc_score
    from test_boosting import train

    scores = []
    for agreed in (SCHEMA, schema(amount=Monotone.INCREASING)):
        table = build_table(agreed, payments(4000, seed=8))
        campaign = terms(1, rounds=6).model_copy(update={"schema_digest": agreed.digest()})
        _, text = train(campaign, [table.train()], agreed)
        held_out = table.test_part()
        scores.append(roc_auc_score(held_out.labels, load(text).predict(held_out.features)))
    assert scores[1] > scores[0] - 0.01
