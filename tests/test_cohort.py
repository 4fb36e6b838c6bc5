"""A cohort's total: the plain sum, the noise that is left, capped weights, and liars of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mintmark.aggregation.cohort import LIARS_SHARE, MAX_SHARE, capped, combine, weights_for
from mintmark.aggregation.rules import chain
from mintmark.errors import AggregationError

bands = st.lists(st.integers(0, 20).map(lambda power: 2.0**power), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(bands, st.integers(0, 2**32 - 1))
def test_weighted_mean_of_a_cohort_is_the_plain_sum(sizes: list[float], seed: int) -> None:
    """When every bank is trusted the total is the sum of the raw updates, whatever the sizes."""
    updates = np.random.default_rng(seed).standard_normal((len(sizes), 4)) * np.array(sizes)[:, None]
    total = combine("weighted_mean", 0, sizes=np.array(sizes), updates=updates, noise=1.0)
    expected = updates.sum(axis=0)
    np.testing.assert_allclose(total.vector, expected, rtol=1e-9, atol=1e-12 * np.abs(updates).max())
    assert total.noise == pytest.approx(np.sqrt(len(sizes)))


@pytest.mark.parametrize("sizes", [(64,) * 8, (8192, 4096, 2048, 1024, 512, 512, 256, 128)])
@pytest.mark.parametrize(
    ("rule", "f"),
    [
        ("weighted_mean", 0),
        ("trimmed_mean", 0),
        ("trimmed_mean:0.35", 2),
        ("coordinate_median", 2),
        ("meamed", 2),
        ("nnm+trimmed_mean", 2),
        ("geometric_median", 2),
        ("multi_krum", 2),
        ("bulyan", 1),
    ],
)
def test_noise_that_is_left_is_the_simulated_one(sizes: tuple[int, ...], rule: str, f: int) -> None:
    """The stated noise is the standard deviation of simulated totals, to the precision of both simulations."""
    draws, band = 40_000, np.array(sizes, dtype=float)
    noise = np.random.default_rng(3).standard_normal((len(sizes), draws)) * 5.0
    total = combine(rule, f, sizes=band, updates=band[:, None] * 0.3 + noise, noise=5.0)
    assert total.noise / total.vector.std() == pytest.approx(1, abs=6 / np.sqrt(2 * 16_384))
    assert total.vector.mean() == pytest.approx(0.3 * band.sum(), abs=6 * total.noise)


def test_the_same_noise_is_stated_every_time() -> None:
    """What is left by a rule that picks by coordinate is measured on the same draws: a rerun states the same bytes."""
    band = np.array([64.0, 32.0, 32.0])
    updates = np.random.default_rng(0).standard_normal((3, 9))
    first, again = (combine("trimmed_mean", 1, sizes=band, updates=updates, noise=1.0).noise for _ in range(2))
    assert first == again > 0


@settings(max_examples=60, deadline=None)
@given(bands, st.sampled_from(["weighted_mean", "trimmed_mean:0.3", "geometric_median"]), st.floats(-10, 10))
def test_banks_that_agree_are_believed(sizes: list[float], rule: str, rate: float) -> None:
    """When every bank's sums are the same rate times its size, every rule gives the rate times the cohort's size."""
    band = np.array(sizes)
    total = combine(rule, 0, sizes=band, updates=band[:, None] * rate, noise=0.0)
    assert total.vector[0] == pytest.approx(rate * band.sum(), rel=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 20).map(lambda power: 2.0**power), min_size=3, max_size=15),
    st.integers(1, 49),
    st.sampled_from([1e280, -1e280, 1e12]),
    st.integers(0, 2**32 - 1),
)
def test_the_largest_banks_may_lie(sizes: list[float], percent: int, lie: float, seed: int) -> None:
    """As many banks as the cut stands, the largest of all, say 1e280: the result stays between the honest ones."""
    band, trim = np.array(sizes), percent / 100
    liars = next(f for f in range(len(sizes), -1, -1) if f / len(sizes) <= trim)
    rates = np.random.default_rng(seed).uniform(1.0, 2.0, (len(sizes), 3))
    lying = np.argsort(-band, kind="stable")[:liars]
    updates = rates * band[:, None]
    updates[lying] = lie
    honest = np.delete(rates, lying, axis=0)
    rate = combine(f"trimmed_mean:{trim}", liars, sizes=band, updates=updates, noise=1.0).vector / band.sum()
    assert (rate >= honest.min(axis=0) * (1 - 1e-9)).all()
    assert (rate <= honest.max(axis=0) * (1 + 1e-9)).all()


def test_size_bands_decide_and_updates_are_not_written() -> None:
    """Weights come from the sizes alone, and a cohort's updates stay as they are."""
    updates, sizes = np.array([[5.0], [7.0], [900.0]]), np.array([2.0, 2.0, 4.0])
    updates.flags.writeable = sizes.flags.writeable = False
    combine("trimmed_mean", 1, sizes=sizes, updates=updates, noise=1.0)
    assert weights_for(chain("weighted_mean"), sizes, 0).tolist() == [0.25, 0.25, 0.5]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 20).map(lambda power: 2.0**power), min_size=3, max_size=15), st.integers(1, 6))
def test_the_largest_banks_never_hold_half(sizes: list[float], f: int) -> None:
    """Whatever the sizes, f of more than 2 f banks hold less than half together, and at most what is meant for them."""
    if len(sizes) <= 2 * f:
        return
    weights = np.sort(weights_for(chain("geometric_median"), np.array(sizes), f))[::-1]
    assert weights[:f].sum() <= max(LIARS_SHARE, f / len(sizes)) + 1e-9
    assert weights[0] <= max(MAX_SHARE, 1 / len(sizes)) + 1e-9


@pytest.mark.parametrize("size", [0.0, np.nan, -4.0])
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_size_that_is_none_is_refused(size: float) -> None:
    """A bank of no size, or of a negative one, is no bank."""
    with pytest.raises(AggregationError, match="expected finite"):
        combine("weighted_mean", 0, sizes=np.array([4.0, 8.0, size]), updates=np.ones((3, 1)), noise=1.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12), st.floats(0.01, 1.0))
def test_capped_weights(weights: list[float], cap: float) -> None:
    """Capped weights sum to 1, exceed the cap nowhere, keep the order of banks and the proportions of those below it."""
    given_, got = np.array(weights), capped(np.array(weights), cap)
    assert got.sum() == pytest.approx(1, rel=1e-9)
    assert (got <= max(cap, 1 / len(weights)) * (1 + 1e-9)).all()
    assert (np.diff(got[np.argsort(given_, kind="stable")]) >= -1e-12).all()
    below = got < cap * (1 - 1e-9)
    if cap * len(weights) > 1 and below.any():
        ratios = got[below] / given_[below]
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)
        assert ratios[0] >= (1 - 1e-9) / given_.sum()  # the excess goes to them, and only to them


def test_capped_leaves_alone_whom_no_cap_touches() -> None:
    """With nobody over the cap the weights are only scaled; with too few banks for the cap all are alike."""
    assert capped(np.array([1.0, 2.0, 2.0, 3.0]), 0.5).tolist() == [0.125, 0.25, 0.25, 0.375]
    assert capped(np.array([1.0, 1e9]), MAX_SHARE).tolist() == [0.5, 0.5]
