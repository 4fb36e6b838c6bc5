"""The linear learner: scikit-learn's optimum without noise, bounded with it, one finished model in three forms."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from consortium import SCHEMA, Consortium, payments
from hypothesis import given, settings
from hypothesis import strategies as st

from bank_node.enrol import DEFAULT_POLICY
from bank_node.policy import RefusalReason
from mintmark.campaign import learner_of, noise_for, replay, shape_of
from mintmark.messages import ModelArtifact
from mintmark.models.bins import Bins, CategoryBins, NumberBins
from mintmark.models.learner import NoisySum
from mintmark.models.lightgbm_text import load
from mintmark.models.linear import LinearState, LogisticRegression, coefficient_table, coefficients_csv
from mintmark.models.logistic_step import (
    COEFFICIENT_BOUND,
    RIDGE,
    Coefficients,
    Slope,
    next_coefficients,
)
from mintmark.models.rows import RowState, code_features, code_table
from mintmark.models.scikit_pipeline import TRUSTED_TYPES, pipeline
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit
from mintmark.privacy.mechanism import LATTICE, bounded_sum
from mintmark.schema import Feature, FeatureKind, FeatureSchema
from mintmark.table import Table, build_table

LEARNER = LogisticRegression()


def exact(banks: int, rounds: int = 6, schema: FeatureSchema = SCHEMA) -> Campaign:
    """A campaign without noise, clipping or robustness."""
    return Campaign(
        name="exact",
        seed=11,
        learner=LEARNER.name,
        schema_digest=schema.digest(),
        rounds=rounds,
        privacy=PrivacyTerms(epsilon=None, delta=1e-6, unit=PrivacyUnit.CUSTOMER, clip=100.0),
        aggregation=AggregationTerms(rule="weighted_mean", banks=banks),
        cohort=tuple(f"bank-{number}" for number in range(banks)),
        quorum=1,
    )


def train(campaign: Campaign, tables: list[Table]) -> LinearState:
    """Every training round, each table a bank, the plain sum as the rule, no noise."""
    artifact, schema = ModelArtifact(campaign), tables[0].schema
    for round_ in range(campaign.rounds):
        state = replay(artifact, schema)
        query = LEARNER.query(state)
        _, norm = noise_for(campaign, round_, query)
        rows = [code_table(table) for table in tables]
        sums = [
            bounded_sum(LEARNER.contributions(state, query, own), clipping_norm=norm, customers=own.customers).vector
            for own in rows
        ]
        total = np.sum(sums, axis=0).astype(np.float64) / LATTICE
        artifact = ModelArtifact(campaign, (*artifact.history, NoisySum(total.reshape(shape_of(query)), 0.0)))
    return replay(artifact, schema)  # type: ignore[no-any-return]


def test_federated_equals_pooled() -> None:
    """With no noise, no clipping active and the plain sum, n banks make the model of all rows in one place."""
    columns = [payments(rows, seed=number, prefix=number * 10**6) for number, rows in enumerate((900, 500, 60))]
    pooled = build_table(SCHEMA, {name: np.concatenate([part[name] for part in columns]) for name in columns[0]})
    federated = train(exact(3), [build_table(SCHEMA, part).train() for part in columns])
    central = train(exact(1), [pooled.train()])
    scores = [load(LEARNER.export(state)).predict(pooled.features, raw_score=True) for state in (federated, central)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-9)
    assert np.ptp(scores[0]) > 1


def test_converges_to_the_optimum_of_scikit_learn() -> None:
    """Without noise the coefficients become those that scikit-learn fits to the pooled one-hot bins at the same ridge."""
    from sklearn.linear_model import LogisticRegression as Oracle

    table = build_table(SCHEMA, payments(1500, seed=4)).train()
    state = train(exact(1, rounds=40), [table])
    one_hot = LEARNER.finished(state)[:-1].transform(_frame(table))
    oracle = Oracle(C=1 / RIDGE, solver="newton-cholesky", tol=1e-10).fit(one_hot, table.labels)
    finished = LEARNER.finished(state)[-1]
    np.testing.assert_allclose(finished.coef_, oracle.coef_, atol=1e-5)
    np.testing.assert_allclose(finished.intercept_, oracle.intercept_, atol=1e-5)


def test_copies_of_one_feature_do_not_diverge() -> None:
    """Sixteen equal features, the worst case for steps taken at once, reach what one of them reaches alone."""
    rng = np.random.default_rng(0)
    cell = rng.integers(1, 4, 4000)
    labels = rng.random(4000) < np.array([0.0, 0.02, 0.2, 0.6])[cell]
    bins = [NumberBins(np.array([0.0, 1.0]))] * 16
    slopes: list[Slope] = []
    at = Coefficients(-1.0, np.zeros((16, 4)))
    for _ in range(60):
        p = 1 / (1 + np.exp(-(at.intercept + at.weights[:, cell].sum(axis=0))))
        gradient, hessian = (np.bincount(cell, weights=w, minlength=4) for w in (p - labels, p * (1 - p)))
        slopes.append(Slope(at, np.tile(gradient, (16, 1)), np.tile(hessian, (16, 1)), noise=0.0))
        at = next_coefficients(bins, slopes)
    expected = np.log([0.02 / 0.98, 0.2 / 0.8, 0.6 / 0.4])
    np.testing.assert_allclose(at.intercept + at.weights.sum(axis=0)[1:], expected, atol=0.2)
    residual = slopes[-1].gradient + RIDGE * slopes[-1].at.weights
    assert np.abs(residual).max() < 1e-3


@pytest.mark.parametrize("noise", [1.0, 1e3, 1e9])
def test_noise_moves_the_model_within_bounds(noise: float) -> None:
    """Whatever the sums hold, every coefficient stays finite and within its bound, and more noise moves it less."""
    rng, bins = np.random.default_rng(1), [NumberBins(np.arange(5.0)), CategoryBins(((0,), (1,), (2,)))]
    slopes, at = [], Coefficients(-4.0, np.zeros((2, 7)))
    for _ in range(12):
        sums = rng.normal(0, noise, (2, 2, 7))
        slopes.append(Slope(at, sums[0], sums[1] / 2.8, noise))
        at = next_coefficients(bins, slopes)
    assert np.isfinite(at.weights).all()
    assert np.abs(at.weights).max() <= COEFFICIENT_BOUND
    assert abs(at.intercept) <= 12


def test_budget_shares_sum_to_one() -> None:
    """What the rounds may spend is the campaign's budget, no less and no more."""
    for rounds in (3, 8, 40):
        campaign = exact(1, rounds=rounds)
        assert sum(LEARNER.budget_share(campaign, r) for r in range(rounds + 1)) == pytest.approx(1)


MIXED = FeatureSchema(
    name="mixed",
    features=(
        Feature("ratio", FeatureKind.LOG, 0, 1000),
        Feature("change", FeatureKind.LINEAR, -128, 128),
        Feature("shop", FeatureKind.CATEGORY, 0, 3, categories=("a", "b", "c", "d")),
    ),
    label="fraud",
    customer="card",
    bank="bank",
    test="test",
)


@st.composite
def models(draw: st.DrawFn) -> tuple[tuple[Bins, ...], Coefficients]:
    """Bins on the public grids, zero among the edges, and any coefficients."""
    grids = [MIXED.features[column].grid() for column in (0, 1)]
    own: list[Bins] = []
    for grid in grids:
        places = draw(st.sets(st.integers(0, len(grid) - 1), min_size=1, max_size=6))
        own.append(NumberBins(grid[sorted(places | set(np.flatnonzero(grid == 0).tolist()))]))
    groups = draw(st.sampled_from([((0,), (1,), (2,), (3,)), ((0,), (2,), (1, 3))]))
    weights = np.array(draw(st.lists(st.floats(-4, 4), min_size=30, max_size=30))).reshape(3, 10)
    return (*own, CategoryBins(groups)), Coefficients(draw(st.floats(-8, 0)), weights)


@settings(max_examples=40, deadline=None)
@given(models(), st.integers(0, 2**32))
def test_finished_model_predicts_what_the_learner_scores(
    model: tuple[tuple[Bins, ...], Coefficients], seed: int
) -> None:
    """Pipeline, LightGBM text and the learner's own score agree on edges, their neighbours, missing, far and odd values."""
    bins, coefficients = model
    rng = np.random.default_rng(seed)
    edges = np.concatenate([own.edges for own in bins if isinstance(own, NumberBins)])
    near = np.concatenate(
        [edges, np.nextafter(edges, np.inf), np.nextafter(edges, -np.inf), [np.nan, 0.0, -0.0, 1e-36]]
    )
    numbers = np.concatenate([near, [1e300, -1e300, 5e-324, 2e-35]])
    words = np.array([0, 1, 2, 3, np.nan, 4, 250, -1, -7, 2.5, -0.5])
    features = np.stack([rng.choice(numbers, 60), rng.choice(numbers, 60), rng.choice(words, 60)], axis=1)
    state = LinearState(exact(1, schema=MIXED), MIXED, bins, coefficients, round=3)
    nothing = np.zeros(len(features))
    rows = RowState(code_features(MIXED, features), nothing.astype(np.uint8), nothing.astype(np.int64), nothing)
    own = LEARNER.advance(state, rows).score + coefficients.intercept
    np.testing.assert_allclose(load(LEARNER.export(state)).predict(features, raw_score=True), own, atol=1e-9)
    scores = pipeline(MIXED.names, bins, coefficients).decision_function(_named(MIXED, features))
    np.testing.assert_allclose(scores, own, atol=1e-9)


def test_finished_model_is_stored_without_code() -> None:
    """skops asks to trust nothing but the type of numbers, and what it loads predicts the same."""
    import skops.io

    table = build_table(SCHEMA, payments(600, seed=3))
    model = LEARNER.finished(train(exact(1, rounds=3), [table.train()]))
    stored = skops.io.dumps(model)
    assert set(skops.io.get_untrusted_types(data=stored)) <= set(TRUSTED_TYPES)
    again = skops.io.loads(stored, trusted=TRUSTED_TYPES)
    assert (again.predict_proba(_frame(table)) == model.predict_proba(_frame(table))).all()


def test_every_coefficient_is_named() -> None:
    """The table's lines are the model: the intercept and the lines of a row's bins add up to its score."""
    import pandas

    table = build_table(SCHEMA, payments(600, seed=3))
    state = train(exact(1, rounds=3), [table.train()])
    lines = {(line.feature, line.bin): line.log_odds for line in coefficient_table(state)}
    row = np.array([1e-9, np.nan, 1e9])
    lowest = next(name for feature, name in lines if feature == "amount" and name.startswith("up to"))
    highest = [name for feature, name in lines if feature == "payments"][-1]
    expected = lines["(intercept)", ""] + lines["amount", lowest]
    expected += lines["hour", "missing"] + lines["payments", highest]
    assert load(LEARNER.export(state)).predict(row[None], raw_score=True)[0] == pytest.approx(expected)
    assert highest.startswith("over")
    assert len(lines) == 1 + sum(own.splits + 2 for own in state.bins)
    table = pandas.read_csv(io.StringIO(coefficients_csv(state)))
    assert dict(zip(zip(table.feature, table.bin.fillna(""), strict=True), table.log_odds, strict=True)) == lines


def test_categories_are_named_by_their_words() -> None:
    """A category's lines carry the words of the agreed list."""
    bins = (NumberBins(np.array([1.0])), NumberBins(np.array([0.0])), CategoryBins(((0,), (2,), (1, 3))))
    state = LinearState(exact(1, schema=MIXED), MIXED, bins, Coefficients(0.0, np.zeros((3, 4))), round=3)
    words = [line.bin for line in coefficient_table(state) if line.feature == "shop"]
    assert words == ["missing or unknown", "a", "c", "b d"]


def test_a_campaign_from_plan_to_evaluation(tmp_path: Path) -> None:
    """With noise, through plans, ledgers and sealed updates: a model that tells fraud, within the promised epsilon."""
    consortium = Consortium(tmp_path, sizes=(6000, 4000, 3000))
    model = consortium.run(consortium.campaign(learner=LEARNER.name, rounds=4, epsilon=4.0), 5)
    artifact = consortium.coordinator.model("cards", model)
    state = replay(artifact, SCHEMA)
    assert learner_of(artifact.campaign).name == "logistic_regression"
    assert state.scores.shape[0] == 2
    fresh = build_table(SCHEMA, payments(4000, seed=99))
    score = load(LEARNER.export(state)).predict(fresh.features, raw_score=True)
    assert score[fresh.labels == 1].mean() > score[fresh.labels == 0].mean() + 0.3
    with consortium.ledger("bank-0") as ledger:
        assert ledger.epsilon(delta=1e-6, campaign="cards") <= 4.0


def test_a_bank_that_does_not_allow_it_refuses(tmp_path: Path) -> None:
    """A policy that lists boosting alone lets nothing leave for the linear learner."""
    policy = DEFAULT_POLICY.replace(', "logistic_regression"', "").replace("smallest_rows = 1000", "smallest_rows = 10")
    consortium = Consortium(tmp_path, policy=policy)
    plan = consortium.plan(consortium.campaign(learner=LEARNER.name))
    assert consortium.refusal("bank-0", plan) is RefusalReason.LEARNER_NOT_ALLOWED


def _named(schema: FeatureSchema, features: np.ndarray) -> object:
    import pandas

    return pandas.DataFrame(features, columns=list(schema.names))


def _frame(table: Table) -> object:
    return _named(table.schema, table.features)
