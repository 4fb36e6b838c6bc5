"""What holds for every aggregation rule: symmetries, bounds, the same bytes everywhere, and inputs that are no updates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mintmark
from mintmark.aggregation import aggregate
from mintmark.aggregation.rules import RULES

STEPS = ("nnm", "arc", "bucketing", "static_clipping:40", "arc+nnm", "bucketing+nnm")
CHAINS = (*RULES, *(f"{step}+{rule}" for step in STEPS for rule in ("geometric_median", "trimmed_mean", "krum")))
ROBUST = tuple(name for name in CHAINS if name != "weighted_mean")
BANKS = 11
seeds = st.integers(0, 2**32 - 1)


def liars_of(name: str) -> int:
    """The most that the chain stands of eleven banks, and no more than three."""
    if name == "weighted_mean":
        return 0
    if "bucketing" in name:
        return 1
    return 2 if "bulyan" in name else 3


def cohort(seed: int, dtype: type = np.float64, width: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((BANKS, width)) * 3 + 1).astype(dtype), rng.uniform(1, 1.5, BANKS)


@pytest.mark.parametrize("name", CHAINS)
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_order_of_arrival_changes_no_byte(name: str, seed: int) -> None:
    """Banks in another order give the same bytes, and each the same share."""
    updates, weights = cohort(seed)
    updates[3] = updates[5]
    order = np.random.default_rng(seed + 1).permutation(BANKS)
    base = aggregate(name, updates, weights, liars_of(name))
    moved = aggregate(name, updates[order], weights[order], liars_of(name))
    assert moved.vector.tobytes() == base.vector.tobytes()
    assert moved.shares.tobytes() == base.shares[order].tobytes()


# NNM makes rows equal; between two sets of equal rows Krum's choice is a tie, which rounding decides.
@pytest.mark.parametrize("name", [name for name in CHAINS if "nnm+krum" not in name])
@settings(max_examples=8, deadline=None)
@given(seed=seeds, factor=st.floats(0.01, 100).flatmap(lambda size: st.sampled_from([size, -size])))
def test_moving_and_scaling_everybody_does_the_same_to_the_result(name: str, seed: int, factor: float) -> None:
    """The same shift and factor for every update, mirroring too; clipping is about zero and knows no shift."""
    updates, weights = cohort(seed)
    shift = np.zeros(7) if "arc" in name or "clipping:" in name else np.random.default_rng(seed).standard_normal(7) * 50
    if "clipping:" in name:
        factor = -1.0
    base = aggregate(name, updates, weights, liars_of(name)).vector
    moved = aggregate(name, updates * factor + shift, weights, liars_of(name)).vector
    np.testing.assert_allclose(moved, base * factor + shift, rtol=1e-6, atol=1e-6 * abs(factor))


@pytest.mark.parametrize(
    "name", ["weighted_mean", "trimmed_mean:0.3", "coordinate_median", "geometric_median", "centred_clipping"]
)
@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_listed_twice_is_weight_two(name: str, seed: int) -> None:
    """Where weights have a sound meaning, a bank that is listed twice counts as one of twice the weight."""
    updates, weights = cohort(seed)
    twice = aggregate(name, np.vstack([updates, updates[:1]]), np.append(weights, weights[0]))
    heavier = aggregate(name, updates, weights * np.where(np.arange(BANKS) == 0, 2, 1))
    np.testing.assert_allclose(twice.vector, heavier.vector, rtol=1e-6, atol=1e-6)
    assert twice.shares[0] + twice.shares[-1] == pytest.approx(heavier.shares[0], abs=1e-6)


@pytest.mark.parametrize("name", CHAINS)
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_results_stay_inside_the_hull(name: str, seed: int) -> None:
    """Shares are a distribution, each coordinate lies among the banks' (and zero, where rows were clipped), and a rule of
    the form p @ X is what its shares say."""
    updates, weights = cohort(seed)
    result = aggregate(name, updates, weights, liars_of(name))
    with_zero = np.vstack([updates, np.zeros(7)]) if result.mass < 1 - 1e-9 else updates
    assert (result.vector >= with_zero.min(axis=0) - 1e-9).all()
    assert (result.vector <= with_zero.max(axis=0) + 1e-9).all()
    assert (result.shares >= 0).all()
    assert result.shares.sum() == pytest.approx(1, rel=1e-12)
    if not RULES[name.rpartition("+")[2]].by_coordinate:
        np.testing.assert_allclose(result.mass * result.shares @ updates, result.vector, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lie", [1e300, -1e300, 1.7e308, 1e30, 1e9, 50.0, 5e-324])
def test_liars_have_bounded_influence(name: str, dtype: type, lie: float) -> None:
    """As many as the chain stands say anything up to the largest number, together or in turn: the result stays near."""
    limit = float(np.finfo(dtype).max) * 0.9
    rng = np.random.default_rng(1)
    updates, weights = cohort(1, dtype)
    lying = rng.permutation(BANKS)[: liars_of(name)]
    for signs in (1.0, rng.choice([-1.0, 1.0], (len(lying), 7))):
        updates[lying] = np.clip(lie * signs, -limit, limit)
        result = aggregate(name, updates, weights, liars_of(name))
        assert np.linalg.norm(result.vector) < 60


@pytest.mark.parametrize("name", CHAINS)
def test_banks_that_agree_are_believed(name: str) -> None:
    """When all rows are equal (as a tiny, a huge or an ordinary vector) the result is that row."""
    for size in (5e-324, 1e-310, 1e-3, 1.0, 1e300):
        if size > 1 and "clipping:" in name:
            continue
        row = np.arange(7.0) * size
        result = aggregate(name, np.tile(row, (BANKS, 1)), np.arange(1.0, 1 + BANKS) / 8 + 3, liars_of(name))
        np.testing.assert_allclose(result.vector, row, rtol=1e-9, atol=1e-321)


@pytest.mark.parametrize("name", CHAINS)
def test_nobody_lies(name: str) -> None:
    """f = 0 gives a result, near the mean where the rule averages at all."""
    updates, weights = cohort(2)
    result = aggregate(name, updates, weights, 0)
    assert np.linalg.norm(result.vector - np.average(updates, axis=0, weights=weights)) < 12


@pytest.mark.parametrize("name", [name for name in CHAINS if "krum" not in name and name != "bulyan"])
def test_one_bank_alone(name: str) -> None:
    """A rule whose theorem allows n = 1 returns the only row."""
    result = aggregate(name, [[3.0, -4.0]])
    np.testing.assert_allclose(result.vector, [3.0, -4.0])
    assert result.shares.tolist() == [1.0]


@pytest.mark.parametrize("name", CHAINS)
def test_inputs_are_never_overwritten(name: str) -> None:
    """Updates and weights that may not be written to aggregate all the same, and nothing of them is given back."""
    updates, weights = cohort(3)
    updates.flags.writeable = weights.flags.writeable = False
    result = aggregate(name, updates, weights, liars_of(name))
    assert not np.shares_memory(result.vector, updates)
    assert not np.shares_memory(result.shares, weights)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(name: str, wrong: float) -> None:
    """One NaN or infinity, in an update or a weight, and there is no result."""
    for dtype in (np.float32, np.float64):
        updates, weights = cohort(4, dtype)
        updates[1, 6] = wrong
        with pytest.raises(mintmark.errors.AggregationError, match="finite"):
            aggregate(name, updates, weights, liars_of(name))
    updates, weights = cohort(4)
    weights[2] = wrong
    with pytest.raises(mintmark.errors.AggregationError, match="finite"):
        aggregate(name, updates, weights, liars_of(name))


@pytest.mark.parametrize(
    ("shape", "weights"), [((3, 2), [1, 1, 0]), ((3, 2), [1, 1, -1]), ((3, 2), [1, 1]), ((3,), [1, 1, 1]), ((0, 2), [])]
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], weights: list[float]) -> None:
    """Weights of zero or less and shapes that differ raise instead of guessing."""
    with pytest.raises(mintmark.errors.AggregationError, match="expected"):
        aggregate("geometric_median", np.ones(shape), weights)


@pytest.mark.parametrize("name", CHAINS)
def test_single_precision_comes_near_double(name: str) -> None:
    """float32 updates give what the same numbers give as float64, to single precision."""
    updates, weights = cohort(5, np.float32, width=3000)
    single = aggregate(name, updates, weights, liars_of(name)).vector
    double = aggregate(name, updates.astype(np.float64), weights, liars_of(name)).vector
    np.testing.assert_allclose(single, double, atol=3e-6)


@pytest.mark.parametrize("layout", ["F", "strided"])
def test_layout_in_memory_changes_no_byte(layout: str) -> None:
    """Columns first, or every second row of something larger: the same bytes."""
    updates, weights = cohort(6, width=5000)
    other = np.asfortranarray(updates) if layout == "F" else np.repeat(updates, 2, axis=0)[::2]
    for name in ("weighted_mean", "trimmed_mean", "arc+nnm+geometric_median"):
        f = liars_of(name)
        assert (
            aggregate(name, other, weights, f).vector.tobytes() == aggregate(name, updates, weights, f).vector.tobytes()
        )


def test_same_bytes_on_other_processors() -> None:
    """A rerun gives the same bytes with other threads, another processor's linear algebra and another's vector units."""
    program = (
        "import numpy, hashlib; from mintmark.aggregation import aggregate\n"
        "from test_rule_properties import CHAINS, liars_of\n"
        "rng = numpy.random.default_rng(7); x, w = rng.standard_normal((11, 5000)), rng.random(11) / 4 + 1\n"
        "vectors = [aggregate(n, x.astype(t), w, liars_of(n)).vector for n in CHAINS for t in ('f4', 'f8')]\n"
        "print(hashlib.sha256(b''.join(v.tobytes() for v in vectors)).hexdigest())"
    )
    home = Path(mintmark.__file__).parents[1]
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "OPENBLAS_CORETYPE": core, "OPENBLAS_NUM_THREADS": threads, "NPY_DISABLE_CPU_FEATURES": off,
                 "PYTHONPATH": f"{home}{os.pathsep}{home / 'tests'}"},
            cwd=home,
            capture_output=True,
            check=True,
        ).stdout
        for core, threads, off in (("Sandybridge", "1", "AVX2 FMA3"), ("Haswell", "2", ""))
    }  # fmt: skip
    assert len(seen) == 1
