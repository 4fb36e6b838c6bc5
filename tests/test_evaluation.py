"""Figures from score histograms: scikit-learn's, when a cell's rows are tied."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from mintmark.evaluation import evaluate

cells = st.integers(1, 12)


@st.composite
def whole_counts(draw: st.DrawFn) -> np.ndarray:
    """A histogram [2, m] of whole counts with rows of both classes, many cells empty."""
    count = draw(cells)
    number = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 60))
    counts = np.array(draw(st.lists(st.lists(number, min_size=count, max_size=count), min_size=2, max_size=2)), float)
    assume((counts.sum(axis=1) > 0).all())
    return counts


def rows_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels and scores of the rows that a histogram counted; a row's score is the number of its cell."""
    number = counts.astype(int)
    place = np.arange(counts.shape[1])
    scores = np.concatenate([np.repeat(place, number[0]), np.repeat(place, number[1])])
    return np.repeat([0, 1], number.sum(axis=1)), scores


@settings(max_examples=150, deadline=None)
@given(whole_counts())
def test_figures_are_scikit_learns(counts: np.ndarray) -> None:
    """Average precision and the area under the curve of the counted rows, ties included, to twelve digits."""
    labels, scores = rows_of(counts)
    report = evaluate(counts)
    assert report.auprc == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert report.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert (report.negatives, report.positives) == tuple(counts.sum(axis=1))


@settings(max_examples=60, deadline=None)
@given(whole_counts())
def test_curves_are_scikit_learns(counts: np.ndarray) -> None:
    """Recall, precision and false positive rate at every cell that holds rows are scikit-learn's, strictest first."""
    labels, scores = rows_of(counts)
    report = evaluate(counts)
    filled = counts.sum(axis=0)[::-1] > 0
    precision, recall, _ = precision_recall_curve(labels, scores)
    false_rate, true_rate, _ = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(report.precision[filled], precision[-2::-1], atol=1e-12)
    np.testing.assert_allclose(report.recall[filled], recall[-2::-1], atol=1e-12)
    np.testing.assert_allclose(report.false_positive_rate[filled], false_rate[1:], atol=1e-12)
    np.testing.assert_allclose(report.recall[filled], true_rate[1:], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), cells)
def test_noised_counts_are_weights(seed: int, count: int) -> None:
    """Counts that are no whole numbers give scikit-learn's figures for rows of those weights, at any scale."""
    counts = np.maximum(np.random.default_rng(seed).normal(2, 3, (2, count)), 0)
    assume((counts.sum(axis=1) > 0.01).all())
    labels, scores = np.repeat([0, 1], count), np.tile(np.arange(count), 2)
    for scale in (1.0, 1e-3, 1e6):
        report = evaluate(counts * scale)
        weight = counts.ravel()
        assert report.auprc == pytest.approx(average_precision_score(labels, scores, sample_weight=weight), abs=1e-9)
        assert report.auroc == pytest.approx(roc_auc_score(labels, scores, sample_weight=weight), abs=1e-9)


@pytest.mark.parametrize(
    ("counts", "auprc", "auroc"),
    [
        ([[5.0, 0.0], [0.0, 3.0]], 1.0, 1.0),
        ([[0.0, 5.0], [3.0, 0.0]], 3 / 8, 0.0),
        ([[0.0, 5.0, 0.0], [0.0, 3.0, 0.0]], 3 / 8, 0.5),
        ([[7.0], [1.0]], 1 / 8, 0.5),
    ],
)
def test_extreme_models(counts: list[list[float]], auprc: float, auroc: float) -> None:
    """A perfect order, the reverse of it, and one cell for all."""
    report = evaluate(np.array(counts))
    assert report.auprc == pytest.approx(auprc)
    assert report.auroc == pytest.approx(auroc)


def test_an_empty_class_has_no_figures() -> None:
    """Without positives neither figure exists, without negatives no false positive rate does; nothing warns or raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nobody, only_negatives, only_positives = (
            evaluate(np.array(counts)) for counts in ([[0.0] * 3] * 2, [[1.0, 2, 0], [0] * 3], [[0] * 3, [1.0, 0, 2]])
        )
    for report in (nobody, only_negatives):
        assert math.isnan(report.auprc)
        assert math.isnan(report.auroc)
    assert math.isnan(only_positives.auroc)
    assert only_positives.auprc == 1.0
    assert (only_positives.positives, only_positives.negatives) == (3.0, 0.0)


@pytest.mark.parametrize(
    "counts",
    [
        np.ones(4),
        np.ones((3, 4)),
        np.ones((1, 4)),
        np.ones((2, 0)),
        np.ones((2, 2, 2)),
        np.array([[1.0, -0.5], [1.0, 1.0]]),
        np.array([[1.0, np.nan], [1.0, 1.0]]),
    ],
)
def test_what_is_no_histogram_is_refused(counts: np.ndarray) -> None:
    """Another shape, a negative count or NaN is a mistake."""
    with pytest.raises(ValueError, match=r"expected counts \[2, m\]"):
        evaluate(counts)
