r"""Whether scores and features are distributed as they were: the population stability index, and what of it chance makes.

Over the bins that both samples are counted in, $PSI = \sum_b (q_b - p_b) \ln(q_b / p_b)$ with p and q the shares before and
after (half a row is added to every bin, so that empty ones are no infinity). Where nothing has changed it is about
$(1/n + 1/m) \chi^2_{B-1}$ (Yurdakul 2018): the usual readings, .1 and .25, say nothing where chance alone makes as much.

Scores that banks released are noised: there the index is read off the denoised counts, its interval and what chance makes
of it come from a parametric bootstrap that draws rows and noise anew, as for every figure of an evaluation.

>>> round(stability_index(np.array([50.0, 30, 20]), np.array([20.0, 30, 50])), 3)
0.533
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.errors import DataError
from mintmark.evaluation import denoise
from mintmark.evaluation_record import EvaluationRecord, Figure
from mintmark.models.score_histogram import ScoreHistogram, relative_weights

SOME, STRONG = 0.1, 0.25  # the usual readings of the index
BINS = 8  # of neighbouring score cells: single cells would be mostly noise
DRAWS = 300

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """An index and its 95 % interval; `by_chance`: nineteen of twenty samples that did not change stay below it."""

    index: Figure
    by_chance: float

    @property
    def reading(self) -> str:
        """none, little, some or strong; none whenever chance could have made it."""
        value = self.index.value or 0.0
        if value <= self.by_chance:
            return "none"
        return "strong" if value > STRONG else "some" if value > SOME else "little"


def stability_index(before: Floats, after: Floats) -> float:
    """The index of two arrays of counts [B] over the same bins."""
    return float(_indices(before, after))


def drift_of(before: Floats, after: Floats) -> Drift:
    """The drift from exact counts [B] to others, by the formula above; the interval's ends are left out."""
    from scipy.stats import chi2

    rows = float(before.sum()), float(after.sum())
    chance = chi2.ppf(0.95, len(before) - 1) * sum(1 / max(count, 1.0) for count in rows)
    value = stability_index(before, after)
    return Drift(Figure(value=value, low=None, high=None), float(chance))


def score_drift(before: ScoreHistogram, after: ScoreHistogram, rng: np.random.Generator) -> dict[str, Drift]:
    """The drift of all rows' scores, of honest rows' and of frauds', between two released histograms.

    Raises `DataError` when they are counted on different grids.
    """
    if before.counts.shape != after.counts.shape:
        raise DataError(
            f"expected score histograms of the same cells, got {before.counts.shape[1]} and {after.counts.shape[1]}: one "
            "campaign had noise, the other had none"
        )
    found = [_denoised(histogram.counts, histogram.noise) for histogram in (before, after)]
    drawn = [_drawn(counts, histogram.noise, rng) for counts, histogram in zip(found, (before, after), strict=True)]
    same = _same_shape(*found)
    unchanged = [_drawn(counts, histogram.noise, rng) for counts, histogram in zip(same, (before, after), strict=True)]
    drifts = {}
    for name, side in (("all rows", None), ("honest rows", 0), ("frauds", 1)):
        value = stability_index(*(_binned(counts, side) for counts in found))
        spread = _indices(*(_binned(counts, side) for counts in drawn))
        chance = np.quantile(_indices(*(_binned(counts, side) for counts in unchanged)), 0.95)
        low, high = np.quantile(spread, [0.025, 0.975])
        figure = Figure(value=value, low=min(float(low), value), high=max(float(high), value))
        drifts[name] = Drift(figure, float(chance))
    return drifts


def histogram_of(record: EvaluationRecord) -> ScoreHistogram:
    """The pooled score histogram of a signed record, with the noise in each cell."""
    counts = np.array(record.score_counts)
    return ScoreHistogram(counts, record.noise / relative_weights(counts.shape[1]))


def _indices(before: Floats, after: Floats) -> Floats:
    """The index along the last axis: [..., B] -> [...]."""
    p, q = (
        (counts + 0.5) / (counts.sum(axis=-1, keepdims=True) + 0.5 * counts.shape[-1]) for counts in (before, after)
    )
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1))


def _denoised(counts: Floats, noise: Floats) -> Floats:
    """[..., 2, m], each class by itself."""
    return np.stack([denoise(counts[..., side, :], noise[side]) for side in (0, 1)], axis=-2)


def _drawn(expected: Floats, noise: Floats, rng: np.random.Generator) -> Floats:
    """Other samples of rows and noise, denoised: [DRAWS, 2, m]."""
    shape = (DRAWS, *expected.shape)
    return _denoised(rng.poisson(expected, shape) + noise * rng.standard_normal(shape), noise)


def _same_shape(before: Floats, after: Floats) -> tuple[Floats, Floats]:
    """Both classes' counts as they would be if nothing had changed: the pooled shares, at each one's own number of rows."""
    pooled = before + after
    shares = pooled / np.maximum(pooled.sum(axis=1, keepdims=True), 1e-12)
    first, second = (shares * counts.sum(axis=1, keepdims=True) for counts in (before, after))
    return first, second


def _binned(counts: Floats, side: int | None) -> Floats:
    """Counts [..., 2, m] of one class, or of both together, in `BINS` bins: [..., BINS]."""
    chosen = counts.sum(axis=-2) if side is None else counts[..., side, :]
    return np.asarray(chosen.reshape(*chosen.shape[:-1], BINS, -1).sum(axis=-1))
