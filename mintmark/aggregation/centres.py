r"""Rules that look for a centre in space: weighted mean, geometric median, centred clipping, CAF.

All return $\sum_k p_k x_k$ and find p from inner products alone. Weights have the meaning of repeated rows: a bank of
weight two is a bank listed twice.

>>> updates = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-900.0, -900.0]])
>>> geometric_median(updates, None, f=1).vector.round(3).tolist()
[0.0, 0.0]
"""

from __future__ import annotations

import numpy as np

from mintmark.aggregation.coordinatewise import heaviest
from mintmark.aggregation.mixture import (
    Aggregate,
    Floats,
    Mixture,
    Updates,
    dot,
    exact_products,
    mixture_of,
    normalised,
)

_ITERATIONS = 10_000
_CLIPPING_STEPS = 10
_TOLERANCE = 1e-13
_ROUNDING = 1e-9


def weighted_mean(updates: Updates | Mixture, weights: Floats | None, f: int) -> Aggregate:
    r"""$y = \sum_k w_k x_k / \sum_k w_k$. Stands no liar, f = 0: one bank moves it without bound.

    >>> weighted_mean(np.array([[1.0], [4.0]]), np.array([2.0, 1.0]), f=0).vector.tolist()
    [2.0]
    """
    mixture = mixture_of(updates)
    return mixture.result(normalised(weights, len(mixture)), {}, pull=mixture.mix is not None)


def geometric_median(updates: Updates | Mixture, weights: Floats | None, f: int) -> Aggregate:
    r"""The point whose weighted sum of distances is least: $\arg\min_y \sum_k w_k \|x_k - y\|$. n > 2 f.

    Weiszfeld's iteration on p, once no row itself is the answer. Where the answer is not unique (two rows; an even number
    on a line), the weighted mean of the rows that are answers. Pillutla et al. 2022, "Robust Aggregation for Federated
    Learning" (RFA); Vardi and Zhang 2000 for the rows.

    >>> square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    >>> geometric_median(square, None, f=1).vector.round(6).tolist()
    [1.0, 1.0]
    """
    mixture = mixture_of(updates)
    shares = normalised(weights, len(mixture))
    heaviest(shares, f)
    part = _median_rows(mixture, shares)
    if part is None:
        part = _weiszfeld(mixture, shares)
    return mixture.result(part, _seen(mixture, part))


def centred_clipping(updates: Updates | Mixture, weights: Floats | None, f: int) -> Aggregate:
    r"""Ten steps $v \leftarrow v + \sum_k w_k (x_k - v) \min(1, \tau / \|x_k - v\|)$ from the row nearest to the others.

    $\tau$ is, in each step, the distance within which half of the weight lies; the row to start from is the one for which
    that is least (of two for which it is the distance between them, the one nearer to all). n > 2 f. Karimireddy et al.
    2021, "Learning from History for Byzantine Robust Optimization", with the clipping radius and the start that it leaves
    open.

    >>> centred_clipping(np.array([[0.0], [1.0], [2.0], [1e9]]), None, f=1).vector.round(2).tolist()
    [1.5]
    """
    mixture = mixture_of(updates)
    shares = normalised(weights, len(mixture))
    heaviest(shares, f)
    part = np.zeros(len(mixture))
    near, sums = within_half(mixture.distances, shares), (mixture.distances * shares).sum(axis=1)
    part[np.lexsort((sums, near))[0]] = 1.0
    for _ in range(_CLIPPING_STEPS):
        distances = _distances_to(mixture, part)
        radius = within_half(distances[None], shares)[0]
        moves = shares * np.where(distances > radius, radius / np.maximum(distances, 1e-150), 1.0)
        part = part * (1 - moves.sum()) + moves
    return mixture.result(part, _seen(mixture, part))


def caf(updates: Updates | Mixture, weights: Floats | None, f: int) -> Aggregate:
    r"""Covariance filter: rows far out along the widest direction lose weight, until what 2 f banks hold is gone; the
    result is the mean that saw the least width. n > 2 f.

    With weights c (at first w) and their mean $\mu$: v the top eigenvector of the weighted covariance,
    $\tau_k = \langle v, x_k - \mu \rangle^2$, $c_k \leftarrow c_k (1 - \tau_k / \max_j \tau_j)$. At f = 0 it is the
    weighted mean. Allouah et al. 2025, "Towards Trustworthy Federated Learning with Untrusted Participants", Algorithm 2,
    with the exact eigenvector.

    >>> caf(np.array([[0.0], [1.0], [2.0], [3.0], [1e9]]), None, f=1).vector.round(6).tolist()
    [1.5]
    """
    mixture = mixture_of(updates)
    left = normalised(weights, len(mixture))
    target = 1 - 2 * heaviest(left, f)
    products = mixture.products[:-1, :-1]
    best, part = np.inf, left
    while True:
        mean = left / left.sum()
        across = dot(mean, products)
        centred = products - across - across[:, None] + float((across * mean).sum())
        root = np.sqrt(mean)
        width, direction = top_eigenvector(centred * root * root[:, None])
        if width < best:
            best, part = width, mean
        places = np.where(left > 0, np.abs(dot(direction * root, centred)), 0.0)
        if not places.max() > 0:
            break
        left = left * (1 - np.square(places / places.max()))
        left[left < _ROUNDING * mean] = 0.0
        if left.sum() <= target + _ROUNDING:
            break
    return mixture.result(part, {"caf_weight": part} if mixture.mix is None else {})


def within_half(distances: Floats, weights: Floats) -> Floats:
    """For each row of distances [r, m], the least that holds half of the weight: [r].

    >>> within_half(np.array([[0.0, 4.0, 9.0]]), np.array([0.25, 0.25, 0.5])).tolist()
    [4.0]
    """
    order = np.argsort(distances, axis=1, kind="stable")
    reached = (np.cumsum(weights[order], axis=1) >= 0.5 - _ROUNDING).argmax(axis=1)
    return np.asarray(np.take_along_axis(distances, order, axis=1)[np.arange(len(order)), reached])


def top_eigenvector(matrix: Floats) -> tuple[float, Floats]:
    """The largest eigenvalue of a positive semidefinite [n, n], and a unit eigenvector: the same bytes everywhere.

    Repeated squaring: what is left is the projector on the top eigenspace, whose longest column is taken.

    >>> width, direction = top_eigenvector(np.array([[2.0, 0.0], [0.0, 3.0]]))
    >>> width, direction.tolist()
    (3.0, [0.0, 1.0])
    """
    trace = float(np.trace(matrix))
    if not trace > 0:
        return 0.0, np.zeros(len(matrix))
    power = matrix / trace
    for _ in range(60):
        power = exact_products(power)
        trace = float(np.trace(power))  # of a rank-one projector it is 1
        power /= trace
        if trace > 1 - 1e-12:
            break
    longest = power[int(np.argmax(np.diag(power)))]
    direction = longest / np.sqrt(float(np.square(longest).sum()))
    return float((dot(direction, matrix) * direction).sum()), direction


def _median_rows(mixture: Mixture, shares: Floats) -> Floats | None:
    """The rows that are geometric medians themselves, as p: those that all others together pull by less than the weight
    that lies there. None when there is no such row."""
    distances = np.sqrt(mixture.distances)
    same = distances == 0
    pulls = np.where(same, 0.0, shares / np.where(same, 1.0, distances))
    pulls[np.diag_indices_from(pulls)] -= pulls.sum(axis=1)
    across = np.einsum("ki,ij->kj", pulls, mixture.products[:-1, :-1])
    force: Floats = np.sqrt(np.maximum((across * pulls).sum(axis=1), 0.0))
    medians = force <= (same * shares).sum(axis=1) + _ROUNDING
    return np.asarray(shares * medians / (shares * medians).sum()) if medians.any() else None


def _weiszfeld(mixture: Mixture, shares: Floats) -> Floats:
    """The geometric median as p, where it is no row. Starts near the row nearest to the others, which liars cannot move."""
    distances = np.sqrt(mixture.distances)
    near = within_half(distances, shares)
    first, radius = int(np.argmin(near)), float(near.min())
    pulls = shares / np.maximum(distances[first], radius)
    part = pulls / pulls.sum()
    for _ in range(_ITERATIONS):
        before, away = part, _distances_to(mixture, part)
        pulls = shares / np.maximum(away, 1e-150)
        part = pulls / pulls.sum()
        if (np.abs(part - before) * away).sum() < _TOLERANCE * radius:
            break
    return np.asarray(part)


def _distances_to(mixture: Mixture, part: Floats) -> Floats:
    """Distances [m], over the unit, of the rows from the combination `part` of them."""
    products = mixture.products[:-1, :-1]
    across = dot(part, products)
    squares = np.diag(products) - 2 * across + float((across * part).sum())
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _seen(mixture: Mixture, part: Floats) -> dict[str, Floats]:
    return {"distance": _distances_to(mixture, part) * mixture.unit} if mixture.mix is None else {}
