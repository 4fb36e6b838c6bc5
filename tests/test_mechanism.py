"""The mechanism: exact sums, sensitivity by brute force over neighbouring tables, noise by its statistics."""

from __future__ import annotations

import inspect
import math
import random
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

import mintmark
from mintmark.errors import PrivacyError
from mintmark.privacy import mechanism
from mintmark.privacy.mechanism import LATTICE, BoundedSum, Contributions, bounded_sum, release, row_norm

HOME = Path(mintmark.__file__).parents[1]
DRAWS = 20_000
SCALE = 2.0**28


@st.composite
def tables(draw: st.DrawFn) -> tuple[Contributions, np.ndarray]:
    """Up to 7 rows of up to 4 customers on a grid so small that they meet; many rows have a norm of exactly 1."""
    rows, slots, cells, width = (draw(st.integers(*ends)) for ends in ((1, 7), (1, 3), (1, 3), (1, 2)))
    number = st.one_of(st.sampled_from([-1.0, 0.0, 1.0, 0.6, 0.8]), st.floats(-1, 1))
    values = np.array(draw(st.lists(st.lists(number, min_size=width, max_size=width), min_size=rows, max_size=rows)))
    values /= np.maximum(np.sqrt(np.square(values).sum(axis=1, keepdims=True)), 1)
    place = st.lists(st.integers(0, cells - 1), min_size=rows, max_size=rows)
    cells_of = np.array(draw(st.lists(place, min_size=slots, max_size=slots)), dtype=np.uint16)
    customers = draw(st.lists(st.integers(-2, 1), min_size=rows, max_size=rows))
    return Contributions(cells_of, values, cells), np.array(customers)


def part(table: Contributions, keep: np.ndarray) -> Contributions:
    """Only some of the rows."""
    return Contributions(table.cells_of[:, keep], table.values[keep], table.cells)


def square_distance(one: np.ndarray, other: np.ndarray) -> int:
    """Of two integer vectors, in Python's integers."""
    return sum((a - b) ** 2 for a, b in zip(one.tolist(), other.tolist(), strict=True))


def naive_sum(table: Contributions) -> list[int]:
    """Every row's values times the lattice, cut to whole steps, added in Python's integers: [slots, cells, width]."""
    slots, cells, width = table.shape
    total = [0] * (slots * cells * width)
    for row, row_values in enumerate(table.values.tolist()):
        for slot in range(slots):
            for column, value in enumerate(row_values):
                at = (slot * cells + int(table.cells_of[slot, row])) * width + column
                total[at] += math.trunc(Fraction(value) * LATTICE)
    return total


clips = st.sampled_from([0.001, 0.3, 0.5, 1.0, 1.7, 10.0])


@settings(max_examples=150, deadline=None)
@given(tables(), clips)
def test_one_transaction_moves_the_sum_no_further_than_the_sensitivity(
    table: tuple[Contributions, np.ndarray], clip: float
) -> None:
    """Adding or removing any one row, clipped or not, changes the sum by at most the sensitivity, in exact integers."""
    rows, _ = table
    norm = max(1, math.floor(clip * row_norm(rows.shape[0])))
    whole = bounded_sum(rows, clipping_norm=norm)
    assert whole.sensitivity == norm
    for row in range(len(rows.values)):
        without = bounded_sum(part(rows, np.arange(len(rows.values)) != row), clipping_norm=norm)
        assert square_distance(whole.vector, without.vector) <= norm**2


@settings(max_examples=150, deadline=None)
@given(tables(), clips)
def test_one_customer_moves_the_sum_no_further_than_the_sensitivity(
    table: tuple[Contributions, np.ndarray], clip: float
) -> None:
    """Adding or removing any customer with all of their rows changes the sum by at most the sensitivity."""
    rows, customers = table
    norm = max(1, math.floor(clip * row_norm(rows.shape[0])))
    whole = bounded_sum(rows, clipping_norm=norm, customers=customers)
    assert whole.sensitivity == norm
    for customer in np.unique(customers):
        keep = customers != customer
        without = bounded_sum(part(rows, keep), clipping_norm=norm, customers=customers[keep])
        assert square_distance(whole.vector, without.vector) <= norm**2


@settings(max_examples=100, deadline=None)
@given(tables(), st.booleans())
@example((Contributions(np.zeros((1, 1), np.uint8), np.ones((1, 1)), 1), np.zeros(1, int)), False)
def test_unclipped_sums_are_exact(table: tuple[Contributions, np.ndarray], by_customer: bool) -> None:
    """Without clipping the sum is the one of Python's integers, to the last step: for rows at a clip of 1 already."""
    rows, customers = table
    clip = 100 * row_norm(rows.shape[0]) if by_customer else row_norm(rows.shape[0])
    got = bounded_sum(rows, clipping_norm=clip, customers=customers if by_customer else None)
    assert got.vector.dtype == np.int64
    assert got.vector.tolist() == naive_sum(rows)


def test_sums_of_many_rows_are_exact() -> None:
    """Two hundred thousand rows add up to the sum of their whole steps."""
    rng = np.random.default_rng(4)
    values = rng.uniform(-1, 1, (200_000, 1))
    cells = rng.integers(0, 3, (2, 200_000), dtype=np.uint8)
    got = bounded_sum(Contributions(cells, values, 3), clipping_norm=row_norm(2)).vector
    steps = [math.trunc(value * LATTICE) for value in values[:, 0].tolist()]
    for slot in range(2):
        sums = Counter[int]()
        for cell, step in zip(cells[slot].tolist(), steps, strict=True):
            sums[cell] += step
        assert got[3 * slot : 3 * slot + 3].tolist() == [sums[0], sums[1], sums[2]]


@settings(max_examples=100, deadline=None)
@given(tables())
def test_rounding_never_grows_a_norm(table: tuple[Contributions, np.ndarray]) -> None:
    """A row on the lattice is no longer than the real one, compared in fractions."""
    rows, _ = table
    for row in range(len(rows.values)):
        vector = bounded_sum(part(rows, np.arange(len(rows.values)) == row), clipping_norm=row_norm(3)).vector
        real = len(rows.cells_of) * sum(Fraction(value) ** 2 for value in rows.values[row].tolist())
        assert square_distance(vector, np.zeros_like(vector)) <= real * LATTICE**2


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 0.999), st.integers(1, 9), st.booleans())
def test_clipping_keeps_the_direction(clip: float, slots: int, by_customer: bool) -> None:
    """A unit that is too long is shortened to the clipping norm, less rounding, and points where it did."""
    values = np.array([[0.6, -0.8]])
    table, norm = Contributions(np.zeros((slots, 1), np.uint8), values, 1), math.floor(clip * row_norm(slots))
    customers = np.zeros(1, np.int64) if by_customer else None
    vector = bounded_sum(table, clipping_norm=norm, customers=customers).vector.astype(float)
    length = np.linalg.norm(vector)
    assert norm * (1 - 1e-6) <= length <= norm
    np.testing.assert_allclose(vector / length, np.tile(values[0], slots) / np.sqrt(slots), rtol=1e-5)


def test_the_order_of_rows_changes_nothing() -> None:
    """Customers' rows next to each other, as tables have them, or scattered: the same clipped sum."""
    rng = np.random.default_rng(8)
    table = Contributions(rng.integers(0, 4, (3, 60)), rng.uniform(-0.7, 0.7, (60, 2)), 4)
    customers = rng.integers(0, 20, 60)
    scattered = bounded_sum(table, clipping_norm=LATTICE, customers=customers)
    order = np.argsort(customers, kind="stable")
    gathered = bounded_sum(part(table, order), clipping_norm=LATTICE, customers=customers[order])
    assert gathered.vector.tolist() == scattered.vector.tolist()


@pytest.mark.parametrize("wrong", [[1.01, 0.0], [0.8, 0.8], [np.nan, 0.0], [np.inf, 0.0], [-np.inf, 0.0], [1e200, 0.0]])
@pytest.mark.filterwarnings("ignore:overflow")
def test_contributions_that_break_the_bound_are_refused(wrong: list[float]) -> None:
    """A row longer than 1, or no number, and nothing is summed, whatever the unit."""
    table = Contributions(np.zeros((2, 3), np.uint8), np.array([[0.1, 0.1], wrong, [0.0, 0.2]]), 1)
    for customers in (None, np.zeros(3, np.int64)):
        with pytest.raises(PrivacyError, match="norm at most 1"):
            bounded_sum(table, clipping_norm=LATTICE, customers=customers)


def test_sums_that_would_not_be_exact_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many rows for exact sums are refused; the limit is lowered here, as the real one is 134 million rows."""
    monkeypatch.setattr(mechanism, "_EXACT", 8 * LATTICE)
    table = Contributions(np.zeros((1, 8), np.uint8), np.ones((8, 1)), 1)
    for customers in (None, np.zeros(8, np.int64)):
        with pytest.raises(PrivacyError, match="fewer rows"):
            bounded_sum(table, clipping_norm=LATTICE, customers=customers)


@pytest.mark.parametrize("norm", [0, -1])
def test_clipping_norm_of_nothing_is_refused(norm: int) -> None:
    """A clipping norm below one step is refused."""
    with pytest.raises(PrivacyError, match="at least 1"):
        bounded_sum(Contributions(np.zeros((1, 1), np.uint8), np.ones((1, 1)), 1), clipping_norm=norm)


@pytest.mark.parametrize(
    ("cells_of", "values"),
    [
        (np.array([[0, 3]]), np.ones((2, 1))),
        (np.array([[0, -1]]), np.ones((2, 1))),
        (np.array([[0, 1, 2]]), np.ones((2, 1))),
        (np.array([0, 1]), np.ones((2, 1))),
        (np.array([[0, 1]]), np.ones(2)),
    ],
)
def test_contributions_outside_the_grid_are_refused(cells_of: np.ndarray, values: np.ndarray) -> None:
    """A cell beyond the grid, which would fall into another customer's sums, or shapes that differ are refused."""
    with pytest.raises(ValueError, match="expected cells"):
        Contributions(cells_of, values, 3)


def test_no_rows_are_no_sum() -> None:
    """A bank without rows has a sum of zeros, for both units."""
    table = Contributions(np.zeros((2, 0), np.uint8), np.zeros((0, 1)), 3)
    for customers in (None, np.zeros(0, np.int64)):
        assert bounded_sum(table, clipping_norm=LATTICE, customers=customers).vector.tolist() == [0] * 6


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """20,000 draws of scale 2**28, in steps."""
    return release(BoundedSum(np.zeros(DRAWS, np.int64), 1), noise_scale=SCALE)


def test_noise_has_the_stated_moments(noise: np.ndarray) -> None:
    """Whole numbers of mean 0, the stated variance, no skew and a Gaussian's tails, each within six standard errors."""
    assert noise.dtype == np.int64
    z = noise / SCALE
    assert abs(z.mean()) <= 6 / math.sqrt(DRAWS)
    assert abs(z.var() - 1) <= 6 * math.sqrt(2 / DRAWS)
    assert abs((z**3).mean()) <= 6 * math.sqrt(15 / DRAWS)
    assert abs((z**4).mean() - 3) <= 6 * math.sqrt(96 / DRAWS)
    assert abs(int((noise > 0).sum()) - int((noise < 0).sum())) <= 6 * math.sqrt(DRAWS)
    assert stats.kstest(z, "norm").pvalue > 1e-9
    assert abs((noise % 2).mean() - 0.5) <= 6 * 0.5 / math.sqrt(DRAWS)  # the lowest bit is noise, too


def test_noise_of_coordinates_is_independent(noise: np.ndarray) -> None:
    """Draws far apart and next to each other are uncorrelated, and so are their squares."""
    z = noise / SCALE
    for series in (z, (z**2 - 1) / math.sqrt(2)):
        for lag in (1, 2, 64, 1000, DRAWS // 2):
            count = DRAWS - lag
            assert abs((series[:-lag] * series[lag:]).sum()) <= 8 * math.sqrt(count)


def test_small_noise_is_the_discrete_gaussian() -> None:
    """At a scale where steps are visible, frequencies are those of exp(-k^2 / 2 s^2), not of a rounded Gaussian."""
    scale, ends = 0.6, 3
    draws = Counter(release(BoundedSum(np.zeros(DRAWS, np.int64), 1), noise_scale=scale).tolist())
    weight = {k: math.exp(-(k**2) / (2 * scale**2)) for k in range(-30, 31)}
    inside = [weight[k] / sum(weight.values()) for k in range(-ends + 1, ends)]
    observed = [draws[k] for k in range(-ends + 1, ends)]
    expected = [*(DRAWS * p for p in inside), DRAWS * (1 - sum(inside))]
    assert stats.chisquare([*observed, DRAWS - sum(observed)], expected).pvalue > 1e-9


def test_noise_is_added_to_the_sum() -> None:
    """What leaves is the sum plus noise, coordinate by coordinate, also far from zero."""
    vector = np.array([0, 2**50, -(2**50), 12345], np.int64)
    left = release(BoundedSum(vector, LATTICE), noise_scale=1000.0) - vector
    assert (np.abs(left) < 12_000).all()
    assert left.any()


def test_nobody_can_seed_the_noise() -> None:
    """`release` takes no seed and no generator, and the seeds of Python and numpy do not reach it."""
    assert set(inspect.signature(release).parameters) == {"total", "noise_scale"}
    released = []
    for _ in range(2):
        random.seed(1)
        np.random.seed(1)
        released.append(release(BoundedSum(np.zeros(8, np.int64), 1), noise_scale=SCALE).tolist())
    assert released[0] != released[1]


FORKS = """
import os, sys
import numpy as np
from mintmark.privacy.mechanism import BoundedSum, release

def draw():
    print(*release(BoundedSum(np.zeros(4, np.int64), 1), noise_scale=2.0**28), flush=True)

draw()  # the parent is warm: whatever state the generator has, the children inherit it
for _ in range(3):
    child = os.fork()
    if child == 0:
        draw()
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_forked_processes_draw_different_noise() -> None:
    """A bank answers every plan in a fork of one warm process; no two of them share a single number."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS], cwd=HOME, capture_output=True, text=True, check=True, timeout=120
    )
    drawn = done.stdout.split()
    assert len(drawn) == len(set(drawn)) == 16


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, -math.inf, math.nan])
def test_noise_of_no_scale_is_refused(scale: float) -> None:
    """No release without noise, or with a scale that is no positive number."""
    with pytest.raises(PrivacyError, match="positive noise scale"):
        release(BoundedSum(np.zeros(2, np.int64), 1), noise_scale=scale)
