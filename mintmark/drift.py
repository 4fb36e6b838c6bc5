r"""Whether scores and features are distributed as they were: the population stability index, and what of it chance makes.

Over the bins that both samples are counted in, $PSI = \sum_b (q_b - p_b) \ln(q_b / p_b)$ with p and q the shares before and
after (half a row is added to every bin, so that empty ones are no infinity). Where nothing has changed it is about
$(1/n + 1/m) \chi^2_{B-1}$ (Yurdakul 2018): the usual readings, .1 and .25, say nothing where chance alone makes as much.

What banks released is noised: there the index is read off the denoised counts, its interval and what chance makes
of it come from a parametric bootstrap that draws rows and noise anew, as for every figure of an evaluation. Scores are the
evaluation's. Features are the training rows', whom round 0 has counted by public bin: nothing is asked or spent for them.

>>> round(stability_index(np.array([50.0, 30, 20]), np.array([20.0, 30, 50])), 3)
0.533
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.campaign import learner_of
from mintmark.canonical import canonical_json, digest
from mintmark.errors import DataError
from mintmark.evaluation import denoise, figure_of
from mintmark.evaluation_record import EvaluationRecord, Figure
from mintmark.messages import ModelArtifact
from mintmark.models.boosting import BoostingState, TreeQuery
from mintmark.models.feature_trees import row_counts
from mintmark.models.linear import LinearState
from mintmark.models.logistic_step import present
from mintmark.models.score_histogram import ScoreHistogram, relative_weights
from mintmark.schema import FeatureSchema

SOME, STRONG = 0.1, 0.25  # the usual readings of the index
BINS = 8  # of neighbouring score cells: single cells would be mostly noise
DRAWS = 300
MAX_COUNTS = 4096  # in a record: of scores 256, of a feature at most 255 words and missing

Floats = npt.NDArray[np.float64]
Told = float | str | None


@dataclass(frozen=True)
class Drift:
    """An index and its 95 % interval; `by_chance`: nineteen of twenty samples that did not change stay below it."""

    index: Figure
    by_chance: float

    def told(self) -> dict[str, Told]:
        """As JSON."""
        return self.index.model_dump() | {"by_chance": self.by_chance, "drift": self.reading}

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
        drifts[name] = Drift(figure_of(value, spread), float(chance))
    return drifts


def feature_drift(before: Floats, after: Floats, noise: tuple[float, float], rng: np.random.Generator) -> Drift:
    """The drift between two released counts [B] of a feature's bins, which carry noise of these standard deviations.

    To every bin's share the larger noise's share is added before they are compared, as half a row is elsewhere: the
    logarithm of a bin of noise alone would say anything. Raises `DataError` when the bins are not the same number.
    """
    if before.shape != after.shape:
        raise DataError(f"expected counts in the same bins, got {len(before)} and {len(after)}: the campaigns' differ")
    found = [np.maximum(counts, 0.0) for counts in (before, after)]
    rows = [max(float(counts.sum()), 1.0) for counts in found]
    floor = max(max(spread, 0.5) / total for spread, total in zip(noise, rows, strict=True))

    def index(first: Floats, second: Floats) -> Floats:
        p, q = (
            (counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1.0) + floor) / (1 + floor * counts.shape[-1])
            for counts in (first, second)
        )
        return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1))

    def again(expected: Floats, spread: float) -> Floats:
        shape = (DRAWS, len(expected))
        return np.maximum(rng.poisson(expected, shape) + spread * rng.standard_normal(shape), 0.0)

    drawn = [again(counts, spread) for counts, spread in zip(found, noise, strict=True)]
    shares = (found[0] + found[1]) / max(sum(rows), 1.0)
    unchanged = [again(shares * total, spread) for total, spread in zip(rows, noise, strict=True)]
    value = float(index(*found))
    return Drift(figure_of(value, index(*drawn)), float(np.quantile(index(*unchanged), 0.95)))


def released_features(artifact: ModelArtifact, schema: FeatureSchema) -> tuple[dict[str, tuple[float, ...]], float]:
    """How many training rows of all banks lie in each public bin of each feature, missing first, and the noise in each:
    what round 0 of both learners has released, as clipped. Nothing for a learner that asks something else at first."""
    learner = learner_of(artifact.campaign)
    state = learner.start(artifact.campaign, schema)
    if not artifact.history or not isinstance(state, BoostingState | LinearState):
        return {}, 0.0
    assert isinstance(learner.query(state), TreeQuery)
    counts, noise = row_counts(artifact.history[0].values, artifact.history[0].noise)
    there = present(state.bins, counts.shape[1])
    own = zip(schema.names, counts, there, strict=True)
    return {name: tuple(row[bins].tolist()) for name, row, bins in own}, noise


def score_drifts(before: object, noise_before: float, after: object, noise_after: float) -> dict[str, dict[str, Told]]:
    """`score_drift` of what two signed records say, as JSON; the same inputs give the same draws."""
    rng = _generator([before, noise_before, after, noise_after])
    found = score_drift(_histogram(before, noise_before), _histogram(after, noise_after), rng)
    return {name: drift.told() for name, drift in found.items()}


def feature_drifts(before: object, noise_before: float, after: object, noise_after: float) -> dict[str, Told]:
    """`feature_drift` of what two signed records say of a feature, as JSON; the same inputs give the same draws."""
    rng = _generator([before, noise_before, after, noise_after])
    first, second = _counts(before, 1), _counts(after, 1)
    return feature_drift(first, second, (noise_before, noise_after), rng).told()


def drifts_between(before: EvaluationRecord, after: EvaluationRecord) -> dict[str, dict[str, dict[str, Told]]]:
    """The drift of `scores` and of `features` between two signed records, by name. Raises `DataError` when scores are
    counted on different grids; features that are not counted in the same bins are left out."""
    scores = score_drifts(before.score_counts, before.noise, after.score_counts, after.noise)
    features = {
        name: feature_drifts(before.feature_counts[name], before.feature_noise, counts, after.feature_noise)
        for name, counts in after.feature_counts.items()
        if len(before.feature_counts.get(name, ())) == len(counts)
    }
    return {"scores": scores, "features": features}


def _counts(told: object, dimensions: int) -> Floats:
    """Counts as an array. Raises `ValueError` for what no record holds: a pack of evidence may say anything."""
    array = np.asarray(told, dtype=np.float64)
    if array.ndim != dimensions or not 0 < array.size <= MAX_COUNTS or not np.isfinite(array).all():
        raise ValueError(f"expected {dimensions}-dimensional counts, at most {MAX_COUNTS}, got shape {array.shape}")
    return array


def _histogram(counts: object, noise: float) -> ScoreHistogram:
    array = _counts(counts, 2)
    return ScoreHistogram(array, noise / relative_weights(array.shape[1]))


def _generator(inputs: object) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=int(digest(canonical_json(inputs))[:32], 16)))


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
