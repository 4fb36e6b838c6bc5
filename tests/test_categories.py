"""Categories: public lists of words, cut in an order that the first round's released sums give everybody."""

from __future__ import annotations

import dataclasses

import numpy as np
from consortium import SCHEMA as NUMBERS
from consortium import payments
from test_boosting import terms, train

from mintmark.campaign import replay, shape_of
from mintmark.messages import ModelArtifact
from mintmark.models.bins import MAX_CELLS, CategoryBins, NumberBins, public_bins
from mintmark.models.boosting import BoostingState, GuidedBoosting, TreeQuery
from mintmark.models.feature_trees import category_order, feature_trees, in_order
from mintmark.models.learner import NoisySum
from mintmark.models.lightgbm_text import load
from mintmark.models.rows import code_table
from mintmark.privacy.mechanism import LATTICE, bounded_sum
from mintmark.schema import Feature, FeatureKind, Scope
from mintmark.table import Table, build_table

WORDS = tuple(f"mcc{number}" for number in range(40))
MERCHANT = Feature("merchant", FeatureKind.CATEGORY, 0, 39, Scope.ROW, categories=WORDS)
CHANNEL = Feature("channel", FeatureKind.CATEGORY, 0, 2, Scope.ROW, categories=("chip", "online", "atm"))
SCHEMA = dataclasses.replace(NUMBERS, features=(*NUMBERS.features, MERCHANT, CHANNEL))
RISKY = {3, 11, 12, 29}


def shop_payments(rows: int, seed: int, prefix: int = 0) -> dict[str, np.ndarray]:
    """Payments at 40 kinds of merchants, four of them risky; some words are missing or not in the list."""
    rng, columns = np.random.default_rng(seed + 100), payments(rows, seed, prefix=prefix)
    merchant = np.minimum(rng.geometric(0.06, rows) - 1, 39)
    words = np.array(WORDS, dtype=object)[merchant]
    words[rng.random(rows) < 0.03], words[rng.random(rows) < 0.03] = None, "elsewhere"
    risk = np.isin(merchant, list(RISKY)) * 0.5
    fraud = columns["fraud"] | (rng.random(rows) < risk)
    channel = np.array(CHANNEL.categories, dtype=object)[rng.integers(0, 3, rows)]
    return columns | {"merchant": words, "channel": channel, "fraud": fraud.astype(np.int8)}


def trained(tables: list[Table], rounds: int = 5) -> tuple[BoostingState, str]:
    campaign = terms(len(tables), rounds).model_copy(update={"schema_digest": SCHEMA.digest()})
    state, text = train(campaign, tables, SCHEMA)
    assert isinstance(state, BoostingState)
    return state, text


def test_federated_equals_pooled_with_categories() -> None:
    """Without noise and clipping, two banks make the model of all rows in one place, words and all."""
    columns = [shop_payments(rows, seed=number, prefix=number * 10**6) for number, rows in enumerate((1500, 400))]
    pooled = build_table(SCHEMA, {name: np.concatenate([part[name] for part in columns]) for name in columns[0]})
    _, federated = trained([build_table(SCHEMA, part).train() for part in columns])
    _, central = trained([pooled.train()])
    scores = [load(text).predict(pooled.features, raw_score=True) for text in (federated, central)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-9)


def test_words_are_ordered_by_the_risk_that_sums_show() -> None:
    """After round 0 the bins stand by -G / (H + prior), computed here row by row, and later trees cut that order."""
    table = build_table(SCHEMA, shop_payments(6000, seed=4)).train()
    state, text = trained([table], rounds=4)
    bins = state.bins[3]
    assert isinstance(bins, CategoryBins)
    ratio = []
    for group in bins.groups:
        rows = table.labels[np.isin(table.features[:, 3], group)]
        p = 1 / (1 + np.exp(-state.base_score))
        ratio.append(
            np.clip(-(len(rows) * p - rows.sum()) / (len(rows) * p * (1 - p) + 1e-3 * len(table) * p * (1 - p)), -2, 2)
        )
    assert (np.diff(ratio) >= -1e-6).all() and ratio[-1] > 0.5 > 0 > ratio[0]
    places = {code: place for place, group in enumerate(bins.groups) for code in group}
    cuts = [
        {places[code] for code in codes}
        for tree in state.trees[5:]
        for split, codes in tree.categories.items()
        if tree.feature[split] == 3
    ]
    assert cuts and all(cut == set(range(len(cut))) for cut in cuts)
    assert "num_cat=" in text and "cat_threshold=" in text


def test_a_risky_word_scores_higher() -> None:
    """The model tells the risky merchants from the others; a word that nobody listed scores as a missing one."""
    _, text = trained([build_table(SCHEMA, shop_payments(6000, seed=4)).train()], rounds=8)
    rows = np.tile([50.0, 12.0, 3.0, 0.0, 1.0], (43, 1))
    rows[:, 3] = [*range(40), 40, 199, np.nan]
    score = np.asarray(load(text).predict(rows, raw_score=True))
    assert min(score[list({3, 11, 12})]) > max(score[word] for word in range(20) if word not in RISKY)
    assert len(set(score[40:])) == 1


def test_words_share_a_bin_only_where_there_is_no_room() -> None:
    """Every word has its bin, in the list's order; with 200 features, neighbours in the list share one, none is lost."""
    own = public_bins(SCHEMA, 24)[3]
    assert isinstance(own, CategoryBins) and own.groups == tuple((code,) for code in range(40))
    many = tuple(dataclasses.replace(MERCHANT, name=f"m{number}") for number in range(200))
    shared = public_bins(dataclasses.replace(SCHEMA, features=many), 24)[0]
    assert isinstance(shared, CategoryBins) and len(shared.groups) == MAX_CELLS // 200 - 1
    assert [code for group in shared.groups for code in group] == list(range(40))


def test_each_leaf_of_a_feature_tree_is_a_bin() -> None:
    """Leaf 0 is what is missing or unknown, leaf b the bin b, for numbers and for words."""
    bins = (NumberBins(np.array([1.0, 2.0, 4.0])), CategoryBins(((2,), (0, 3), (1,))))
    number, words = feature_trees(bins)
    for x, leaf in ((np.nan, 0), (-np.inf, 1), (1.0, 1), (1.5, 2), (4.0, 3), (4.1, 4), (np.inf, 4)):
        assert _leaf(number, (x, 0)) == leaf
    for code, leaf in ((np.nan, 0), (7, 0), (2, 1), (0, 2), (3, 2), (1, 3)):
        assert _leaf(words, (0, code)) == leaf


def test_only_words_are_reordered() -> None:
    """Numbers keep their bins, whatever their values are; equal words keep the list's order."""
    bins = (NumberBins(np.array([1.0, 2.0])), CategoryBins(((0,), (1,), (2,), (3,))))
    values = np.array([[0.0, 0.9, -0.5, 0.1, 0.0], [0.7, 0.2, -0.1, 0.2, -0.3]])
    order = category_order(bins, values)
    assert order.tolist() == [[0, 1, 2, 3, 4], [0, 4, 2, 1, 3]]
    assert in_order(bins, order)[1] == CategoryBins(((3,), (1,), (0,), (2,)))


def test_the_question_names_its_words() -> None:
    """Two orders of the same words are two questions: the digest tells them apart."""
    table, learner = build_table(SCHEMA, shop_payments(3000, seed=4)).train(), GuidedBoosting()
    campaign = terms(1, 5).model_copy(update={"schema_digest": SCHEMA.digest()})
    artifact = ModelArtifact(campaign)
    for _ in range(2):
        state = replay(artifact, SCHEMA)
        query = learner.query(state)
        sums = bounded_sum(learner.contributions(state, query, code_table(table)), clipping_norm=2**40).vector
        total = NoisySum(sums.reshape(shape_of(query)) / LATTICE, 0.0)
        artifact = ModelArtifact(campaign, (*artifact.history, total))
    state = replay(artifact, SCHEMA)
    query = learner.query(state)
    assert isinstance(query, TreeQuery) and any(tree.categories for tree in query.trees)
    words = state.bins[3]
    assert isinstance(words, CategoryBins)
    turned = dataclasses.replace(state, bins=(*state.bins[:3], CategoryBins(words.groups[::-1]), state.bins[4]))
    assert learner.query(turned).digest() != query.digest() == learner.query(state).digest()


def test_words_that_nobody_used_still_make_a_model() -> None:
    """Three rows leave bins and trees that work."""
    columns = {name: values[:3] for name, values in shop_payments(200, seed=1).items()}
    columns |= {"fraud": np.arange(3) % 2, "test": np.zeros(3, bool)}
    _, text = trained([build_table(SCHEMA, columns).train()])
    assert np.isfinite(load(text).predict(np.zeros((1, 5)))).all()


def _leaf(tree: object, row: tuple[float, ...]) -> int:
    from test_lightgbm_text import walk

    return walk(tree, row)  # type: ignore[arg-type]
