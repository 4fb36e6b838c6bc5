"""The accountant against the Gaussian's closed form, two other accountants, and the lattice's slack summed term by term."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import dp_accounting
import mpmath
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from mintmark.errors import PrivacyError
from mintmark.privacy.accountant import MIN_NOISE_SCALE, GaussianRelease, epsilon, total_mu

SENSITIVITY = 2**200  # so fine a lattice that its slack is never what decides


def with_mu(mu: float, coordinates: int = 1) -> GaussianRelease:
    """A release that costs mu."""
    return GaussianRelease(SENSITIVITY, SENSITIVITY / mu, coordinates)


def exact_delta(spent: float, mu: float) -> mpmath.mpf:
    """delta of a mu-GDP release at an epsilon (Balle and Wang 2018, Theorem 8), to 60 digits."""
    with mpmath.workdps(60):
        e, m = mpmath.mpf(spent), mpmath.mpf(mu)
        return mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)


mus = st.floats(math.log(0.005), math.log(6)).map(math.exp)
deltas = st.floats(math.log(1e-10), math.log(5e-3)).map(math.exp)


@settings(max_examples=100, deadline=None)
@given(mus, deltas)
def test_epsilon_is_the_closed_forms_and_never_below(mu: float, delta: float) -> None:
    """At the stated epsilon the exact delta is at most the asked one, less a thousandth for the lattice; a little below
    that epsilon it is more."""
    spent = epsilon([with_mu(mu)], delta=delta)
    assert exact_delta(spent, mu) <= delta * (1 - 1e-3) * (1 + 1e-14)
    if spent > 0:
        assert exact_delta(spent * 0.998 - 1e-4, mu) > delta


@settings(max_examples=30, deadline=None)
@given(st.floats(0.5, 50), st.integers(1, 40), deltas)
def test_epsilon_is_below_renyis(multiplier: float, count: int, delta: float) -> None:
    """For the same noise multiplier, dp-accounting's Renyi accountant never charges less."""
    assume(math.sqrt(count) / multiplier < 6)
    events = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(multiplier), count)
    renyi = RdpAccountant().compose(events).get_epsilon(delta)
    assert epsilon([with_mu(1 / multiplier)] * count, delta=delta) <= renyi * (1 + 1e-9) + 1e-9


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.1, 1.5), min_size=1, max_size=5), deltas)
def test_epsilon_is_the_privacy_loss_distributions(costs: list[float], delta: float) -> None:
    """dp-accounting's other accountant, which convolves privacy losses numerically and knows nothing of mu, finds the same
    epsilon for releases of different noise: its estimate errs upward by little, and ours pays for the lattice."""
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for mu in costs:
        accountant.compose(dp_accounting.GaussianDpEvent(1 / mu))
    spent = epsilon([with_mu(mu) for mu in costs], delta=delta)
    assert spent == pytest.approx(accountant.get_epsilon(delta), rel=2e-3, abs=2e-3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 1.5), min_size=1, max_size=4))
def test_order_of_composition_is_irrelevant(costs: list[float]) -> None:
    """Releases in any order cost the same, and as much as one release of their mus' root of squares."""
    together = epsilon([with_mu(math.hypot(*costs))], delta=1e-6)
    for order in itertools.permutations(costs):
        assert epsilon([with_mu(mu) for mu in order], delta=1e-6) == pytest.approx(together, rel=1e-8)


@settings(max_examples=60, deadline=None)
@given(mus, mus, deltas, deltas)
def test_epsilon_is_monotone(mu: float, more: float, delta: float, other: float) -> None:
    """One release more, less noise or a smaller delta never costs less."""
    assume(math.hypot(mu, more) < 8)
    low, high = sorted((delta, other))
    small, large = sorted((mu, more))
    less = 1 - 1e-12  # the solver's own rounding
    assert epsilon([with_mu(mu), with_mu(more)], delta=low) >= epsilon([with_mu(mu)], delta=low) * less
    assert epsilon([with_mu(large)], delta=low) >= epsilon([with_mu(small)], delta=low) * less
    assert epsilon([with_mu(mu)], delta=low) >= epsilon([with_mu(mu)], delta=high) * less


def test_nothing_costs_nothing() -> None:
    """No releases cost 0."""
    assert epsilon([], delta=1e-6) == 0


@pytest.mark.parametrize(
    "event",
    [
        None,
        (2**26, 2.0**28, 10),
        SimpleNamespace(sensitivity=2**26, noise_scale=2.0**28, coordinates=10, mu_squared=0.0, lattice_slack=0.0),
        dp_accounting.GaussianDpEvent(4.0),
    ],
)
def test_unknown_events_are_refused(event: object) -> None:
    """An event of another kind raises, also one that looks like a release; it is never approximated."""
    with pytest.raises(PrivacyError, match="kind " + type(event).__name__):
        epsilon([with_mu(0.1), event], delta=1e-6)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("sensitivity", "noise_scale", "coordinates"),
    [
        (2**26, 0.0, 10),
        (2**26, -1.0, 10),
        (2**26, math.nan, 10),
        (0, 2.0**28, 10),
        (-1, 2.0**28, 10),
        (math.inf, 2.0**28, 10),
        (math.nan, 2.0**28, 10),
        (2**26, 2.0**28, 0),
        (2**26, 2.0**28, math.nan),
        (2**26, 2.0**28, math.inf),
        (1, MIN_NOISE_SCALE / 2, 1),  # below the proven scale
        (2**20, 2.0**20, 10**6),  # a million coordinates on so coarse a lattice need more slack than is kept
        (2**60, 2.0**20, 1),  # mu of 2**40
        (10**200, 2.0**20, 1),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_cannot_be_priced_costs_infinity(sensitivity: float, noise_scale: float, coordinates: float) -> None:
    """No noise, no number, too coarse a lattice or too much of everything: infinity, alone and among others."""
    event = GaussianRelease(sensitivity, noise_scale, coordinates)  # type: ignore[arg-type]
    assert epsilon([event], delta=1e-6) == math.inf
    assert epsilon([with_mu(0.1), event, with_mu(0.1)], delta=1e-6) == math.inf


@pytest.mark.parametrize("delta", [0.0, -1e-6, 1.0, 2.0, math.nan, math.inf])
def test_a_delta_that_is_none_costs_infinity(delta: float) -> None:
    """Outside (0, 1) there is no delta."""
    assert epsilon([with_mu(1.0)], delta=delta) == math.inf


@settings(max_examples=60, deadline=None)
@given(st.floats(math.log(0.05), math.log(60)).map(math.exp), deltas, st.integers(1, 30))
def test_total_mu_is_all_that_a_target_allows(target: float, delta: float, rounds: int) -> None:
    """Releases that spend total_mu between them cost the target or less, and hardly less."""
    mu = total_mu(target, delta)
    whole = epsilon([with_mu(mu)], delta=delta)
    assert target * (1 - 1e-4) < whole <= target
    parts = epsilon([with_mu(mu / math.sqrt(rounds))] * rounds, delta=delta)
    assert parts == pytest.approx(whole, rel=1e-8)
    assert parts <= target


def discrete_gaussian(scale: float, ends: int) -> np.ndarray:
    """P(k) for k = -ends..ends."""
    weights = np.exp(-np.square(np.arange(-ends, ends + 1) / scale) / 2)
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize("scale", [4.0, 4.7, 8.0, 11.3, 16.0, 32.0, 64.0, 100.0])
def test_slack_bounds_the_lattices_distance(scale: float) -> None:
    """The discrete Gaussian is within 1 / (24 s^2) of the rounded continuous one in total variation, and not far within."""
    ends = math.ceil(12 * scale)
    k = np.arange(-ends, ends + 1)
    upper = -np.abs(k)  # in the lower tail differences of the distribution function keep their digits
    rounded = ndtr((upper + 0.5) / scale) - ndtr((upper - 0.5) / scale)
    distance = np.abs(discrete_gaussian(scale, ends) - rounded).sum() / 2
    assert 0.4 / (24 * scale**2) <= distance <= 1 / (24 * scale**2)


@pytest.mark.parametrize(("scale", "shift"), [(4.0, 4), (16.0, 5), (32.0, 32), (32.0, 64), (100.0, 30)])
def test_slack_covers_what_the_lattice_costs(scale: float, shift: int) -> None:
    """The discrete Gaussian's own delta, summed term by term, is below the continuous one's plus (1 + e^eps) / (24 s^2)."""
    ends = math.ceil(14 * scale) + shift
    here = discrete_gaussian(scale, ends)
    there = np.concatenate([np.zeros(shift), here[:-shift]])
    for spent in (0.1, 0.5, 1.0, 2.0, 4.0):
        delta = np.maximum(there - math.exp(spent) * here, 0).sum()
        assert delta <= float(exact_delta(spent, shift / scale)) + (1 + math.exp(spent)) / (24 * scale**2)


def test_releases_state_the_slack_that_was_checked() -> None:
    """A release claims the bound above for each of its coordinates, and none below the scale it is proven for."""
    assert GaussianRelease(1, 2.0**20, 7).lattice_slack == pytest.approx(7 / (24 * 2.0**40), rel=1e-12, abs=0)
    assert GaussianRelease(1, MIN_NOISE_SCALE * 0.999, 7).lattice_slack == math.inf
