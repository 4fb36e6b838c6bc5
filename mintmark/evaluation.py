r"""Curves and figures from score histograms: how good a model is, without anybody's scores, and how sure that is.

`evaluate` gives the curves of counts [2, m] (negatives and positives in m score cells, from the lowest to the highest),
rows of one cell taken as tied: scikit-learn's figures of those counts. `figures` gives what committees read, each with a
95 % interval that includes the banks' noise and the sample of held-out rows.

>>> summary = evaluate(np.array([[8.0, 1.0, 0.0], [0.0, 1.0, 2.0]]))
>>> round(summary.auprc, 4), round(summary.auroc, 4)
(0.9167, 0.9815)
>>> exact = ScoreHistogram(np.array([[800.0, 90, 9, 1] * 6, [1.0, 9, 90, 100] * 6]), np.zeros((2, 24)))
>>> found = figures(exact, Thresholds(), np.random.Generator(np.random.Philox(key=1)))
>>> [round(number, 3) for number in (found.auroc.low, found.auroc.value, found.auroc.high)]
[0.562, 0.582, 0.599]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from mintmark.evaluation_record import Figure, Figures
from mintmark.models.score_histogram import HIGH, LOW, ScoreHistogram

FALSE_POSITIVE_RATE = 0.005
DRAWS = 300
CALIBRATION_BINS = 8

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """`recall`, `precision` and `false_positive_rate` [m] when everything from a cell upward is flagged, from the
    strictest threshold to the loosest; `auprc` is average precision (scikit-learn's definition), `auroc` the area under
    the receiver operating characteristic. Both are NaN without positives, `auroc` without negatives, too."""

    positives: float
    negatives: float
    recall: Floats
    precision: Floats
    false_positive_rate: Floats
    auprc: float
    auroc: float


def evaluate(counts: Floats) -> EvaluationReport:
    """The report of a score histogram [2, m]. Raises `ValueError` for another shape or a count below 0 or NaN."""
    if counts.ndim != 2 or counts.shape[0] != 2 or not counts.size or not (counts >= 0).all():
        raise ValueError(f"expected counts [2, m] of at least 0, got shape {counts.shape}")
    false, true = np.cumsum(counts[:, ::-1], axis=1)
    negatives, positives = float(false[-1]), float(true[-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, false_rate = true / positives, false / negatives
        precision = np.where(true + false > 0, true / (true + false), 1.0)
    steps = np.diff(recall, prepend=0.0)
    widths = np.diff(false_rate, prepend=0.0)
    middle = recall - steps / 2
    return EvaluationReport(
        positives, negatives, recall, precision, false_rate, float(steps @ precision), float(widths @ middle)
    )


@dataclass(frozen=True)
class Thresholds:
    """At which shares of the rows figures are read: of the honest rows flagged, and of all rows that can become alerts
    (`alert_rate`, None without a budget). `place` is one threshold for all, in cells from the highest score down
    (`operating_place`, None where there is none)."""

    false_positive_rate: float = FALSE_POSITIVE_RATE
    alert_rate: float | None = None
    place: float | None = None


def operating_place(histogram: ScoreHistogram, false_positive_rate: float = FALSE_POSITIVE_RATE) -> float | None:
    """The threshold that flags this share of the honest rows, in cells from the highest score down; None without any.

    >>> operating_place(ScoreHistogram(np.array([[990.0, 8, 2], [0.0, 1, 2]]), np.zeros((2, 3))), 0.006)
    1.5
    """
    false = np.cumsum(_denoised(histogram)[0][::-1])
    if false[-1] <= 0:
        return None
    return float(np.interp(false_positive_rate, np.append(0.0, false / false[-1]), np.arange(len(false) + 1)))


def threshold_of(place: float, cells: int) -> float:
    """The probability from which rows are flagged, of a threshold in cells from the highest score down.

    >>> from mintmark.models.score_histogram import score_edges
    >>> bool(np.isclose(threshold_of(3.0, 24), score_edges(24)[-3]))
    True
    """
    step = (HIGH - LOW) / (cells - 2)
    return float(1 / (1 + np.exp(-(LOW + (cells - place - 1) * step))))


def denoise(counts: Floats, noise: Floats) -> Floats:
    r"""The most likely counts [..., m] behind noised ones, of at least 0 and the same total (0 when that is below 0).

    What is counted from the highest cell down, $C_k$, never falls, so the cumulative sums are fitted by isotonic regression
    weighted by $1 / \sum_{j \le k} \sigma_j^2$. Cutting single cells at 0 instead would add up what noise makes of empty
    cells, where the model says fraud, to false alarms that nobody raised: at the demonstration's noise it halves AUPRC.

    >>> denoise(np.array([9.0, -1.0, 2.0]), np.ones(3)).round(3).tolist()
    [8.333, 0.0, 1.667]
    """
    if not noise.any():
        return counts
    weights = 1 / np.cumsum(np.square(noise)[::-1])
    flat = counts.reshape(-1, counts.shape[-1])
    fitted = np.empty_like(flat)
    for row, own in zip(fitted, flat, strict=True):
        cumulative = np.cumsum(own[::-1])
        total = max(float(cumulative[-1]), 0.0)
        row[:] = np.clip(isotonic_regression(cumulative, weights=weights).x, 0.0, total)
        row[-1] = total
    return np.diff(fitted, prepend=0.0, axis=1)[:, ::-1].reshape(counts.shape)


def figures(histogram: ScoreHistogram, at: Thresholds, rng: np.random.Generator, draws: int = DRAWS) -> Figures:
    """All figures with their 95 % intervals, by a parametric bootstrap: from the denoised counts the held-out sample and
    the banks' noise are drawn anew `draws` times, every drawing is denoised and read alike, and an interval holds the
    middle 95 % of what comes out (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13).

    Rows count as independent of each other: where a customer has many frauds, sampling is wider than the interval says.
    """
    expected, value = _denoised(histogram), _denoised_value(histogram)
    counts = _drawn_counts(histogram, expected, rng, draws)
    values = _drawn_values(histogram, value, expected[1], rng, draws)
    found = _read(expected[None], None if value is None else value[None], at)
    spread = _read(counts, values, at)
    return Figures(**{name: figure_of(float(found[name][0]), spread[name]) for name in found})


@dataclass(frozen=True, eq=False)
class Curves:
    """Bands for plots: for each of `false_positive_rate` [k] the `recall` [3, k], and for each of `recall_of_precision` [k]
    the `precision` [3, k]: the low end of the 95 % interval, the value, the high end."""

    false_positive_rate: Floats
    recall: Floats
    recall_of_precision: Floats
    precision: Floats


def curves(histogram: ScoreHistogram, rng: np.random.Generator, points: int = 101, draws: int = DRAWS) -> Curves:
    """ROC and precision-recall curves with pointwise intervals, made as `figures` makes its own."""
    expected = _denoised(histogram)
    counts = np.concatenate([expected[None], _drawn_counts(histogram, expected, rng, draws)])
    false, true = np.moveaxis(np.cumsum(counts[..., ::-1], axis=2), 1, 0)
    usable = (false[:, -1] > 0) & (true[:, -1] > 0)
    usable[0] = True
    false, true = np.maximum(false[usable], 1e-300), np.maximum(true[usable], 1e-300)
    recall, false_rate = true / true[:, -1:], false / false[:, -1:]
    shares = np.linspace(0, 1, points)
    roc = _at(shares, false_rate, recall)
    inner = shares[1:]
    at_recall = _at(inner, recall, false)
    precision = inner * true[:, -1:] / (inner * true[:, -1:] + at_recall)
    return Curves(shares, _band(roc), inner, _band(precision))


def _band(drawn: Floats) -> Floats:
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return np.stack([np.minimum(low, drawn[0]), drawn[0], np.maximum(high, drawn[0])])


def _denoised(histogram: ScoreHistogram) -> Floats:
    return np.stack([denoise(histogram.counts[side], histogram.noise[side]) for side in (0, 1)])


def _drawn_counts(histogram: ScoreHistogram, expected: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """Counts [draws, 2, m] of other samples of rows, noised and denoised."""
    shape = (draws, *expected.shape)
    drawn = rng.poisson(expected, shape) + histogram.noise * rng.standard_normal(shape)
    return np.stack([denoise(drawn[:, side], histogram.noise[side]) for side in (0, 1)], axis=1)


def _read(counts: Floats, value: Floats | None, at: Thresholds) -> dict[str, Floats]:
    """Every figure of `counts` [B, 2, m] and `value` [B, m]: [B] each, NaN where not defined.

    Within a cell rows are taken as evenly mixed: curves are straight between the cells' corners.
    """
    false, true = np.moveaxis(np.cumsum(counts[..., ::-1], axis=2), 1, 0)  # [B, m] from the strictest threshold on
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, false_rate = true / true[:, -1:], false / false[:, -1:]
        flagged = (true + false) / (true + false)[:, -1:]
        money = None if value is None else np.cumsum(value[:, ::-1], axis=1)
        detected = np.full_like(recall, np.nan) if money is None else money / money[:, -1:]
    budget, places = at.alert_rate, np.broadcast_to(np.arange(1.0, counts.shape[2] + 1), false_rate.shape)
    return {
        "rows": true[:, -1] + false[:, -1],
        "positives": true[:, -1],
        "auprc": _area_under_precision(false, true),
        "auroc": _area_under_recall(false_rate, recall),
        "recall_at_false_positives": _at(at.false_positive_rate, false_rate, recall),
        "recall_at_alerts": np.full(len(recall), np.nan) if budget is None else _at(budget, flagged, recall),
        "calibration_error": _calibration_error(counts),
        "value_detected": _at(at.false_positive_rate, false_rate, detected),
        "false_alarm_rate": np.full(len(recall), np.nan) if at.place is None else _at(at.place, places, false_rate),
    }


def _area_under_precision(false: Floats, true: Floats) -> Floats:
    r"""$\int \frac{T}{T + F}\,dT / P$ with T and F straight within a cell (Davis and Goadrich 2006): [B].

    With T = t + u a, T + F = n + u b, u from 0 to 1: $\frac ab + \frac{t - n a / b}{b} \ln\frac{n + b}{n}$.
    """
    all_ = true + false
    a, b = np.diff(true, prepend=0.0, axis=1), np.diff(all_, prepend=0.0, axis=1)
    t, n = true - a, all_ - b
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = a / b
        bend = np.where(n > 0, (t - n * slope) / b * np.log1p(b / n), 0.0)
        return np.asarray(np.where(b > 0, a * (slope + bend), 0.0).sum(axis=1) / true[:, -1])


def _area_under_recall(false_rate: Floats, recall: Floats) -> Floats:
    steps, widths = np.diff(recall, prepend=0.0, axis=1), np.diff(false_rate, prepend=0.0, axis=1)
    return np.asarray((widths * (recall - steps / 2)).sum(axis=1))


def _at(share: float | Floats, along: Floats, curve: Floats) -> Floats:
    """The curve [B, m] where `along` [B, m] reaches `share`: [B], or [B, k] for k shares."""
    return np.array([np.interp(share, np.append(0.0, x), np.append(0.0, y)) for x, y in zip(along, curve, strict=True)])


def _calibration_error(counts: Floats) -> Floats:
    """The expected calibration error over `CALIBRATION_BINS` bins of neighbouring cells: the mean, by rows, of how far the
    share of frauds is from the model's mean probability (Naeini, Cooper and Hauskrecht 2015): [B]."""
    cells = counts.shape[2]
    rows = counts.sum(axis=1)
    surplus = (counts[:, 1] - rows * _middles(cells)).reshape(len(counts), CALIBRATION_BINS, -1).sum(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.abs(surplus).sum(axis=1) / rows.sum(axis=1))


def _middles(cells: int) -> Floats:
    """The probability in the middle of each cell, in log-odds."""
    edges = np.linspace(LOW, HIGH, cells - 1)
    half = (edges[1] - edges[0]) / 2
    return np.asarray(1 / (1 + np.exp(-np.append(edges - half, edges[-1] + half))))


def _denoised_value(histogram: ScoreHistogram) -> Floats | None:
    if histogram.value is None:
        return None
    return denoise(histogram.value, np.full(len(histogram.value), histogram.value_noise))


def _drawn_values(
    histogram: ScoreHistogram, value: Floats | None, frauds: Floats, rng: np.random.Generator, draws: int
) -> Floats | None:
    """Values [draws, m] of other samples, noised and denoised. The money of n frauds is taken to vary as that of n / 2: as
    if single amounts were exponential, about as uneven as payments are."""
    if value is None:
        return None
    effective = np.maximum(frauds / 2, 0.5)
    sampled = value * rng.poisson(effective, (draws, len(value))) / effective
    noise = np.full(len(value), histogram.value_noise)
    return denoise(sampled + noise * rng.standard_normal(sampled.shape), noise)


def figure_of(value: float, spread: Floats) -> Figure:
    """A figure with the middle 95 % of what a bootstrap drew, `spread` [B]; not defined where value or all draws are not.

    >>> figure_of(0.5, np.array([0.4, np.nan, 0.6]))
    Figure(value=0.5, low=0.405, high=0.595)
    """
    defined = spread[np.isfinite(spread)]
    if not np.isfinite(value) or not len(defined):
        return Figure(value=None, low=None, high=None)
    low, high = np.quantile(defined, [0.025, 0.975])
    return Figure(value=value, low=min(float(low), value), high=max(float(high), value))
