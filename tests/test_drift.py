"""Drift: the index by its definition, and what it says of noised scores that changed and of such that did not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mintmark.drift import drift_of, feature_drift, released_features, score_drift, stability_index
from mintmark.errors import DataError
from mintmark.models.bins import NumberBins, public_bins
from mintmark.models.score_histogram import ScoreHistogram, relative_weights
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit
from mintmark.simulation import simulate_rounds
from mintmark.synthetic import simulate
from mintmark.table import build_table

SHARES = np.stack([np.exp(-np.linspace(0, 9, 32)), np.exp(-np.linspace(3, 0, 32))])
ROWS = np.array([[90_000.0], [900.0]])


def released(shares: np.ndarray, noise: float, seed: int) -> ScoreHistogram:
    """What banks whose rows' scores have these shares would release together."""
    rng = np.random.default_rng(seed)
    spread = noise / relative_weights(32)
    counts = rng.poisson(ROWS * shares / shares.sum(axis=1, keepdims=True))
    return ScoreHistogram(counts + spread * rng.standard_normal(counts.shape), spread)


def test_the_index_is_its_formula() -> None:
    """Against the sum written out; nothing changed is 0, and an empty bin is finite."""
    before, after = np.array([500.0, 300, 200]), np.array([400.0, 400, 200])
    p, q = (before + 0.5) / 1001.5, (after + 0.5) / 1001.5
    assert stability_index(before, after) == pytest.approx(sum((q - p) * np.log(q / p)))
    assert stability_index(before, 3 * before) == pytest.approx(0, abs=1e-5)
    assert np.isfinite(stability_index(before, np.array([1000.0, 0, 0])))


def test_chance_is_told_from_drift() -> None:
    """Nineteen of twenty samples of an unchanged population stay below what chance makes; a changed one does not."""
    rng, p = np.random.default_rng(1), np.full(10, 0.1)
    inside = 0
    for _ in range(400):
        drift = drift_of(rng.multinomial(3000, p).astype(float), rng.multinomial(800, p).astype(float))
        inside += drift.reading == "none"
    assert 0.92 <= inside / 400 <= 0.98
    moved = drift_of(3000 * p, np.array([0.02, *[0.08] * 8, 0.34]) * 800)
    assert moved.reading == "strong"


@pytest.mark.parametrize("noise", [0.0, 8.0])
def test_noised_scores_that_did_not_change_show_no_drift(noise: float) -> None:
    """In nearly all of twenty pairs of releases of one population, whatever the noise."""
    quiet = dict.fromkeys(("all rows", "honest rows", "frauds"), 0)
    for seed in range(20):
        pair = released(SHARES, noise, seed), released(SHARES, noise, 100 + seed)
        for name, drift in score_drift(*pair, np.random.default_rng(seed)).items():
            quiet[name] += drift.reading == "none"
    assert min(quiet.values()) >= 16


@pytest.mark.parametrize("noise", [0.0, 8.0])
def test_frauds_that_score_lower_are_noticed(noise: float) -> None:
    """A new kind of fraud that the model does not see: frauds drift beyond chance, honest rows do not."""
    lower = np.stack([SHARES[0], SHARES[1][::-1]])
    drifts = score_drift(released(SHARES, noise, 1), released(lower, noise, 2), np.random.default_rng(3))
    assert drifts["frauds"].reading == "strong"
    assert drifts["frauds"].index.low is not None
    assert drifts["frauds"].index.low > drifts["frauds"].by_chance
    assert drifts["honest rows"].reading == "none"


@pytest.mark.parametrize("noise", [0.0, 60.0])
def test_noised_features_are_told_from_drift(noise: float) -> None:
    """Released counts of one population, of two sizes, show none in most of forty pairs; a shifted one always does."""
    rng, shares = np.random.default_rng(7), np.exp(-np.linspace(0, 4, 24))
    shares /= shares.sum()

    def counted(rows: int, own: np.ndarray) -> np.ndarray:
        return rng.poisson(rows * own) + noise * rng.standard_normal(len(own))

    moved = 0.8 * shares + 0.2 * shares[::-1]
    quiet = strong = 0
    for _ in range(40):
        before = counted(8_000, shares)
        quiet += feature_drift(before, counted(30_000, shares), (noise, noise), rng).reading == "none"
        strong += feature_drift(before, counted(30_000, moved), (noise, noise), rng).reading in ("some", "strong")
    assert quiet >= 33
    assert strong == 40


def test_without_noise_the_index_of_a_feature_is_its_formula() -> None:
    """With many rows half a row more or less is nothing: the plain sum over shares."""
    before, after = np.array([50_000.0, 30_000, 20_000]), np.array([40_000.0, 40_000, 20_000])
    p, q = before / before.sum(), after / after.sum()
    found = feature_drift(before, after, (0.0, 0.0), np.random.default_rng(1))
    assert found.index.value == pytest.approx(float(((q - p) * np.log(q / p)).sum()), rel=1e-3)
    with pytest.raises(DataError, match="got 3 and 2"):
        feature_drift(before, after[:2], (0.0, 0.0), np.random.default_rng(1))


@pytest.mark.parametrize("learner", ["guided_boosting", "logistic_regression"])
def test_round_0_has_counted_the_features(learner: str) -> None:
    """Without noise: just how many training rows lie between a feature's public edges, by a plain loop over the rows."""
    schema, columns = simulate(seed=3, banks=2, rows=6_000)
    tables = {bank: build_table(schema, own).train() for bank, own in columns.items()}
    campaign = Campaign(
        name="counts", seed=1, learner=learner, schema_digest=schema.digest(), rounds=3,
        privacy=PrivacyTerms(epsilon=None, delta=1e-6, unit=PrivacyUnit.TRANSACTION),
        aggregation=AggregationTerms(rule="weighted_mean", banks=2), cohort=tuple(sorted(tables)), quorum=2,
    )  # fmt: skip
    first = next(iter(simulate_rounds(campaign, tables)))
    counts, noise = released_features(first.artifact, schema)
    assert noise == 0
    assert set(counts) == set(schema.names)
    values = np.concatenate([table.features[:, 0] for table in tables.values()])
    own = public_bins(schema, len(counts[schema.names[0]]) - 1)[0]
    assert isinstance(own, NumberBins)
    edges = [-np.inf, *own.edges, np.inf]
    loop = [np.isnan(values).sum(), *(((low < values) & (values <= high)).sum() for low, high in pairwise(edges))]
    np.testing.assert_allclose(counts[schema.names[0]], loop, rtol=1e-4, atol=0.05)
    for name in schema.names:
        assert sum(counts[name]) == pytest.approx(len(values), rel=1e-4)


def test_other_grids_are_refused() -> None:
    """A campaign without noise counts on other cells: said in a sentence."""
    with pytest.raises(DataError, match="got 32 and 128"):
        score_drift(
            released(SHARES, 0, 1), ScoreHistogram(np.ones((2, 128)), np.zeros((2, 128))), np.random.default_rng(1)
        )
