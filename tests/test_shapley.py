"""What each feature adds to a score: held against LightGBM's own values and against Shapley's definition."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import lightgbm
import numpy as np
import pytest

from mintmark.models.lightgbm_text import Tree, load, write
from mintmark.models.shapley import read_forest

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Numbers with missing ones and zeros, a count, and a category with unknown codes."""
    rng = np.random.default_rng(3)
    rows = np.column_stack([rng.normal(size=800), rng.poisson(1.0, 800), rng.integers(-1, 40, 800)]).astype(float)
    rows[::7, 0], rows[::11, 1], rows[::5, 2] = np.nan, np.nan, np.nan
    return rows


def booster(rows: np.ndarray, **parameters: object) -> lightgbm.Booster:
    """A model of interactions, words and missing values, trained on the rows."""
    odd = np.nan_to_num(rows[:, 2]).astype(int) % 3 == 0
    labels = (np.nan_to_num(rows[:, 0], nan=1.0) * (rows[:, 1] > 0) + odd > 0.5).astype(int)
    data = lightgbm.Dataset(rows, labels, categorical_feature=[2])
    fixed = {"objective": "binary", "verbose": -1, "min_data_in_leaf": 5, "min_data_per_group": 5, "num_threads": 1}
    return lightgbm.train(fixed | parameters, data, 12)


@pytest.mark.parametrize("parameters", [{}, {"num_leaves": 4}, {"use_missing": False}, {"extra_trees": True}])
def test_values_are_lightgbms(rows: np.ndarray, parameters: dict[str, object]) -> None:
    """Numbers, words, unknown words, zeros and missing values, also where the model takes missing for zero."""
    trained = booster(rows, **parameters)
    ours = read_forest([trained.model_to_string()]).contributions(rows)
    assert ours == pytest.approx(np.asarray(trained.predict(rows, pred_contrib=True)), abs=1e-12)
    assert ours.sum(axis=1) == pytest.approx(np.asarray(trained.predict(rows, raw_score=True)), abs=1e-12)


def test_paths_of_many_features_are_lightgbms() -> None:
    """Trees whose paths hold more different features than four points integrate, beside trees of few, in one forest."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(3000, 14))
    rows[rng.random(rows.shape) < 0.05] = np.nan
    labels = (np.nan_to_num(rows).sum(axis=1) + rng.normal(size=3000) > 1).astype(int)
    fixed = {
        "objective": "binary",
        "verbose": -1,
        "num_threads": 1,
        "learning_rate": 0.3,
        "feature_fraction_bynode": 0.4,
    }
    data = lightgbm.Dataset(rows, labels)
    trained = lightgbm.train(fixed | {"num_leaves": 255, "min_data_in_leaf": 1, "max_depth": 20}, data, 6)
    forest = read_forest([trained.model_to_string()])
    assert forest.long.any()
    assert forest.contributions(rows[:200]) == pytest.approx(
        np.asarray(trained.predict(rows[:200], pred_contrib=True)), abs=1e-10
    )


def test_several_texts_are_their_mean(rows: np.ndarray) -> None:
    """A forest of two models adds half of what each does."""
    first, second = booster(rows), booster(rows, num_leaves=4)
    both = read_forest([first.model_to_string(), second.model_to_string()]).contributions(rows)
    each = [np.asarray(model.predict(rows, pred_contrib=True)) for model in (first, second)]
    assert both == pytest.approx((each[0] + each[1]) / 2, abs=1e-12)


def test_a_text_that_was_written_here_is_read() -> None:
    """Trees of this project's writer: base score, words and missing values, as LightGBM itself explains them."""
    tree = Tree(
        np.array([0, 2]), np.array([0.5, 0.0]), np.array([True, False]), np.array([1, -1]), np.array([-3, -2]),
        np.array([1.0, -0.5, 0.25]), {1: (0, 33)},
    )  # fmt: skip
    text = write([tree], names=NAMES, base_score=-3.0)
    rows = np.array([[0.2, 1, 33], [0.2, 1, 1], [0.9, 0, 0], [np.nan, np.nan, np.nan], [0.2, 0, 99]])
    assert read_forest([text]).contributions(rows) == pytest.approx(
        np.asarray(load(text).predict(rows, pred_contrib=True)), abs=1e-14
    )


def test_long_paths_follow_the_definition() -> None:
    """A path of many features, some cut twice: the mean over all orders in which features become known, by brute force."""
    count = 9
    features, above = np.arange(count) % 5, np.arange(1, count + 1)
    left, right = np.append(above[:-1], -1), -above - 1
    value = np.linspace(-1, 2, count + 1) ** 2
    threshold = np.linspace(0.4, 0.9, count)
    tree = Tree(features, threshold, np.full(count, True), left, right, value)
    row = np.array([0.45, 0.2, 0.55, 0.3, 0.85])
    covers = np.arange(count + 1, 1, -1)  # every leaf counts as one row

    def expected(known: frozenset[int], split: int = 0) -> float:
        if split < 0:
            return float(value[~split])
        if features[split] in known:
            return expected(known, left[split] if row[features[split]] <= threshold[split] else right[split])
        below = covers[left[split]] if left[split] >= 0 else 1
        share = below / covers[split]
        return share * expected(known, left[split]) + (1 - share) * expected(known, right[split])

    brute = np.zeros(5)
    for feature in range(5):
        others = [other for other in range(5) if other != feature]
        for size in range(5):
            weight = factorial(size) * factorial(4 - size) / factorial(5)
            for known in combinations(others, size):
                brute[feature] += weight * (expected(frozenset(known) | {feature}) - expected(frozenset(known)))
    text = write([tree], names=tuple("abcde"), base_score=0.0)
    ours = read_forest([text]).contributions(row[None])[0]
    assert ours[:5] == pytest.approx(brute, abs=1e-13)
    assert ours[5] == pytest.approx(expected(frozenset()), abs=1e-13)


def test_a_split_below_its_own_child_is_refused() -> None:
    """Parents come first: a text in which they do not is not walked."""
    tree = Tree(
        np.array([0, 1]),
        np.array([0.5, 0.5]),
        np.array([True, True]),
        np.array([1, -1]),
        np.array([-3, -2]),
        np.arange(3.0),
    )
    text = write([tree], names=NAMES, base_score=0.0)
    assert "left_child=1 -1" in text
    with pytest.raises(ValueError, match="parents before children"):
        read_forest([text.replace("left_child=1 -1", "left_child=1 0")])


@pytest.mark.parametrize("text", ["", "tree\nnum_class=3\nmax_feature_idx=1\n\n", "max_feature_idx=1\n\n"])
def test_other_texts_are_refused(text: str) -> None:
    """What is no LightGBM text of one class is a sentence, not a model."""
    with pytest.raises(ValueError, match="expected a LightGBM text of one class"):
        read_forest([text])
