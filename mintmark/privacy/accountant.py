r"""What releases cost: events say what was done, the accountant says what it cost.

A Gaussian release of sensitivity $\Delta$ and noise $\sigma$ is $\mu$-GDP with $\mu = \Delta / \sigma$. Releases chosen
as one goes compose to $\mu^2 = \sum_i \mu_i^2$ (Dong, Roth and Su 2022, "Gaussian differential privacy", Corollary 2;
for sizes that are chosen adaptively too, under a fixed bound on the sum: Smith and Thakurta 2022). The conversion to
(epsilon, delta) is the analytic Gaussian's (Balle and Wang 2018, Theorem 8), computed by dp-accounting.

Our noise is a discrete Gaussian, not a continuous one. On a fine lattice that costs next to nothing: the discrete
Gaussian of scale $\sigma \ge 2^{16}$ is within total variation $1 / (24 \sigma^2)$ of the continuous one rounded to
integers (rounding is post-processing and free), so d coordinates add $(1 + e^\epsilon)\,d / (24 \sigma^2)$ to delta
(docs/adr/0002). One part in a thousand of delta is kept for this slack; a release that would need more is refused.

>>> one = GaussianRelease(sensitivity=2**26, noise_scale=2.0**28, coordinates=1000)
>>> round(epsilon([one, one], delta=1e-6), 3)
1.544
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from mintmark.errors import PrivacyError

MIN_NOISE_SCALE = 2.0**16  # lattice steps; below, the bound on the slack is not proven
SLACK_SHARE = 1e-3  # of delta


@dataclass(frozen=True)
class GaussianRelease:
    """What was done: `coordinates` sums of L2 sensitivity `sensitivity` left with noise `noise_scale` (lattice steps)."""

    sensitivity: int
    noise_scale: float
    coordinates: int

    @property
    def mu_squared(self) -> float:
        """$\\mu^2$ of this release alone; infinite without noise."""
        try:
            return (self.sensitivity / self.noise_scale) ** 2 if self.noise_scale > 0 else math.inf
        except OverflowError:
            return math.inf

    @property
    def lattice_slack(self) -> float:
        """Bound on the total variation between this release and a rounded continuous Gaussian one."""
        if self.noise_scale < MIN_NOISE_SCALE:
            return math.inf
        return self.coordinates / (24 * self.noise_scale**2)


def epsilon(releases: Iterable[GaussianRelease], *, delta: float) -> float:
    """Epsilon at `delta` of all `releases` together. Whatever cannot be computed costs infinity.

    Raises:
        PrivacyError: an event of an unknown kind; it is refused, never approximated.
    """
    mu_squared = slack = 0.0
    for event in releases:
        if not isinstance(event, GaussianRelease):
            raise PrivacyError(f"expected a GaussianRelease, got an event of kind {type(event).__name__}")
        if not (event.sensitivity > 0 and event.noise_scale >= 0 and event.coordinates > 0):
            return math.inf
        mu_squared += event.mu_squared
        slack += event.lattice_slack
    if mu_squared == 0:
        return 0.0
    if not (math.isfinite(mu_squared) and 0 < delta < 1):
        return math.inf
    spent = _epsilon_of(mu_squared, delta * (1 - SLACK_SHARE))
    affordable = spent < 500 and (1 + math.exp(spent)) * slack <= SLACK_SHARE * delta
    return spent if affordable else math.inf


def remainder(epsilon_target: float, delta: float, spent: Iterable[GaussianRelease]) -> GaussianRelease | None:
    r"""What a campaign under those terms may still spend, as one release: $\mu^2$ of the whole less what was spent.

    None when nothing is left. A budget that counts it keeps room for the campaign's later rounds.

    >>> half = GaussianRelease(sensitivity=1000, noise_scale=1000 / (total_mu(4.0, 1e-6) * math.sqrt(0.5)), coordinates=1)
    >>> left = remainder(4.0, 1e-6, [half])
    >>> round(left.mu_squared / half.mu_squared, 6)
    1.0
    """
    left = total_mu(epsilon_target, delta) ** 2 - sum(release.mu_squared for release in spent)
    return GaussianRelease(2**26, 2**26 / math.sqrt(left), 1) if left > 0 else None


def total_mu(epsilon_target: float, delta: float) -> float:
    r"""The $\mu$ that a campaign may spend in all: the largest whose `epsilon` is at most `epsilon_target`."""
    return 1 / _sigma_of(epsilon_target, delta * (1 - SLACK_SHARE))


@lru_cache(maxsize=256)
def _epsilon_of(mu_squared: float, delta: float) -> float:
    from dp_accounting import get_epsilon_gaussian  # 1.5 CPU-seconds: only where a price is asked

    # The solver is exact to 1e-12; a part in 1e9 more errs on the private side.
    return float(get_epsilon_gaussian(1 / math.sqrt(mu_squared), delta)) * (1 + 1e-9)


@lru_cache(maxsize=256)
def _sigma_of(epsilon_target: float, delta: float) -> float:
    from dp_accounting import get_sigma_gaussian

    # A part in a million more noise: what is planned within a target is also priced within it.
    return float(get_sigma_gaussian(epsilon_target, delta)) * (1 + 1e-6)
