r"""From all released sums to the next coefficients of a logistic regression over bins: the linear learner's mathematics.

The model is $z = b + \sum_f w_f[\mathrm{bin}_f]$ and minimises the log-loss plus $\frac12 \sum_f w_f^T Q_f w_f$,
$Q_f = \lambda I + \kappa L_f$: a ridge, and for numbers a penalty on the difference of neighbouring bins (L_f is the
Laplacian of their chain). Both grow with the noise and stay; without noise only the ridge of scikit-learn's
`LogisticRegression(C=1 / RIDGE)` on the one-hot bins is left, and so is its optimum.

A round shows gradient G and hessian H of every bin where the model stands. Centred by $m = \sum G / \sum H$, which the
intercept takes, each feature has its own Newton direction $(\mathrm{diag}\,H + Q)^{-1} (G - m H + Q w)$. F features move
at once and a row is in a bin of each, so the whole hessian is at most F times its diagonal blocks (Cauchy and Schwarz),
for features that are copies of each other: a step of 1 / F is safe for any, STEP / F for what data are like. It starts
from the weighted mean of the last points whose directions cancel best (Anderson acceleration, Walker and Ni 2011,
"Anderson acceleration for fixed-point iterations"), held to the newest point by the noise. So nothing that was released
is lost, a step that overshot more than noise explains is taken back, and without noise seven rounds nearly converge.
Steps and coefficients are bounded besides: whatever the sums hold, nothing diverges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.models.bins import Bins, NumberBins

RIDGE = 5.0
RIDGE_OF_NOISE, SMOOTHNESS_OF_NOISE = 0.3, 1.0  # times the standard deviation of the pooled gradients' noise
STEP = 3.0
STEP_BOUND, COEFFICIENT_BOUND, INTERCEPT_BOUND = 1.0, 4.0, 12.0  # log-odds
MEMORY = 8  # points that are mixed
CURVATURE_MEMORY = 3  # newest points whose hessians are averaged
TRUST_IN_NOISE = 0.2  # of the noise's energy, against leaving the newest point
_JITTER = 1e-12

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Log-odds: `intercept`, and `weights` [F, W] of every feature's bins (bin 0 is missing; 0 beyond its last bin)."""

    intercept: float
    weights: Floats


@dataclass(frozen=True, eq=False)
class Slope:
    """What a round released: gradient and hessian sums [F, W] of every bin where the model stood at `at`; `noise` is the
    standard deviation of the noise in each gradient (that in each hessian is less)."""

    at: Coefficients
    gradient: Floats
    hessian: Floats
    noise: float


def next_coefficients(bins: Sequence[Bins], slopes: Sequence[Slope]) -> Coefficients:
    """Where the model goes after the rounds that showed `slopes`, oldest first, at least one.

    One feature, one round, no noise: a Newton step with the ridge of 5.

    >>> own = NumberBins(np.array([0.5]))
    >>> zero = Coefficients(-2.0, np.zeros((1, 3)))
    >>> seen = Slope(zero, np.array([[0.0, 3.0, -3.0]]), np.array([[0.0, 5.0, 1.0]]), noise=0.0)
    >>> next_coefficients([own], [seen]).weights.round(6).tolist()
    [[0.0, -0.3, 0.5]]
    """
    seen = slopes[-MEMORY:]
    weights = np.array([slope.at.weights for slope in seen])  # [k, F, W]
    hessian = np.maximum(np.mean([slope.hessian for slope in seen[-CURVATURE_MEMORY:]], axis=0), 0.0)
    rows = max(float(hessian.sum(axis=1).mean()), 1.0)  # the hessian of the intercept: every row's
    shifts = np.array([slope.gradient.sum() / len(bins) / rows for slope in seen])
    quadratic = penalty(bins, hessian.shape[1], pooled_noise([slope.noise for slope in slopes]))
    inverse = np.linalg.inv(quadratic + hessian[..., None] * np.eye(hessian.shape[1]))
    gradients = np.array([slope.gradient for slope in seen]) - shifts[:, None, None] * hessian
    gradients += np.einsum("fij,kfj->kfi", quadratic, weights)
    directions = np.einsum("fij,kfj->kfi", inverse, gradients)
    products = np.einsum("ifw,jfw->ij", gradients, directions) + rows * np.outer(shifts, shifts)
    of_noise = float(np.diagonal(inverse, axis1=1, axis2=2)[present(bins, hessian.shape[1])].sum())
    mix = mixture(products, of_noise * np.array([slope.noise**2 for slope in seen]))
    step = min(1.0, STEP / len(bins)) * np.tensordot(mix, directions, axes=1)
    intercept = mix @ [slope.at.intercept for slope in seen] - np.clip(mix @ shifts, -STEP_BOUND, STEP_BOUND)
    after = np.tensordot(mix, weights, axes=1) - np.clip(step, -STEP_BOUND, STEP_BOUND)
    return Coefficients(
        float(np.clip(intercept, -INTERCEPT_BOUND, INTERCEPT_BOUND)),
        np.clip(after, -COEFFICIENT_BOUND, COEFFICIENT_BOUND),
    )


def present(bins: Sequence[Bins], width: int) -> npt.NDArray[np.bool_]:
    """[F, width]: which cells are bins of the feature; sums in the others are nothing but noise."""
    return np.asarray(np.arange(width) < np.array([own.splits + 2 for own in bins])[:, None])


def mixture(products: Floats, noise: Floats) -> Floats:
    r"""Weights [k], sum 1, of the points whose directions cancel best when added with them.

    `products` [k, k] are the directions' scalar products, `noise` [k] what noise alone adds to each one's square, which
    is taken off. Minimises $\|\sum_i \theta_i r_i\|^2$ plus TRUST_IN_NOISE times the noise of $\theta$ less the newest
    point: exact without noise, and the newest point when noise is all there is.

    >>> mixture(np.array([[1.0, -0.5], [-0.5, 0.25]]), np.zeros(2)).round(6).tolist()
    [0.333333, 0.666667]
    >>> mixture(np.eye(2), np.array([0.99, 0.99])).round(2).tolist()
    [0.02, 0.98]
    """
    count = len(products)
    values, vectors = np.linalg.eigh((products + products.T) / 2 - np.diag(noise))
    certain = (vectors * np.maximum(values, 0.0)) @ vectors.T
    scale = max(float(np.trace(certain)), float(noise.sum()), 1e-300)
    newest = np.eye(count)[-1]
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = (certain + TRUST_IN_NOISE * np.diag(noise)) / scale + _JITTER * np.eye(count)
    system[count, count] = 0.0
    right = np.append((TRUST_IN_NOISE * noise / scale + _JITTER) * newest, 1.0)
    return np.asarray(np.linalg.solve(system, right)[:count])


def penalty(bins: Sequence[Bins], width: int, noise: float) -> Floats:
    """Q: [F, W, W]. `noise` is the standard deviation of the pooled gradients' noise.

    >>> penalty([NumberBins(np.array([0.5]))], 3, noise=10.0)[0].tolist()
    [[8.0, 0.0, 0.0], [0.0, 18.0, -10.0], [0.0, -10.0, 18.0]]
    """
    chain = np.zeros((len(bins), width, width))
    for own, laplacian in zip(bins, chain, strict=True):
        if isinstance(own, NumberBins):
            low = np.arange(1, own.splits + 1)  # the lower bin of each pair of neighbours
            laplacian[low, low] += 1.0
            laplacian[low + 1, low + 1] += 1.0
            laplacian[low, low + 1] = laplacian[low + 1, low] = -1.0
    return (RIDGE + RIDGE_OF_NOISE * noise) * np.eye(width) + SMOOTHNESS_OF_NOISE * noise * chain


def pooled_noise(noise: Sequence[float]) -> float:
    """The standard deviation of the mean of all gradients, each weighted by its precision; 0 without noise."""
    if min(noise) <= 0:
        return 0.0
    return 1 / math.sqrt(sum(1 / own**2 for own in noise))
