r"""Steps before a rule: nearest-neighbour mixing, bucketing, clipping. Each turns n rows into rows that are nearer.

A step takes what a rule takes and returns the new rows, never written out, and their weights. f stays the same:
as many of the new rows as old ones lied are not what honest ones would be.

>>> updates = np.array([[0.0], [1.0], [2.0], [99.0]])
>>> mixed, weights = nnm(updates, None, f=1)
>>> next(mixed.blocks())[1].round(3).tolist()
[[1.0], [1.0], [1.0], [34.0]]
"""

from __future__ import annotations

import numpy as np

from mintmark.aggregation.centres import within_half
from mintmark.aggregation.mixture import Floats, Mixture, Updates, mixture_of, normalised

Step = tuple[Mixture, Floats]


def nnm(updates: Updates | Mixture, weights: Floats | None, f: int) -> Step:
    r"""Nearest-neighbour mixing: each row becomes the weighted mean of the n - f rows nearest to it, itself among them.

    Takes the unlikeness of honest banks away, which is what attacks hide in. n > 2 f. Allouah et al. 2023, "Fixing by
    Mixing", Algorithm 2. Who is near is decided without weights.

    >>> nnm(np.array([[0.0], [1.0], [5.0]]), np.array([1.0, 3.0, 1.0]), f=1)[0].mix.round(3).tolist()
    [[0.25, 0.75, 0.0], [0.25, 0.75, 0.0], [0.0, 0.75, 0.25]]
    """
    mixture = mixture_of(updates)
    shares = normalised(weights, len(mixture))
    near = np.argsort(mixture.distances, axis=1, kind="stable")[:, : len(mixture) - f]
    mix = np.zeros((len(mixture), len(mixture)))
    np.put_along_axis(mix, near, shares[near], axis=1)
    return mixture.mixed(mix / mix.sum(axis=1, keepdims=True), {}), shares


def bucketing(updates: Updates | Mixture, weights: Floats | None, f: int, size: int = 2) -> Step:
    r"""Rows are dealt into ceil(n / size) buckets, each of which becomes its weighted mean, of its whole weight.

    ceil(n / size) > 2 f. Karimireddy et al. 2022, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
    deals by chance. Here rows are dealt like cards, the ones near the others' middle first, so that each bucket gets near
    and far ones, and a rerun gets the same.

    >>> bucketing(np.array([[0.0], [1.0], [2.0], [9.0]]), None, f=0)[0].mix.tolist()
    [[0.5, 0.0, 0.5, 0.0], [0.0, 0.5, 0.0, 0.5]]
    """
    mixture = mixture_of(updates)
    shares = normalised(weights, len(mixture))
    buckets = buckets_of(len(mixture), size)
    rank = np.argsort(np.argsort(within_half(mixture.distances, shares), kind="stable"), kind="stable")
    mix = np.where(rank % buckets == np.arange(buckets)[:, None], shares, 0.0)
    filled = mix.sum(axis=1)
    return mixture.mixed(mix / filled[:, None], {}), filled


def buckets_of(n: int, size: float) -> int:
    """How many buckets n rows fill."""
    return -(-n // int(size))


def static_clipping(updates: Updates | Mixture, weights: Floats | None, f: int, radius: float) -> Step:
    r"""$x_k \min(1, r / \|x_k\|)$: no row longer than `radius`, which is known beforehand.

    >>> static_clipping(np.array([[3.0, 4.0], [0.0, 1.0]]), None, f=0, radius=2.5)[0].mix.tolist()
    [[0.5, 0.0], [0.0, 1.0]]
    """
    mixture = mixture_of(updates)
    return _clipped(mixture, radius), normalised(weights, len(mixture))


def arc(updates: Updates | Mixture, weights: Floats | None, f: int) -> Step:
    r"""Adaptive robust clipping: the $k = \lfloor 2 f (n - f) / n \rfloor$ longest rows are cut to the next one's length.

    n > 2 f. Allouah et al. 2024, "Adaptive Gradient Clipping for Robust Federated Learning", Algorithm 2.

    >>> arc(np.array([[1.0], [2.0], [3.0], [8.0]]), None, f=1)[0].mix.diagonal().tolist()
    [1.0, 1.0, 1.0, 0.375]
    """
    mixture = mixture_of(updates)
    clipped = 2 * f * (len(mixture) - f) // len(mixture)
    radius = float(np.sort(mixture.norms)[len(mixture) - clipped - 1])
    return _clipped(mixture, radius), normalised(weights, len(mixture))


def _clipped(mixture: Mixture, radius: float) -> Mixture:
    norms, factor = mixture.norms, np.ones(len(mixture))
    longer = norms > radius
    factor[longer] = radius / norms[longer]
    return mixture.mixed(np.diag(factor), {"clipping_factor": factor} if mixture.mix is None else {})
