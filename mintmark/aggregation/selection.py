r"""Rules that choose rows and average them: Krum, Multi-Krum, Bulyan, MoNNA, MDA, SMEA.

Distances decide who is chosen, and a bank's weight says nothing about whether its update lies: **no sound weighted form
of the choice exists**, so every row counts once in it. Where several rows are averaged their weights count (capped, as
everywhere), but for Bulyan, whose proof needs equal ones. Ties go to the row that comes first.

>>> updates = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [90.0, -90.0]])
>>> multi_krum(updates, None, f=1).shares.tolist()
[0.25, 0.25, 0.25, 0.25, 0.0]
"""

from __future__ import annotations

from itertools import combinations, islice
from math import comb

import numpy as np
import numpy.typing as npt

from mintmark.aggregation.coordinatewise import mean_around_median
from mintmark.aggregation.mixture import Aggregate, Floats, Mixture, Updates, mixture_of, normalised

MAX_SUBSETS = 100_000  # that MDA and SMEA try
_AT_ONCE = 1024  # of them
_TIE = 1 + 1e-9  # eigenvalues this near are one and the same, computed on another processor


def krum(updates: Updates | Mixture, weights: Floats | None, f: int) -> Aggregate:
    r"""The row whose n - f - 2 nearest others are nearest: $\arg\min_i \sum_{j \in N_i} \|x_i - x_j\|^2$. n > 2 f + 2.

    Weights are not used. Blanchard et al. 2017, "Machine Learning with Adversaries", Section 4.

    >>> krum(np.array([[0.0], [1.0], [1.5], [3.0], [99.0]]), None, f=1).vector.tolist()  # scores 3.25 1.25 2.5 6.25 18818
    [1.0]
    """
    mixture = mixture_of(updates)
    scores = krum_scores(mixture.distances, f)
    part = np.zeros(len(mixture))
    part[np.argmin(scores)] = 1.0
    return mixture.result(part, {"krum_score": scores * mixture.unit * mixture.unit} if mixture.mix is None else {})


def multi_krum(updates: Updates | Mixture, weights: Floats | None, f: int) -> Aggregate:
    r"""The weighted mean of the n - f rows with the lowest Krum scores. n > 2 f + 2.

    Blanchard et al. 2017, Section 5, with m = n - f.

    >>> multi_krum(np.array([[0.0], [1.0], [1.5], [3.0], [99.0]]), None, f=1).vector.tolist()
    [1.375]
    """
    mixture = mixture_of(updates)
    scores = krum_scores(mixture.distances, f)
    chosen = np.argsort(scores, kind="stable")[: len(mixture) - f]
    return _mean_of(mixture, weights, chosen)


def krum_scores(distances: Floats, f: int) -> Floats:
    """Each row's summed squared distances to its n - f - 2 nearest others: [n, n] -> [n]."""
    return np.asarray(np.sort(distances, axis=1)[:, 1 : len(distances) - f - 1].sum(axis=1))


def bulyan(updates: Updates | Mixture, weights: Floats | None, f: int) -> Aggregate:
    r"""n - 2 f rows chosen by Krum, one after the other; then, per coordinate, the mean of the n - 4 f values nearest to
    their median. n >= 4 f + 3. Weights are not used.

    Each choice is made among the rows that are left, by their nearest n - f - 2 others (all, once fewer are left).
    El Mhamdi et al. 2018, "The Hidden Vulnerability of Distributed Learning in Byzantium", Section 4.

    >>> bulyan(np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [99.0]]), None, f=1).vector.tolist()
    [3.0]
    """
    mixture = mixture_of(updates)
    count = len(mixture)
    left = np.arange(count)
    chosen: list[int] = []
    while len(chosen) < count - 2 * f:
        near = np.sort(mixture.distances[np.ix_(left, left)], axis=1)[:, 1 : count - f - 1]
        best = int(np.argmin(near.sum(axis=1)))
        chosen.append(int(left[best]))
        left = np.delete(left, best)
    kept = mixture.mixed(np.eye(count)[sorted(chosen)], {})
    return mean_around_median(kept, count - 4 * f)


def monna(updates: Updates | Mixture, weights: Floats | None, f: int, pivot: int | None = None) -> Aggregate:
    r"""The weighted mean of the n - f rows nearest to a pivot. n > 2 f.

    In the paper every worker takes its own row. A coordinator has none, so the pivot is the row whose n - f nearest are
    nearest in sum, or row `pivot` if it is trusted. Farhadkhani et al. 2023, "Robust Collaborative Learning with Linear
    Gradient Overhead", Section 3.

    >>> monna(np.array([[0.0], [1.0], [2.0], [99.0]]), None, f=1).vector.tolist()
    [1.0]
    """
    mixture = mixture_of(updates)
    keep = len(mixture) - f
    if pivot is None:
        pivot = int(np.argmin(np.sort(mixture.distances, axis=1)[:, :keep].sum(axis=1)))
    return _mean_of(mixture, weights, np.argsort(mixture.distances[pivot], kind="stable")[:keep])


def mda(updates: Updates | Mixture, weights: Floats | None, f: int) -> Aggregate:
    r"""The weighted mean of the n - f rows of smallest diameter, $\arg\min_S \max_{i,j \in S} \|x_i - x_j\|$; of several
    such sets, of the one with the smallest sum of squared distances. n > 2 f, at most 100,000 sets.

    Rousseeuw 1985; El Mhamdi et al. 2021, "Collaborative Learning in the Jungle", Section 4 (minimum-diameter averaging).

    >>> mda(np.array([[0.0], [1.0], [2.0], [4.0], [99.0]]), None, f=2).vector.tolist()
    [1.0]
    """
    mixture = mixture_of(updates)
    best: tuple[float, float] | None = None
    chosen = np.arange(len(mixture))
    for sets in _subsets(len(mixture), len(mixture) - f):
        inner = mixture.distances[sets[:, :, None], sets[:, None, :]]
        widths, sums = inner.max(axis=(1, 2)), inner.sum(axis=2).sum(axis=1)
        first = int(np.lexsort((sums, widths))[0])
        if best is None or (widths[first], sums[first]) < best:
            best, chosen = (widths[first], sums[first]), sets[first]
    return _mean_of(mixture, weights, chosen)


def smea(updates: Updates | Mixture, weights: Floats | None, f: int) -> Aggregate:
    r"""The weighted mean of the n - f rows whose covariance has the smallest largest eigenvalue. n > 2 f, at most
    100,000 sets.

    $\arg\min_S \lambda_{\max}(\frac{1}{|S|} \sum_{i \in S} (x_i - \bar x_S)(x_i - \bar x_S)^\top)$. Allouah et al. 2023,
    "On the Privacy-Robustness-Utility Trilemma in Distributed Learning", Section 4.

    >>> smea(np.array([[0.0], [1.0], [2.0], [4.0], [99.0]]), None, f=2).vector.tolist()
    [1.0]
    """
    mixture = mixture_of(updates)
    products = mixture.products[:-1, :-1]
    best, chosen = np.inf, np.arange(len(mixture))
    for sets in _subsets(len(mixture), len(mixture) - f):
        inner = products[sets[:, :, None], sets[:, None, :]]
        across = inner.mean(axis=2)
        centred = inner - across[:, :, None] - across[:, None, :] + across.mean(axis=1)[:, None, None]
        widths = np.linalg.eigvalsh(centred)[:, -1]
        if widths.min() * _TIE < best:
            best = float(widths.min())
            chosen = sets[np.flatnonzero(widths <= best * _TIE)[0]]
    return _mean_of(mixture, weights, chosen)


def few_subsets(n: int, f: int) -> bool:
    """Whether all sets of n - f of n can be tried."""
    return comb(n, f) <= MAX_SUBSETS


def _subsets(n: int, size: int):  # type: ignore[no-untyped-def]
    """All sets of `size` of n, a thousand at a time: [c, size]."""
    sets = combinations(range(n), size)
    while some := list(islice(sets, _AT_ONCE)):
        yield np.array(some)


def _mean_of(mixture: Mixture, weights: Floats | None, chosen: npt.NDArray[np.intp]) -> Aggregate:
    part = np.zeros(len(mixture))
    part[chosen] = normalised(weights, len(mixture))[chosen]
    return mixture.result(part / part.sum(), {})
