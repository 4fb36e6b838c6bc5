r"""Weights of a stack: how much of each model's score goes into the deployed one, decided by the bank's own rows.

$z = \sum_c w_c \, \mathrm{clip}(s_c, \pm 12) + b$ with $w \ge 0$ minimises
$\sum_i [\log(1 + e^{z_i}) - y_i z_i] + \lambda \lVert w - w_0 \rVert^2$, where $w_0$ is the bank's own model alone: with
little evidence the stack stays the own model. The problem is convex. Of a single score, with $w_0 = 1$, it is a
calibration: the scale and the shift that make its probabilities right (Platt, 1999).

>>> own, other = np.array([2.0, -2.0, 1.0, -1.0]), np.array([-1.0, 1.0, -1.0, 1.0])
>>> stack = fit_weights([own, other], np.array([1, 0, 1, 0]), prior=(1.0, 0.0))
>>> stack.weights[0] > 1, stack.weights[1]
(True, 0.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CLIP = 12.0  # log-odds: one model's wild score must not decide alone
RIDGE = 5.0


@dataclass(frozen=True)
class Stack:
    """`weights` of the parts, in their order, none below 0, and the `intercept`, in log-odds."""

    weights: tuple[float, ...]
    intercept: float

    def scores(self, parts: Sequence[Floats]) -> Floats:
        """Raw scores [n] of the stack from the parts' raw scores [n] each.

        >>> Stack((0.5, 1.0), 0.25).scores([np.array([2.0]), np.array([-30.0])]).tolist()
        [-10.75]
        """
        total = np.full(len(parts[0]), self.intercept)
        for weight, part in zip(self.weights, parts, strict=True):
            total += weight * np.clip(part, -CLIP, CLIP)
        return total


def fit_weights(
    parts: Sequence[Floats], labels: npt.NDArray[np.integer], *, prior: Sequence[float], ridge: float = RIDGE
) -> Stack:
    """The minimiser, from the parts' raw scores [n] each and labels [n] of 0 and 1.

    L-BFGS-B (Byrd, Lu, Nocedal and Zhu, 1995) from the prior. Raises `ValueError` for scores that are not finite.
    """
    from scipy.optimize import minimize

    design = np.column_stack([np.clip(part, -CLIP, CLIP) for part in parts])
    centre = np.asarray(prior, dtype=np.float64)
    if not np.isfinite(design).all():
        raise ValueError("expected finite scores, got some that are not")

    def objective(point: Floats) -> tuple[float, Floats]:
        away = point[:-1] - centre
        z = design @ point[:-1] + point[-1]
        error = 1 / (1 + np.exp(-z)) - labels
        value = np.logaddexp(0, z).sum() - labels @ z + ridge * away @ away
        return float(value), np.append(design.T @ error + 2 * ridge * away, error.sum())

    bounds = [(0.0, None)] * len(parts) + [(None, None)]
    found = minimize(
        objective, np.append(centre, 0.0), jac=True, bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-7}
    ).x
    return Stack(tuple(float(weight) for weight in found[:-1]), float(found[-1]))
