"""Aggregation rules: scipy and exact fractions as oracles, symmetries, and how far liars can move the result."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import trim_mean

import mintmark
from mintmark.aggregation.rules import RULES, aggregate, check_feasible, trimmed_mean, weighted_mean
from mintmark.errors import AggregationError

values = st.floats(-1e6, 1e6, allow_subnormal=False)


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    """Updates [n, d] with many ties, whole weights [n] and a trim of whole hundredths."""
    banks, width = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    cell = st.one_of(values, st.integers(-2, 2).map(float))
    updates = draw(st.lists(st.lists(cell, min_size=width, max_size=width), min_size=banks, max_size=banks))
    weights = draw(st.lists(st.integers(1, 20), min_size=banks, max_size=banks))
    return np.array(updates), np.array(weights, dtype=float), draw(st.integers(0, 49)) / 100


def slow_trimmed_mean(column: list[float], weights: list[float], trim: float) -> Fraction:
    """One coordinate in exact fractions: lay the values' weights end to end and average what lies inside the cuts."""
    share, total, place = Fraction(trim), Fraction(0), Fraction(0)
    whole = sum(Fraction(weight) for weight in weights)
    for value, weight in sorted(zip(column, weights, strict=True)):
        begin, place = place, place + Fraction(weight) / whole
        total += Fraction(value) * max(Fraction(0), min(place, 1 - share) - max(begin, share))
    return total / (1 - 2 * share)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 14), st.integers(0, 2**32 - 1))
def test_trimmed_mean_is_scipys(banks: int, cut: int, seed: int) -> None:
    """Where weights are equal and the cut takes whole rows, the trimmed mean is scipy's."""
    cut = min(cut, (banks - 1) // 2)
    updates = np.random.default_rng(seed).standard_normal((banks, 5))
    expected = trim_mean(updates, (cut + 0.5) / banks, axis=0)  # scipy cuts int(proportion * n) rows from each side
    got = trimmed_mean(updates, np.full(banks, 3.0), cut / banks).vector
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(cohorts())
def test_trimmed_mean_is_the_exact_one(cohort: tuple[np.ndarray, np.ndarray, float]) -> None:
    """Whatever the weights and the cut, the trimmed mean is the one computed in fractions."""
    updates, weights, trim = cohort
    got = trimmed_mean(updates, weights, trim).vector
    for column, result in zip(updates.T.tolist(), got, strict=True):
        exact = float(slow_trimmed_mean(column, weights.tolist(), trim))
        assert result == pytest.approx(exact, rel=1e-9, abs=1e-7 * max(map(abs, column)) + 1e-12)


@settings(max_examples=60, deadline=None)
@given(cohorts())
def test_weighted_mean_is_the_exact_one(cohort: tuple[np.ndarray, np.ndarray, float]) -> None:
    """The weighted mean is the one computed in fractions, and the shares are the weights."""
    updates, weights, _ = cohort
    result = weighted_mean(updates, weights)
    for column, got in zip(updates.T.tolist(), result.vector, strict=True):
        exact = slow_trimmed_mean(column, weights.tolist(), 0.0)
        assert got == pytest.approx(float(exact), rel=1e-9, abs=1e-12 * max(map(abs, column)))
    np.testing.assert_allclose(result.shares, weights / weights.sum(), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.sampled_from(RULES), st.randoms(use_true_random=False), st.floats(-100, 100), values)
def test_rules_keep_symmetries(
    cohort: tuple[np.ndarray, np.ndarray, float], rule: str, random: object, factor: float, shift: float
) -> None:
    """The order of banks does not matter; moving and scaling (mirroring, too) every update does the same to the result."""
    updates, weights, trim = cohort
    order = np.random.default_rng(random.getrandbits(32)).permutation(len(weights))  # type: ignore[attr-defined]
    base = aggregate(rule, updates, weights, trim).vector
    size = float(np.abs(updates).max())
    permuted = aggregate(rule, updates[order], weights[order], trim).vector
    np.testing.assert_allclose(permuted, base, rtol=1e-9, atol=1e-7 * size + 1e-12)
    moved = aggregate(rule, updates * factor + shift, weights, trim).vector
    bound = 1e-7 * (size * abs(factor) + abs(shift)) + 1e-12
    np.testing.assert_allclose(moved, base * factor + shift, rtol=1e-9, atol=bound)


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.sampled_from(RULES))
def test_listed_twice_is_weight_two(cohort: tuple[np.ndarray, np.ndarray, float], rule: str) -> None:
    """A bank that is listed twice counts as one of twice the weight."""
    updates, weights, trim = cohort
    twice = aggregate(rule, np.vstack([updates, updates[:1]]), np.append(weights, weights[0]), trim)
    heavier = aggregate(rule, updates, weights * np.where(np.arange(len(weights)) == 0, 2, 1), trim)
    np.testing.assert_allclose(twice.vector, heavier.vector, rtol=1e-9, atol=1e-7 * np.abs(updates).max() + 1e-12)


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.sampled_from(RULES))
def test_results_stay_inside_the_hull(cohort: tuple[np.ndarray, np.ndarray, float], rule: str) -> None:
    """Each coordinate lies between the smallest and the largest of the banks'; shares are a distribution."""
    updates, weights, trim = cohort
    result = aggregate(rule, updates, weights, trim)
    slack = 1e-12 * np.abs(updates).max(axis=0)
    assert (result.vector >= updates.min(axis=0) - slack).all()
    assert (result.vector <= updates.max(axis=0) + slack).all()
    assert (result.shares >= 0).all()
    assert result.shares.sum() == pytest.approx(1, rel=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(3, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, (n - 1) // 2))),
    st.sampled_from([1e300, -1e300, 1e308, 1e9, -1e9]),
    st.integers(0, 2**32 - 1),
)
def test_liars_within_the_cut_move_nothing_out_of_the_honest_range(
    terms: tuple[int, int], lie: float, seed: int
) -> None:
    """f of n equal banks may say 1e300: at trim = f / n, where rounding is tightest, the honest range still holds."""
    banks, liars = terms
    updates = np.random.default_rng(seed).uniform(1.0, 2.0, (banks, 4))
    updates[np.random.default_rng(seed + 1).permutation(banks)[:liars]] = lie
    honest = updates[np.abs(updates[:, 0]) <= 2]
    got = trimmed_mean(updates, np.ones(banks), liars / banks).vector
    assert (got >= honest.min(axis=0) * (1 - 1e-12)).all()
    assert (got <= honest.max(axis=0) * (1 + 1e-12)).all()


@pytest.mark.parametrize("rule", RULES)
def test_inputs_are_never_overwritten(rule: str) -> None:
    """Updates and weights that may not be written to aggregate all the same."""
    updates, weights = np.arange(30.0).reshape(5, 6)[::-1].copy(), np.arange(1.0, 6.0)
    updates.flags.writeable = weights.flags.writeable = False
    result = aggregate(rule, updates, weights, 0.2)
    assert not np.shares_memory(result.vector, updates)
    assert not np.shares_memory(result.shares, weights)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(rule: str, wrong: float) -> None:
    """One NaN or infinity, in an update or a weight, and there is no result."""
    updates, weights = np.ones((3, 2)), np.ones(3)
    updates[1, 1] = wrong
    with pytest.raises(AggregationError, match="finite"):
        aggregate(rule, updates, np.ones(3), 0.34)
    weights[2] = wrong
    with pytest.raises(AggregationError, match="finite"):
        aggregate(rule, np.ones((3, 2)), weights, 0.34)


@pytest.mark.parametrize(
    ("rule", "shape", "weights", "trim"),
    [
        ("weighted_mean", (3, 2), [1, 1, 0], 0.0),
        ("weighted_mean", (3, 2), [1, 1, -1], 0.0),
        ("weighted_mean", (3, 2), [1, 1], 0.0),
        ("weighted_mean", (3,), [1, 1, 1], 0.0),
        ("weighted_mean", (0, 2), [], 0.0),
        ("median", (3, 2), [1, 1, 1], 0.0),
        ("trimmed_mean", (3, 2), [1, 1, 1], 0.5),
        ("trimmed_mean", (3, 2), [1, 1, 1], -0.1),
        ("trimmed_mean", (3, 2), [1, 1, 1], float("nan")),
    ],
)
def test_what_does_not_fit_is_refused(rule: str, shape: tuple[int, ...], weights: list[float], trim: float) -> None:
    """Unknown rules, cuts of half or more, weights of zero and shapes that differ raise instead of guessing."""
    with pytest.raises(AggregationError, match="expected"):
        aggregate(rule, np.ones(shape), np.array(weights, dtype=float), trim)


@pytest.mark.parametrize(
    ("rule", "banks", "liars", "trim", "says"),
    [
        ("trimmed_mean", 4, 2, 0.45, r"n > 2 f, got n = 4, f = 2"),
        ("trimmed_mean", 8, 3, 0.25, r"3 of 8 liars .* trim = 0.25"),
        ("trimmed_mean", 1, 1, 0.45, r"n = 1, f = 1"),
        ("weighted_mean", 8, 1, 0.0, r"f = 1 of n = 8"),
        ("krum", 8, 0, 0.0, r"weighted_mean, trimmed_mean, got 'krum'"),
    ],
)
def test_infeasible_terms_raise_with_both_numbers(rule: str, banks: int, liars: int, trim: float, says: str) -> None:
    """A rule that cannot stand f of n says so, with n and f, and is never bent to fit."""
    with pytest.raises(AggregationError, match=says):
        check_feasible(rule, banks, liars, trim)


@pytest.mark.parametrize(("banks", "liars"), [(1, 0), (3, 1), (5, 2), (8, 2), (100, 29)])
def test_the_tightest_feasible_terms_are_accepted(banks: int, liars: int) -> None:
    """A cut of exactly f / n stands f of n."""
    check_feasible("trimmed_mean", banks, liars, liars / banks)


def test_same_bytes_on_other_processors() -> None:
    """A rerun gives the same bytes, also where the linear algebra library is built for another processor."""
    program = (
        "import numpy, hashlib; from mintmark.aggregation.rules import aggregate\n"
        "rng = numpy.random.default_rng(7); x, w = rng.standard_normal((9, 5000)), rng.random(9) + 1\n"
        "vectors = [aggregate(r, x, w, .3).vector for r in ('weighted_mean', 'trimmed_mean')]\n"
        "print(hashlib.sha256(b''.join(v.tobytes() for v in vectors)).hexdigest())"
    )
    home = Path(mintmark.__file__).parents[1]
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "OPENBLAS_CORETYPE": core, "OPENBLAS_NUM_THREADS": threads},
            cwd=home,
            capture_output=True,
            check=True,
        ).stdout
        for core, threads in (("Sandybridge", "1"), ("Haswell", "2"))
    }
    assert len(seen) == 1
