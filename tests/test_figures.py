"""What committees read: scikit-learn's figures without noise, and intervals that hold the truth with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from consortium import SCHEMA, payments
from scipy.stats import binom
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mintmark.evaluation import Thresholds, curves, denoise, figures, operating_place, threshold_of
from mintmark.evaluation_record import Figures
from mintmark.models.rows import code_table
from mintmark.models.score_histogram import (
    ScoreHistogram,
    ScoreQuery,
    count_scores,
    group_words,
    read_histograms,
    score_edges,
)
from mintmark.plan import AggregationTerms, Campaign, HeldOutWindow, PrivacyTerms, PrivacyUnit
from mintmark.privacy.mechanism import LATTICE, bounded_sum
from mintmark.table import Table, build_table

ALL = dataclasses.replace(
    SCHEMA,
    features=(
        SCHEMA.features[0],
        dataclasses.replace(SCHEMA.features[1], fairness=True, fairness_edges=(6.0, 18.0)),
        SCHEMA.features[2],
    ),
    value="amount",
    value_limit=500.0,
    time="day",
)
WINDOW = HeldOutWindow.model_validate({"trained_from": "2026-01-05", "first_day": "2026-03-02", "weeks": 2})


def terms(epsilon: float | None, unit: PrivacyUnit = PrivacyUnit.TRANSACTION, clip: float = 1.0) -> Campaign:
    return Campaign(
        name="figures",
        seed=1,
        learner="guided_boosting",
        schema_digest=ALL.digest(),
        rounds=3,
        privacy=PrivacyTerms(epsilon=epsilon, delta=1e-6, unit=unit, clip=clip),
        aggregation=AggregationTerms(rule="weighted_mean", banks=1),
        cohort=("bank-0",),
        quorum=1,
        held_out=WINDOW,
    )


def held_out(rows: int, seed: int) -> tuple[Table, np.ndarray]:
    """Rows of `ALL` and a model's probabilities of them, well calibrated and far from perfect."""
    day = np.datetime64("2026-03-02") + np.random.default_rng(seed).integers(0, 21, rows)
    table = build_table(ALL, payments(rows, seed=seed, customers=rows // 4) | {"day": day})
    hour = table.features[:, 1]
    score = -7.5 + 0.9 * np.log(table.features[:, 0]) + 2.5 * (hour < 6)
    return table, 1 / (1 + np.exp(-score))


def counted(campaign: Campaign, table: Table, probability: np.ndarray) -> dict[str, dict[str, ScoreHistogram]]:
    """The histograms without noise, through contributions, clipping and lattice."""
    query = ScoreQuery(ALL, campaign)
    contributions = count_scores(query, probability, code_table(table))
    total = bounded_sum(contributions, clipping_norm=int(campaign.privacy.clip * np.sqrt(query.slots) * LATTICE))
    sums = total.vector.reshape(contributions.shape) / LATTICE
    return {name: dict(words) for name, words in read_histograms(query, sums, 0.0).items()}


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


@pytest.mark.parametrize("epsilon", [None, 4.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_noise_figures_are_scikit_learns_within_the_resolution(seed: int, epsilon: float | None) -> None:
    """The exact figure lies between those of the kindest and the unkindest order within cells, and ours is no further from
    it than the two are apart: .03 for AUPRC with 24 cells, .01 with 128."""
    table, probability = held_out(20_000, seed)
    labels, campaign = table.labels, terms(epsilon)
    found = figures(counted(campaign, table, probability)["all"]["all"], Thresholds(), rng(seed), draws=2)
    cells = np.searchsorted(score_edges(ScoreQuery(ALL, campaign).score_cells), probability)
    allowed = 0.03 if epsilon else 0.01
    for judge, figure in ((average_precision_score, found.auprc), (roc_auc_score, found.auroc)):
        worst, exact, best = (
            judge(labels, score) for score in (cells - 0.5 * labels, probability, cells + 0.5 * labels)
        )
        assert worst <= exact <= best
        assert abs(figure.value - exact) <= min(best - worst, allowed)
    false_rate, recall, _ = roc_curve(labels, probability)
    assert found.recall_at_false_positives.value == pytest.approx(np.interp(0.005, false_rate, recall), abs=allowed)
    assert (found.rows.value, found.positives.value) == pytest.approx((len(table), labels.sum()), rel=1e-4)


def test_parts_add_up_to_all_rows() -> None:
    """Groups and weeks are counted as plain loops count them; each division's words together are all rows, with their
    frauds' money to the grid's width."""
    table, probability = held_out(5_000, seed=4)
    found = counted(terms(None), table, probability)
    hour, rows = table.features[:, 1], table.labels
    assert list(found["hour"]) == list(group_words(ALL.features[1]))
    loops = {
        "missing": np.isnan(hour),
        "up to 6": hour <= 6,
        "over 6 up to 18": (hour > 6) & (hour <= 18),
        "over 18": hour > 18,
    }
    for word, mask in loops.items():
        by_class = [(mask & (rows == label)).sum() for label in (0, 1)]
        np.testing.assert_allclose(found["hour"][word].counts.sum(axis=1), by_class, rtol=1e-4)
    week = (table.days - (np.datetime64("2026-03-02") - np.datetime64("1970-01-01")).astype(int)) // 7
    for number, word in ((0, "2026-w10"), (1, "2026-w11"), (2, "other")):
        assert found["weeks"][word].counts.sum() == pytest.approx((week == number).sum(), rel=1e-4)
    money = np.minimum(table.features[:, 0] / 500, 1)[rows == 1].sum()
    for words in found.values():
        assert sum(own.counts.sum() for own in words.values()) == pytest.approx(len(table), rel=1e-4)
        assert sum(own.value.sum() for own in words.values()) == pytest.approx(money, rel=0.02)


def test_figures_of_money_and_alerts() -> None:
    """Value detected and recall within an alert budget, by hand: two cells matter, all frauds' money in the upper one."""
    counts = np.zeros((2, 128))
    counts[0, 10], counts[0, 100], counts[1, 10], counts[1, 100] = 995, 5, 4, 6
    value = np.zeros(128)
    value[100], value[10] = 3.0, 1.0
    found = figures(ScoreHistogram(counts, np.zeros((2, 128)), value), Thresholds(0.005, 11 / 1010), rng(1), draws=2)
    assert found.value_detected.value == pytest.approx(0.75)
    assert found.recall_at_false_positives.value == found.recall_at_alerts.value == pytest.approx(0.6)
    none = figures(ScoreHistogram(np.zeros((2, 128)), np.zeros((2, 128))), Thresholds(), rng(1), draws=2)
    assert none.auprc.value is none.value_detected.value is none.recall_at_alerts.value is None


@pytest.mark.parametrize("epsilon", [None, 4.0])
def test_false_alarms_of_groups_are_counted_at_one_threshold(epsilon: float | None) -> None:
    """A group's false alarms are those that counting its own rows above the common threshold gives, to what the order of
    rows within the threshold's cell can change; that threshold flags .5 % of all honest rows."""
    table, probability = held_out(40_000, seed=3)
    campaign = terms(epsilon)
    found, edges = counted(campaign, table, probability), score_edges(ScoreQuery(ALL, campaign).score_cells)
    place = operating_place(found["all"]["all"])
    threshold, honest, hour = threshold_of(place, len(edges) + 1), table.labels == 0, table.features[:, 1]
    at = Thresholds(place=place)
    rates = {}
    for word, mask in {
        "up to 6": hour <= 6,
        "over 6 up to 18": (hour > 6) & (hour <= 18),
        "over 18": hour > 18,
    }.items():
        rates[word] = figures(found["hour"][word], at, rng(1), draws=2).false_alarm_rate.value
        scores = probability[mask & honest]
        cell = np.searchsorted(edges, threshold)
        fewest = (scores > edges[cell]).mean() if cell < len(edges) else 0.0
        assert fewest - 1e-3 <= rates[word] <= (scores > edges[cell - 1]).mean() + 1e-3
        assert rates[word] == pytest.approx((scores > threshold).mean(), abs=0.004)
    assert rates["up to 6"] > 3 * rates["over 18"]  # the model raises its alarms at night
    pooled = figures(found["all"]["all"], at, rng(1), draws=2).false_alarm_rate.value
    assert pooled == pytest.approx(0.005, rel=1e-6)
    assert (probability[honest] > threshold).mean() == pytest.approx(0.005, abs=0.001)
    assert operating_place(ScoreHistogram(np.zeros((2, 24)), np.zeros((2, 24)))) is None


def test_a_calibrated_model_has_no_calibration_error_and_an_overconfident_one_has() -> None:
    """Frauds as often as the model says: about 0. Half as often: half the mean probability."""
    middle = 1 / (1 + np.exp(-(np.linspace(-10, 4, 127)[:, None] + np.array([[-1.0], [1.0]]).T * 0).mean(axis=1)))
    probability = np.append(middle, 0.983)
    rows = np.full(128, 1e5)
    for share in (1.0, 0.5):
        counts = np.stack([rows * (1 - share * probability), rows * share * probability])
        error = figures(ScoreHistogram(counts, np.zeros((2, 128))), Thresholds(), rng(1), draws=2).calibration_error
        assert error.value == pytest.approx((1 - share) * probability.mean(), abs=0.02)


NAMES = ("positives", "auprc", "auroc", "recall_at_false_positives", "false_alarm_rate")


@pytest.mark.parametrize(("frauds", "noise"), [(700, 5.0), (7_000, 20.0)])
def test_with_noise_the_interval_holds_the_truth_95_times_of_a_hundred(frauds: int, noise: float) -> None:
    """Of 120 samples with noise, as many intervals hold the true figure as a coverage of 95 % makes likely (one in ten
    thousand tests of a right interval fails)."""
    score = np.linspace(-10, 4, 24)
    share = 1 / (1 + np.exp(-score))
    mass = np.exp(-0.62 * (score + 10))
    truth = np.stack([mass * (1 - share), mass * share])
    truth *= frauds / truth[1].sum()
    query = ScoreQuery(ALL, terms(4.0))
    deviations = noise / query.weights * query.weights[1, 0]
    whole, generator = ScoreHistogram(truth, np.zeros((2, 24))), rng(5)
    at = Thresholds(place=operating_place(whole))
    exact = figures(whole, at, rng(1), draws=2)
    held = dict.fromkeys(NAMES, 0)
    for _ in range(120):
        counts = generator.poisson(truth) + deviations * generator.standard_normal(truth.shape)
        found = figures(ScoreHistogram(counts, deviations), at, generator, draws=150)
        for name in NAMES:
            held[name] += _inside(exact, found, name)
    assert min(held.values()) >= binom.ppf(1e-4, 120, 0.95), held


def _inside(exact: Figures, found: Figures, name: str) -> bool:
    figure = getattr(found, name)
    return bool(figure.low <= getattr(exact, name).value <= figure.high)


def test_the_same_key_gives_the_same_figures_and_bands() -> None:
    """Figures are a pure function of counts and key; curves lie within their bands, and bands rise with recall."""
    table, probability = held_out(3_000, seed=6)
    whole = counted(terms(4.0), table, probability)["all"]["all"]
    noised = dataclasses.replace(whole, noise=np.full((2, 24), 5.0))
    assert figures(noised, Thresholds(), rng(7)) == figures(noised, Thresholds(), rng(7))
    band = curves(noised, rng(7))
    for low, middle, high in (band.recall, band.precision):
        assert (low <= middle).all() and (middle <= high).all()
        assert (low >= 0).all() and (high <= 1).all()
    assert (np.diff(band.recall[1]) >= 0).all()


def test_denoising_keeps_the_total_and_nothing_below_zero() -> None:
    """Whatever the noise: no count below 0, the total as it was, and counts without noise as they are."""
    generator = rng(8)
    for _ in range(50):
        counts = generator.normal(1, 5, 24)
        fitted = denoise(counts, np.ones(24))
        assert (fitted >= 0).all()
        assert fitted.sum() == pytest.approx(max(counts.sum(), 0))
    np.testing.assert_array_equal(denoise(counts, np.zeros(24)), counts)


def test_weights_are_public_and_clip_next_to_nobody() -> None:
    """A customer with three frauds in a cell and thirty dull payments is within the norm that the plan allows."""
    query = ScoreQuery(ALL, terms(4.0, PrivacyUnit.CUSTOMER, clip=0.25))
    whole = np.hypot(3 * query.weights[1, 0], 30 * query.weights[0, 0])
    assert whole <= 0.25 * 1.02
    assert (query.weights > 0).all() and query.weights.max() <= 1
