"""The text model: LightGBM, the bank's coded rows and a walk in plain Python agree on every row and tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mintmark.models.lightgbm_text import load, write
from mintmark.models.rows import RowState, advance, code_features, leaves_of
from mintmark.models.tree import Tree
from mintmark.schema import Feature, FeatureKind, FeatureSchema

WORDS = tuple(f"w{number}" for number in range(70))  # their sets take more than one word of 32 bits
SCHEMA = FeatureSchema(
    "kinds",
    (
        Feature("balance", FeatureKind.LINEAR, -127, 127),
        Feature("merchant", FeatureKind.CATEGORY, 0, 69, categories=WORDS),
        Feature("amount", FeatureKind.LOG, 0, 1000),
        Feature("channel", FeatureKind.CATEGORY, 0, 1, categories=("chip", "online")),
        Feature("count", FeatureKind.INTEGER, 0, 3),
    ),
    label="fraud",
    customer="card",
    bank="bank",
    test="test",
)
GRIDS = [feature.grid() for feature in SCHEMA.features]


@st.composite
def any_tree(draw: st.DrawFn) -> Tree:
    """A tree of up to 24 splits of any shape, each at an edge of the grid or on any set of words."""
    splits = draw(st.integers(0, 24))
    left, right, categories = [0] * splits, [0] * splits, {}
    ends = [(-1, 0)]  # where a leaf hangs: split and side
    feature, threshold, missing = [0] * splits, [0.0] * splits, [False] * splits
    for split in range(splits):
        parent, side = ends.pop(draw(st.integers(0, len(ends) - 1)))
        if parent >= 0:
            (right if side else left)[parent] = split
        ends += [(split, 0), (split, 1)]
        feature[split] = draw(st.integers(0, len(SCHEMA.features) - 1))
        kind, words = SCHEMA.features[feature[split]].kind, SCHEMA.features[feature[split]].categories
        missing[split] = draw(st.booleans())
        if kind is FeatureKind.CATEGORY:
            codes = draw(st.sets(st.integers(0, len(words) - 1), min_size=1, max_size=40))
            categories[split], missing[split] = tuple(codes), False
        else:
            threshold[split] = float(draw(st.sampled_from(GRIDS[feature[split]].tolist())))
    for leaf, (parent, side) in enumerate(ends):
        if parent >= 0:
            (right if side else left)[parent] = ~leaf
    values = np.array(draw(st.lists(st.floats(-2, 2), min_size=splits + 1, max_size=splits + 1)))
    arrays = (np.array(part, dtype=int) for part in (left, right))
    return Tree(
        np.array(feature, dtype=int), np.array(threshold), np.array(missing, dtype=bool), *arrays, values, categories
    )


def numbers(grid: Sequence[float]) -> st.SearchStrategy[float]:
    """Edges and their neighbours in float64, tiny, huge, infinite and missing numbers."""
    edges = st.sampled_from(list(grid))
    nearest = st.tuples(edges, st.sampled_from([-math.inf, math.inf])).map(lambda at: math.nextafter(*at))
    special = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1e-35, -1e-36, 1.1e-35, 1e300, -1e300])
    return st.one_of(edges, nearest, special, st.floats(-2000, 2000))


codes = st.one_of(
    st.integers(-2, 72).map(float),
    st.floats(-3, 80),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, -1e-9, 2.0**31, 2.0**32 + 1, -(2.0**40), 1e300]),
)
any_row = st.tuples(*(codes if feature.categories else numbers(feature.grid()) for feature in SCHEMA.features))


def walk(tree: Tree, row: Sequence[float]) -> int:
    """The leaf that a row falls in, by the words of the text format: an oracle without numpy or codes."""
    node = 0 if len(tree.feature) else ~0
    while node >= 0:
        x = float(row[tree.feature[node]])
        x = 0.0 if abs(x) <= 1.00000001e-35 else x
        if node in tree.categories:
            goes_left = math.isfinite(x) and x > -1 and math.trunc(x) in tree.categories[node]
        else:
            goes_left = bool(tree.missing_left[node]) if math.isnan(x) else x <= tree.threshold[node]
        node = int(tree.left[node] if goes_left else tree.right[node])
    return ~node


@settings(max_examples=200, deadline=None)
@given(st.lists(any_tree(), min_size=1, max_size=4), st.lists(any_row, min_size=1, max_size=12), st.floats(-5, 5))
def test_lightgbm_codes_and_trees_agree(trees: list[Tree], rows: list[tuple[float, ...]], base: float) -> None:
    """Leaves are the same, and scores to 1e-9, on boundaries, missing, infinite, unknown and unlisted values too."""
    features = np.array(rows)
    booster = load(write(trees, names=SCHEMA.names, base_score=base))
    leaves = [[walk(tree, row) for tree in trees] for row in rows]
    scores = [base + sum(float(t.leaf_value[leaf]) for t, leaf in zip(trees, own, strict=True)) for own in leaves]
    state = coded(features)
    assert leaves_of(state, SCHEMA, trees).T.tolist() == leaves
    found = np.asarray(booster.predict(features, pred_leaf=True)).reshape(len(rows), -1)[:, 1:]
    assert found.tolist() == leaves
    np.testing.assert_allclose(booster.predict(features, raw_score=True), scores, rtol=0, atol=1e-9)
    np.testing.assert_allclose(base + advance(state, SCHEMA, trees).score, scores, rtol=0, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(any_tree(), min_size=2, max_size=5), st.lists(any_row, min_size=1, max_size=8), st.data())
def test_scores_carried_on_are_the_scores(
    trees: list[Tree], rows: list[tuple[float, ...]], data: st.DataObject
) -> None:
    """In whatever portions trees are added, every bit of the scores is the same; going back is refused."""
    state, seen = coded(np.array(rows)), data.draw(st.integers(1, len(trees)))
    at_once = advance(state, SCHEMA, trees)
    carried = advance(advance(state, SCHEMA, trees[:seen]), SCHEMA, trees)
    assert (carried.score.tobytes(), carried.trees) == (at_once.score.tobytes(), len(trees))
    with pytest.raises(ValueError, match="saw at most"):
        advance(at_once, SCHEMA, trees[:-1])


@settings(max_examples=40, deadline=None)
@given(st.lists(any_tree(), min_size=1, max_size=3), st.lists(any_row, min_size=1, max_size=8))
def test_contributions_add_up(trees: list[Tree], rows: list[tuple[float, ...]]) -> None:
    """LightGBM explains every score: its features' parts and the expected value sum to it."""
    booster = load(write(trees, names=SCHEMA.names, base_score=-1.0))
    features = np.array(rows)
    parts = np.asarray(booster.predict(features, pred_contrib=True))
    np.testing.assert_allclose(parts.sum(axis=1), booster.predict(features, raw_score=True), atol=1e-9)


def grown(seed: int, count: int = 12) -> tuple[list[Tree], np.ndarray, np.ndarray]:
    """Some stumps on every feature, and rows with labels that follow two of them."""
    rng = np.random.default_rng(seed)
    trees = []
    for number in range(count):
        column = number % len(SCHEMA.features)
        words = SCHEMA.features[column].categories
        listed = {0: tuple(range(0, len(words), 2))} if words else {}
        threshold = 0.0 if words else GRIDS[column][len(GRIDS[column]) // 2]
        ends = np.array([-1]), np.array([-2])
        trees.append(
            Tree(np.array([column]), np.array([threshold]), np.array([False]), *ends, rng.normal(size=2), listed)
        )
    features = np.column_stack([rng.uniform(f.lower, f.upper + 0.999, 2000) for f in SCHEMA.features])
    features[:, [1, 3, 4]] = np.floor(features[:, [1, 3, 4]])
    labels = (features[:, 1] % 2 == 0) ^ (rng.random(2000) < 0.1)
    return trees, features, labels.astype(float)


def test_a_saved_model_loads_again(tmp_path: Path) -> None:
    """A file that LightGBM saved, with its splits on categories, gives the same scores when it is read."""
    trees, features, _ = grown(1)
    booster = load(write(trees, names=SCHEMA.names, base_score=-2.0))
    booster.save_model(tmp_path / "model.lgb")
    again = lightgbm.Booster(model_file=tmp_path / "model.lgb")
    assert booster.predict(features).tolist() == again.predict(features).tolist()
    assert "num_cat=1" in (tmp_path / "model.lgb").read_text()


def test_lightgbm_trains_on_from_it(tmp_path: Path) -> None:
    """As `init_model` the text is the beginning: more trees, a smaller loss, and the first scores still in it."""
    trees, features, labels = grown(2)
    (tmp_path / "model.lgb").write_text(write(trees, names=SCHEMA.names, base_score=-2.0))
    before = lightgbm.Booster(model_file=tmp_path / "model.lgb")
    data = lightgbm.Dataset(features, labels, categorical_feature=[1, 3], free_raw_data=False)
    parameters = {"objective": "binary", "verbose": -1, "num_threads": 1}
    longer = lightgbm.train(parameters, data, 5, init_model=tmp_path / "model.lgb")
    assert longer.num_trees() == before.num_trees() + 5
    first = longer.predict(features, raw_score=True, num_iteration=before.num_trees())
    np.testing.assert_allclose(first, before.predict(features, raw_score=True), atol=1e-9)
    assert loss(longer, features, labels) < loss(before, features, labels)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"threshold": np.array([0.123])}, "on the public grid"),
        ({"feature": np.array([1])}, "lists of codes"),
        ({"categories": {0: (1,)}}, "lists of codes"),
    ],
)
def test_trees_off_the_grid_are_refused(change: dict[str, object], sentence: str) -> None:
    """A threshold between edges, or a split that does not fit its feature's kind, cannot be said in codes."""
    parts = {"feature": np.array([0]), "threshold": np.array([1.0]), "missing_left": np.array([True])}
    ends = {"left": np.array([-1]), "right": np.array([-2]), "leaf_value": np.zeros(2)}
    with pytest.raises(ValueError, match=sentence):
        leaves_of(coded(np.zeros((1, 5))), SCHEMA, [Tree(**(parts | ends | change))])  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_not_written(value: float) -> None:
    """LightGBM reads what it likes from such a text, so it is not made."""
    stump = (np.array([0]), np.array([1.0]), np.array([True]), np.array([-1]), np.array([-2]))
    with pytest.raises(ValueError, match="expected finite"):
        write([Tree(*stump, np.array([0.0, value]))], names=SCHEMA.names, base_score=0.0)


def coded(features: np.ndarray) -> RowState:
    """Rows of which nothing but the features matters."""
    count = len(features)
    return RowState(
        code_features(SCHEMA, features), np.zeros(count, np.uint8), np.zeros(count, np.int64), np.zeros(count)
    )


def loss(booster: lightgbm.Booster, features: np.ndarray, labels: np.ndarray) -> float:
    """Mean log-loss."""
    p = np.clip(np.asarray(booster.predict(features)), 1e-12, 1 - 1e-12)
    return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)))
