"""Aggregation rules against their papers written as slow loops, exact fractions, and conditions that a result must meet."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import naive_rules
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import trim_mean

from mintmark.aggregation import aggregate
from mintmark.aggregation.centres import top_eigenvector
from mintmark.aggregation.kernels import sorting_network
from mintmark.aggregation.mixture import Mixture, Rows, mixture_of
from mintmark.aggregation.rules import RULES, check_feasible
from mintmark.errors import AggregationError

values = st.floats(-1e6, 1e6, allow_subnormal=False)
LIARS = {"weighted_mean": 0, "bulyan": 1}  # of 9; the others stand 2


@st.composite
def columns(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Updates [n, d] with many ties, whole weights [n] and a trim in whole hundredths."""
    banks, width = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    cell = st.one_of(values, st.integers(-2, 2).map(float))
    updates = draw(st.lists(st.lists(cell, min_size=width, max_size=width), min_size=banks, max_size=banks))
    weights = draw(st.lists(st.integers(1, 20), min_size=banks, max_size=banks))
    return np.array(updates), np.array(weights, dtype=float), draw(st.integers(1, 49))


def slow_trimmed_mean(column: list[float], weights: list[float], trim: Fraction) -> Fraction:
    """One coordinate in exact fractions: lay the values' weights end to end and average what lies inside the cuts."""
    total, place = Fraction(0), Fraction(0)
    whole = sum(Fraction(weight) for weight in weights)
    for value, weight in sorted(zip(column, weights, strict=True)):
        begin, place = place, place + Fraction(weight) / whole
        total += Fraction(value) * max(Fraction(0), min(place, 1 - trim) - max(begin, trim))
    return total / (1 - 2 * trim)


@pytest.mark.parametrize("name", naive_rules.RULES)
@pytest.mark.parametrize("seed", range(4))
def test_a_rule_is_its_paper_s(name: str, seed: int) -> None:
    """Every rule equals the slow one, on nine rows of which two lie (less where it stands fewer)."""
    rng = np.random.default_rng(seed)
    f = LIARS.get(name, 2)
    updates = rng.standard_normal((9, 4))
    updates[:f] += rng.choice([-20, 3, 300])
    expected = naive_rules.RULES[name](updates.tolist(), f)
    tolerance = 1e-6 if "geometric" in name else 1e-9
    np.testing.assert_allclose(aggregate(name, updates, f=f).vector, expected, rtol=tolerance, atol=tolerance)


def test_every_rule_has_an_oracle() -> None:
    """No rule is left out of the comparison."""
    assert set(RULES) <= set(naive_rules.RULES)


@pytest.mark.parametrize("seed", range(3))
def test_bucketing_deals_near_and_far_rows(seed: int) -> None:
    """Buckets are those of the slow version (as a set: their order means nothing)."""
    updates = np.random.default_rng(seed).standard_normal((9, 4))
    expected = np.mean(naive_rules.bucketing(updates.tolist(), 3), axis=0)
    np.testing.assert_allclose(aggregate("bucketing:3+weighted_mean", updates).vector, expected, rtol=1e-9)


@settings(max_examples=150, deadline=None)
@given(columns())
def test_trimmed_mean_is_the_exact_one(cohort: tuple[np.ndarray, np.ndarray, int]) -> None:
    """Whatever the weights and the cut, the trimmed mean is the one computed in fractions."""
    updates, weights, trim = cohort
    got = aggregate(f"trimmed_mean:{trim / 100}", updates, weights).vector
    for column, result in zip(updates.T.tolist(), got, strict=True):
        exact = float(slow_trimmed_mean(column, weights.tolist(), Fraction(trim / 100)))
        assert result == pytest.approx(exact, rel=1e-9, abs=1e-7 * max(map(abs, column)) + 1e-12)


@settings(max_examples=60, deadline=None)
@given(columns())
def test_weighted_mean_is_the_exact_one(cohort: tuple[np.ndarray, np.ndarray, int]) -> None:
    """The weighted mean is the one computed in fractions, and the shares are the weights."""
    updates, weights, _ = cohort
    result = aggregate("weighted_mean", updates, weights)
    for column, got in zip(updates.T.tolist(), result.vector, strict=True):
        exact = slow_trimmed_mean(column, weights.tolist(), Fraction(0))
        assert got == pytest.approx(float(exact), rel=1e-9, abs=1e-12 * max(map(abs, column)))
    np.testing.assert_allclose(result.shares, weights / weights.sum(), rtol=1e-12)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_geometric_median_meets_its_first_order_condition(banks: int, width: int, seed: int) -> None:
    """The unit vectors to all rows, weighted, cancel; or those to the others are outweighed by the row it lies on."""
    rng = np.random.default_rng(seed)
    updates, weights = rng.standard_normal((banks, width)) * 10.0 ** rng.integers(-3, 4), rng.random(banks) + 0.1
    away = updates - aggregate("geometric_median", updates, weights).vector
    lengths = np.linalg.norm(away, axis=1)
    apart = lengths > 1e-7 * np.abs(updates).max()
    force = np.linalg.norm((weights[apart, None] * away[apart] / lengths[apart, None]).sum(axis=0))
    assert force <= weights[~apart].sum() + 1e-5 * weights.sum()


@pytest.mark.parametrize("rule", ["trimmed_mean", "geometric_median", "coordinate_median", "krum"])
@pytest.mark.parametrize("before", ["", "nnm+"])
def test_liars_move_a_rule_by_its_bound_at_most(rule: str, before: str) -> None:
    """(f, kappa)-robustness, for every set S of n - f of 7 rows: the result is nearer to S's mean than kappa times the
    mean square within S (bounds from Allouah et al. 2023, "Fixing by Mixing", Table 1 and Lemma 1)."""
    n, f = 7, 2
    ratio = f / (n - 2 * f)
    kappa = {
        "trimmed_mean": 6 * ratio * (1 + ratio),
        "geometric_median": 4 * (1 + ratio) ** 2,
        "coordinate_median": 4 * (1 + ratio) ** 2,
        "krum": 6 * (1 + ratio),
    }[rule]
    if before:
        kappa = 8 * f / (n - f) * (kappa + 1)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        updates = rng.standard_normal((n, 3)) + rng.choice([0, 1, 1e4]) * (rng.random((n, 1)) < 0.3)
        got = aggregate(before + rule, updates, f=f).vector
        for honest in combinations(range(n), n - f):
            own = updates[list(honest)]
            spread = np.square(own - own.mean(axis=0)).sum(axis=1).mean()
            assert np.square(got - own.mean(axis=0)).sum() <= kappa * spread * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_distances_keep_their_digits(dtype: type, offset: float) -> None:
    """Squared distances agree with a plain computation, also of rows that differ by a thousandth, and beside a liar."""
    rng = np.random.default_rng(4)
    updates = (rng.standard_normal((6, 5000)) + offset).astype(dtype)
    updates[2] *= 1e9
    exact = updates.astype(np.longdouble)
    expected = np.square(exact[:, None] - exact[None]).sum(axis=2).astype(float)
    mixture = mixture_of(updates)
    tolerance = 1e-6 if dtype == np.float32 else 1e-10
    np.testing.assert_allclose(mixture.distances * mixture.unit**2, expected, rtol=tolerance)


def test_a_mixture_is_the_rows_it_stands_for() -> None:
    """Blocks, distances and lengths of mixed rows are those of the rows written out."""
    rng = np.random.default_rng(5)
    updates, mix = rng.standard_normal((5, 4500)), rng.random((3, 5))
    mixture = Mixture(Rows(updates, np.arange(5)), mix)
    plain = mix @ updates
    np.testing.assert_allclose(np.concatenate([block for _, block in mixture.blocks()], axis=1), plain, rtol=1e-9)
    squares = np.square(plain[:, None] - plain[None]).sum(axis=2)
    np.testing.assert_allclose(mixture.distances * mixture.unit**2, squares, rtol=1e-9)
    np.testing.assert_allclose(mixture.norms, np.linalg.norm(plain, axis=1), rtol=1e-9)


@pytest.mark.parametrize("n", range(1, 11))
def test_a_network_sorts(n: int) -> None:
    """Every order of zeros and ones, and so every order of anything (Knuth's 0-1 principle)."""
    columns = np.array(np.meshgrid(*[[0, 1]] * n)).reshape(n, -1)
    for first, second in sorting_network(n):
        columns[[first, second]] = np.sort(columns[[first, second]], axis=0)
    assert (np.diff(columns, axis=0) >= 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_banks_and_coordinates_are_trimmed_alike(dtype: type) -> None:
    """Fifty banks, more coordinates than a block: scipy's trimmed mean, numpy's median, in whatever order they come."""
    rng = np.random.default_rng(8)
    updates = (rng.standard_normal((50, 2500)) * 10.0 ** rng.integers(-3, 3, 2500)).astype(dtype)
    got = aggregate("trimmed_mean", updates, f=10).vector
    np.testing.assert_allclose(got, trim_mean(updates.astype(float), 0.2), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(aggregate("coordinate_median", updates).vector, np.median(updates, axis=0), rtol=1e-6)
    assert aggregate("trimmed_mean", updates[rng.permutation(50)], f=10).vector.tobytes() == got.tobytes()


@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-9, 0.0])
def test_top_eigenvector_is_one(gap: float) -> None:
    """It is a unit eigenvector of the largest eigenvalue, also when the next one is as large."""
    basis = np.linalg.qr(np.random.default_rng(6).standard_normal((8, 8)))[0]
    matrix = basis @ np.diag([2.0 + gap, 2.0, 1.0, 0.5, 0.1, 0.0, 0.0, 0.0]) @ basis.T
    width, direction = top_eigenvector(matrix)
    assert width == pytest.approx(2 + gap, rel=1e-9)
    assert direction @ direction == pytest.approx(1)
    np.testing.assert_allclose(matrix @ direction, width * direction, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "banks", "liars", "says"),
    [
        ("trimmed_mean", 4, 2, r"n > 2 f, got n = 4, f = 2"),
        ("trimmed_mean:0.25", 8, 3, r"3 of 8 liars .* trim = 0.25"),
        ("weighted_mean", 8, 1, r"f = 0, got n = 8, f = 1"),
        ("krum", 6, 2, r"n > 2 f \+ 2, got n = 6, f = 2"),
        ("multi_krum", 2, 0, r"n = 2, f = 0"),
        ("bulyan", 10, 2, r"n >= 4 f \+ 3, got n = 10, f = 2"),
        ("mda", 50, 12, r"at most 100000 sets .* n = 50, f = 12"),
        ("bucketing+geometric_median", 8, 2, r"n = 4 \(of 8 banks\), f = 2"),
        ("bucketing:3+nnm+krum", 9, 2, r"at nnm: expected n > 2 f, got n = 3, f = 2"),
        ("arc+nnm+geometric_median", 4, 2, r"at arc: expected n > 2 f, got n = 4, f = 2"),
        ("geometric_median", 5, -1, r"f = -1"),
    ],
)
def test_infeasible_terms_raise_with_both_numbers(name: str, banks: int, liars: int, says: str) -> None:
    """A chain that cannot stand f of n says so, with n and f, and is never bent to fit."""
    with pytest.raises(AggregationError, match=says):
        check_feasible(name, banks, liars)
    with pytest.raises(AggregationError, match=says):
        aggregate(name, np.random.default_rng(0).standard_normal((banks, 2)), f=liars)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("median", "rule of weighted_mean, .* got 'median'"),
        ("", "got ''"),
        ("krum+nnm", "expected a step of nnm, .* got 'krum'"),
        ("nnm", "expected a rule of .* got 'nnm'"),
        ("krum:2", "expected no number"),
        ("trimmed_mean:half", "number after the colon, got 'half'"),
        ("trimmed_mean:0.5", "trim above 0 and below 0.5"),
        ("trimmed_mean:nan", "trim above 0"),
        ("trimmed_mean:-0.1", "trim above 0"),
        ("bucketing:2.5+krum", "size above 0"),
        ("static_clipping+krum", "static_clipping:2.5; got none"),
        ("static_clipping:inf+krum", "radius above 0"),
        ("nnm+" * 40 + "krum", "at most 120 characters"),
    ],
)
def test_a_name_that_is_none_is_refused(name: str, says: str) -> None:
    """Unknown parts and numbers that make no sense raise, and say what would do."""
    with pytest.raises(AggregationError, match=says):
        check_feasible(name, 9, 1)
