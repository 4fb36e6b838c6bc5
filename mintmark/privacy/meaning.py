r"""What (epsilon, delta) means to somebody in the data: how much better than guessing any attacker can be.

An attacker who knows everything but whether one unit is in the data, and sees all that was released, says yes or no. Their
*advantage* is the share of true yes less the share of false yes: 0 is guessing, 1 is certainty. It bounds every membership
inference, now and later.

>>> round(advantage(4.0, 1e-6), 3), round(gaussian_advantage(4.0, 1e-6), 3)
(0.964, 0.325)
"""

from __future__ import annotations

import math
from statistics import NormalDist

from mintmark.privacy.accountant import total_mu


def advantage(epsilon: float, delta: float) -> float:
    r"""Of every $(\epsilon, \delta)$-private release, $\frac{e^\epsilon - 1 + 2 \delta}{e^\epsilon + 1}$ (Kairouz,
    Oh and Viswanath 2015, "The composition theorem for differential privacy", Theorem 2.1)."""
    return (math.exp(epsilon) - 1 + 2 * delta) / (math.exp(epsilon) + 1)


def gaussian_advantage(epsilon: float, delta: float) -> float:
    r"""The tighter bound for Gaussian noise, $2 \Phi(\mu / 2) - 1$ with the $\mu$ that those terms allow (Dong, Roth and
    Su 2022, "Gaussian differential privacy", Section 2)."""
    return 2 * NormalDist().cdf(total_mu(epsilon, delta) / 2) - 1


def most_found(mu: float, false_alarms: float) -> float:
    r"""The most members an attacker finds who wrongly names `false_alarms` of the others, $\Phi(\Phi^{-1}(\alpha) + \mu)$.

    >>> round(most_found(1.0, 0.05), 3)
    0.26
    """
    normal = NormalDist()
    return normal.cdf(normal.inv_cdf(false_alarms) + mu)
