"""The learner: federated equals pooled, leaves equal a naive fit, the text model says what the trees say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from consortium import SCHEMA, Consortium, payments
from shapes import chain, complete, leaves_below

from mintmark.campaign import learner_of, noise_for, replay, shape_of
from mintmark.messages import ModelArtifact
from mintmark.models.bins import MAX_CELLS
from mintmark.models.boosting import FEWEST_TREES, LEAVES, LEAVES_WITHOUT_NOISE, GuidedBoosting, TreeQuery
from mintmark.models.feature_trees import base_rate
from mintmark.models.leaf_values import HESSIAN, STEPS, leaf_values, node_values, round_values
from mintmark.models.learner import NoisySum
from mintmark.models.lightgbm_text import load
from mintmark.models.rows import code_table, leaves_of, remember
from mintmark.models.score_histogram import ScoreQuery
from mintmark.models.splits import Splits, node_sums
from mintmark.models.tree import Tree
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit
from mintmark.privacy.mechanism import LATTICE, bounded_sum
from mintmark.schema import FeatureSchema
from mintmark.table import Table, build_table


def terms(banks: int, rounds: int = 5, epsilon: float | None = None) -> Campaign:
    """A campaign without noise, clipping or robustness, unless told otherwise."""
    return Campaign(
        name="exact",
        seed=11,
        learner="guided_boosting",
        schema_digest=SCHEMA.digest(),
        rounds=rounds,
        privacy=PrivacyTerms(epsilon=epsilon, delta=1e-6, unit=PrivacyUnit.CUSTOMER, clip=100.0),
        aggregation=AggregationTerms(rule="weighted_mean", banks=banks),
        cohort=tuple(f"bank-{number}" for number in range(banks)),
        quorum=1,
    )


def train(campaign: Campaign, tables: list[Table], schema: FeatureSchema = SCHEMA) -> tuple[object, str]:
    """Every training round, each table a bank, the plain sum as the rule, no noise; the state and the model's text."""
    learner, artifact = learner_of(campaign), ModelArtifact(campaign)
    for round_ in range(campaign.rounds):
        state = replay(artifact, schema)
        query = learner.query(state)
        _, clipping_norm = noise_for(campaign, round_, query)
        sums = [
            bounded_sum(
                learner.contributions(state, query, code_table(table)),
                clipping_norm=clipping_norm,
                customers=table.customers,
            ).vector
            for table in tables
        ]
        total = np.sum(sums, axis=0).astype(np.float64) / LATTICE
        artifact = ModelArtifact(campaign, (*artifact.history, NoisySum(total.reshape(shape_of(query)), 0.0)))
    state = replay(artifact, schema)
    return state, learner.export(state)


def test_federated_equals_pooled() -> None:
    """With no noise, no clipping active and the plain sum, n banks make the model of all rows in one place."""
    columns = [payments(rows, seed=number, prefix=number * 10**6) for number, rows in enumerate((900, 500, 60))]
    everything = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    pooled = build_table(SCHEMA, everything)
    _, federated = train(terms(3), [build_table(SCHEMA, part).train() for part in columns])
    _, central = train(terms(1), [pooled.train()])
    scores = [load(text).predict(pooled.features, raw_score=True) for text in (federated, central)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-9)
    assert np.ptp(scores[0]) > 1


def test_leaves_are_fitted_to_the_rows_that_fall_in_them() -> None:
    """Without noise, sums and values of every leaf equal what naive loops over rows and nodes give."""
    table = build_table(SCHEMA, payments(700, seed=5)).train()
    campaign, learner = terms(1, rounds=4), GuidedBoosting()
    state, _ = train(campaign.model_copy(update={"rounds": 3}), [table])
    query = learner.query(state.__class__(**{**vars(state), "campaign": campaign}))
    assert isinstance(query, TreeQuery)
    score = np.array([_naive_score(state.trees, state.base_score, row) for row in table.features])
    probability = 1 / (1 + np.exp(-score))
    found = learner.contributions(state.__class__(**{**vars(state), "campaign": campaign}), query, code_table(table))
    total = bounded_sum(found, clipping_norm=2**40, customers=None).vector.reshape(shape_of(query)) / LATTICE
    for slot, tree in enumerate(query.trees):
        expected = np.zeros((query.cells, 2))
        for row, p, label in zip(table.features, probability, table.labels, strict=True):
            expected[_naive_leaf(tree, row)] += (p - label, HESSIAN * p * (1 - p))
        np.testing.assert_allclose(total[slot], expected, atol=len(table) / LATTICE)


def test_leaves_that_were_kept_give_the_same_scores() -> None:
    """What `remember` keeps of an answer changes no bit of the next scores, and is not used for other trees."""
    table, learner, campaign = build_table(SCHEMA, payments(500, seed=3)).train(), GuidedBoosting(), terms(1, rounds=4)
    artifact, rows, plain = ModelArtifact(campaign), code_table(table), code_table(table)
    for _ in range(4):
        state = replay(artifact, SCHEMA)
        query = learner.query(state)
        rows, plain = learner.advance(state, rows), learner.advance(state, plain)
        assert rows.score.tobytes() == plain.score.tobytes()
        answer = learner.contributions(state, query, rows)
        total = bounded_sum(answer, clipping_norm=2**40).vector.reshape(shape_of(query)) / LATTICE
        artifact = ModelArtifact(campaign, (*artifact.history, NoisySum(total, 0.0)))
        rows = remember(rows, query.digest(), answer.cells_of)
    other = ModelArtifact(campaign.model_copy(update={"seed": 99}), artifact.history)
    assert learner.advance(replay(other, SCHEMA), rows).score.tobytes() == (
        learner.advance(replay(other, SCHEMA), plain).score.tobytes()
    )


def test_value_without_noise_is_the_newton_step() -> None:
    """One split: v = -G / (H + prior) at the root, and each child corrects its parent's value, times its depth's step."""
    shape, parent = complete(1, 1), 6 / 12
    nodes = node_sums(shape.children, np.array([[[-4.0, 3.0], [-2.0, 4.0]]]))
    both = leaf_values(shape, nodes, 5.0, np.zeros((1, 1), np.int64))[0]
    assert both[0] == pytest.approx(parent - STEPS[1] * (-4 + 3 * parent) / 8)
    assert both[1] == pytest.approx(parent - STEPS[1] * (-2 + 4 * parent) / 9)


@pytest.mark.parametrize("shape", [complete(3, 3), chain(3, 7)])
def test_a_round_corrects_the_root_once_and_the_rest_by_its_depth(shape: Splits) -> None:
    """Without noise: the mean root's Newton step, and below it each node's own one times its depth's step over T."""
    rng, lam = np.random.default_rng(8), 3.0
    leaves = np.stack([rng.normal(0, 4, (3, 8)), rng.uniform(5, 30, (3, 8))], axis=2)
    leaves[:, 7] += np.array([40.0, 200.0]) - leaves.sum(axis=1)  # all trees hold the same rows
    nodes = node_sums(shape.children, leaves)
    found = round_values(shape, nodes, lam, np.zeros((3, 7), np.int64))
    for tree in range(3):

        def fall(node: int, value: float, stepped: float, depth: int) -> None:
            gradient, hessian = leaves[tree, leaves_below(shape, node)].sum(axis=0)  # noqa: B023
            step = -(gradient + hessian * value) / (hessian + lam)
            value, stepped = value + step, stepped + STEPS[min(depth, len(STEPS) - 1)] * step
            if node < 7:
                for child in shape.children[0, node].tolist():
                    fall(child, value, stepped, depth + 1)
            else:
                assert found[tree, node - 7] == pytest.approx(stepped / 3)  # noqa: B023

        root = -40.0 / (200.0 + lam)
        fall(0, root, root, 0)


def test_round_0_tells_rows_and_positives() -> None:
    """From sums at the public first rate: the rows' own rate, and the sums that this rate would have given."""
    table, learner = build_table(SCHEMA, payments(900, seed=7)).train(), GuidedBoosting()
    state = learner.start(terms(1), SCHEMA)
    query = learner.query(state)
    answer = learner.contributions(state, query, code_table(table))
    total = bounded_sum(answer, clipping_norm=2**40).vector.reshape(shape_of(query)) / LATTICE
    found = base_rate(total / np.array([1.0, HESSIAN]), 0.0)
    rate = table.labels.mean()
    assert (found.rate, found.positives) == (pytest.approx(rate, rel=1e-5), pytest.approx(table.labels.sum(), rel=1e-5))
    first = answer.cells_of[0]
    for cell in range(query.cells):
        rows = table.labels[first == cell].astype(float)
        expected = len(rows) * rate - rows.sum(), len(rows) * rate * (1 - rate)
        np.testing.assert_allclose(found.sums[0, cell], expected, atol=1e-3)


def test_noise_in_hessians_holds_a_node_to_its_parent() -> None:
    """Where the prior is as large as a node's hessian it goes half of its way, and a hessian never counts as less than
    nothing."""
    values = node_values(np.array([[-8.0, 10.0], [-8.0, 0.0], [-8.0, -50.0]]), np.array([0.2, 0.2, 0.2]), 10.0)
    assert values.tolist() == pytest.approx([0.2 + (8 - 2) / 20, 0.2 + 0.8, 0.2 + 0.8])


@pytest.mark.parametrize("signal", [0.0, 6.0])
def test_a_round_without_gain_adds_no_trees(signal: float) -> None:
    """Rounds of trees whose sums are noise add none, and everybody derives the next question all the same; with a signal
    well above the noise they add theirs."""
    learner, campaign, rng = GuidedBoosting(), terms(1, rounds=32, epsilon=4.0), np.random.default_rng(12)
    state, grown = learner.start(campaign, SCHEMA), []
    for _ in range(campaign.rounds):
        query = learner.query(state)
        shape = shape_of(query)
        sums = np.concatenate([rng.normal(0, 5, (*shape[:2], 1)), rng.uniform(0, 30, (*shape[:2], 1))], axis=2)
        if not state.slopes[1:]:
            sums[..., 0] -= 20.0 * np.arange(shape[1]) / shape[1]
        else:
            sums[..., 0] += signal * 5 * rng.choice([-1, 1], shape[:2])
        after = learner.settle(state, query, NoisySum(sums, 5.0))
        grown.append(len(after.trees) - len(state.trees))
        state = after
    assert isinstance(learner.query(state), ScoreQuery) and min(grown[:2]) == len(SCHEMA.features)
    assert min(grown[2:]) >= FEWEST_TREES if signal else grown[2:].count(0) >= 8  # of 30, each as likely as not


@pytest.mark.parametrize("shape", [complete(10, 6), chain(10, 63)])
def test_trees_that_agree_do_not_diverge(shape: Splits) -> None:
    """The worst case, T times the same tree, round after round: squared gradients over hessians never grow."""
    rng = np.random.default_rng(3)
    hessian, optimum = rng.uniform(1, 50, 64), rng.normal(0, 0.5, 64)
    at, losses = np.zeros(64), []
    for _ in range(20):
        sums = np.stack([hessian * (at - optimum), hessian], axis=1)
        losses.append(float(sums[:, 0] ** 2 @ (1 / hessian)))
        nodes = node_sums(shape.children, np.tile(sums, (10, 1, 1)))
        at = at + round_values(shape, nodes, 1e-9, np.zeros((10, 63), np.int64)).sum(axis=0)
    assert (np.diff(losses) <= 1e-9 * losses[0]).all()
    assert max(STEPS) <= 2


def test_the_first_question_looks_at_nothing() -> None:
    """Bins, base rate and first trees follow from the schema and the terms: before any answer, from nobody's rows."""
    learner = GuidedBoosting()
    first = learner.query(learner.start(terms(1), SCHEMA))
    assert isinstance(first, TreeQuery)
    assert first.digest() == learner.query(learner.start(terms(3), SCHEMA)).digest()
    for tree, feature in zip(first.trees, SCHEMA.features, strict=True):
        assert np.isin(tree.threshold, feature.grid()).all()


def test_everybody_derives_the_same_question(tmp_path: Path) -> None:
    """From the published bytes alone, structures come out the same again, and another seed gives others."""
    consortium = Consortium(tmp_path)
    model = consortium.run(consortium.campaign(rounds=4), 3)
    artifact = ModelArtifact.decode(consortium.coordinator.model("cards", model).encode())
    learner = learner_of(artifact.campaign)
    question = learner.query(replay(artifact, SCHEMA))
    assert question.digest() == learner.query(replay(artifact, SCHEMA)).digest()
    assert question.slots >= FEWEST_TREES and (question.cells, question.width) == (LEAVES, 2)
    reseeded = ModelArtifact(artifact.campaign.model_copy(update={"seed": 2}), artifact.history)
    assert learner.query(replay(reseeded, SCHEMA)).digest() != question.digest()


@pytest.mark.parametrize(("epsilon", "leaves"), [(8.0, LEAVES), (None, LEAVES_WITHOUT_NOISE)])
def test_trees_fill_an_update_when_the_signal_is_strong(epsilon: float | None, leaves: int) -> None:
    """As many trees as an update holds, the larger ones where no noise is."""
    learner = GuidedBoosting()
    state = learner.start(terms(1, epsilon=epsilon), SCHEMA)
    while state.guidance is None:
        query = learner.query(state)
        sums = np.full(shape_of(query), [-5.0, 50.0])
        state = learner.settle(state, query, NoisySum(sums, 0.01 if epsilon else 0.0))
    question = learner.query(state)
    assert isinstance(question, TreeQuery)
    assert (question.slots, question.cells) == (MAX_CELLS // leaves, leaves)


def test_budget_shares_sum_to_one() -> None:
    """What the rounds may spend is the campaign's budget, no less and no more."""
    for rounds in (3, 8, 40):
        campaign = terms(1, rounds=rounds)
        assert sum(GuidedBoosting().budget_share(campaign, r) for r in range(rounds + 1)) == pytest.approx(1)


def test_hessian_rides_free() -> None:
    """(p - y)^2 + 8 (p (1 - p))^2 is at most 1 for every p in [0, 1] and y in {0, 1}."""
    p = np.linspace(0, 1, 100_001)
    for y in (0, 1):
        assert ((p - y) ** 2 + 8 * (p * (1 - p)) ** 2).max() <= 1 + 1e-15


def test_model_tells_nothing_of_rows() -> None:
    """No gains, covers, counts or inner values of data stand in the text: each is the same whatever the data."""
    lines = []
    for seed in (1, 2):
        _, text = train(terms(1, rounds=3), [build_table(SCHEMA, payments(500, seed=seed)).train()])
        kept = ("split_gain=", "leaf_weight=", "leaf_count=", "internal_value=")
        lines.append(
            {line.split("=")[0]: set(line.split("=")[1].split()) for line in text.splitlines() if line.startswith(kept)}
        )
    assert (
        lines[0]
        == lines[1]
        == {"split_gain": {"1"}, "leaf_weight": {"1"}, "leaf_count": {"1"}, "internal_value": {"0"}}
    )


def _naive_leaf(tree: Tree, row: np.ndarray) -> int:
    node = 0
    while node >= 0:
        x = row[tree.feature[node]]
        goes_left = bool(tree.missing_left[node]) if math.isnan(x) else x <= tree.threshold[node]
        node = int(tree.left[node] if goes_left else tree.right[node])
    return ~node


def _naive_score(trees: tuple[Tree, ...], base: float, row: np.ndarray) -> float:
    return base + sum(float(tree.leaf_value[_naive_leaf(tree, row)]) for tree in trees)


def test_additive_rounds_are_a_coefficient_a_bin() -> None:
    """After the additive rounds the trees of all of them together score a row by its bins' coefficients, and the noisier
    the campaign the more of these rounds there are."""
    table = build_table(SCHEMA, payments(800, seed=5)).train()
    rows, learner = code_table(table), GuidedBoosting()
    for epsilon, rounds in ((1.0, 3), (4.0, 2), (None, 1)):
        campaign = terms(1, rounds=6, epsilon=epsilon)
        state = learner.start(campaign, SCHEMA)
        for number in range(rounds):
            query = learner.query(state)
            assert query.slots == len(SCHEMA.features), number
            total = bounded_sum(learner.contributions(state, query, rows), clipping_norm=2**40).vector / LATTICE
            state = learner.settle(state, query, NoisySum(total.reshape(shape_of(query)), 0.0))
        assert learner.query(state).slots > len(SCHEMA.features)
        cells = leaves_of(rows, SCHEMA, state.trees[: len(SCHEMA.features)])
        expected = sum(weights[cell] for weights, cell in zip(state.coefficients.weights, cells, strict=True))
        np.testing.assert_allclose(learner.advance(state, rows).score, expected, atol=1e-12)
        assert np.ptp(expected) > 0.5
        shares = [learner.budget_share(campaign, number) for number in range(campaign.rounds + 1)]
        assert sum(shares) == pytest.approx(1.0)
