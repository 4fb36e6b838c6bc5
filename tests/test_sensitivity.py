"""How far one unit moves every release a learner makes: by brute force over neighbouring small tables, in exact integers.

From a bank's rows to the clipped sum, for every learner and each round of a campaign (one tree of full bins a
feature, random trees, score histograms), for both units, adding and removing.
"""

from __future__ import annotations

import dataclasses
from datetime import date
from typing import Any

import numpy as np
import pytest
from consortium import SCHEMA as PLAIN
from consortium import payments
from hypothesis import given, settings
from hypothesis import strategies as st

from mintmark.campaign import LEARNERS, noise_for, shape_of
from mintmark.models.learner import NoisySum, Query
from mintmark.models.rows import code_table
from mintmark.plan import AggregationTerms, Campaign, HeldOutWindow, PrivacyTerms, PrivacyUnit
from mintmark.privacy.mechanism import LATTICE, bounded_sum
from mintmark.table import Table, build_table

ROUNDS = 3  # and the one that evaluates: each kind of question that a learner has
AMOUNT, HOUR, PAYMENTS = PLAIN.features
SCHEMA = dataclasses.replace(
    PLAIN,  # and everything that an evaluation can count besides
    features=(AMOUNT, dataclasses.replace(HOUR, fairness=True, fairness_edges=(6.0, 18.0)), PAYMENTS),
    value="amount",
    value_limit=400.0,
    time="day",
)
WINDOW = HeldOutWindow(trained_from=date(2026, 1, 5), first_day=date(2026, 3, 2), weeks=2)
RELEASES = [(learner, round_) for learner in LEARNERS for round_ in range(ROUNDS + 1)]
Questions = dict[tuple[str, int], tuple[Any, Query]]


def terms(learner: str, clip: float, unit: PrivacyUnit) -> Campaign:
    """A campaign of one bank."""
    return Campaign(
        name="neighbours",
        seed=3,
        learner=learner,
        schema_digest=SCHEMA.digest(),
        rounds=ROUNDS,
        privacy=PrivacyTerms(epsilon=1.0, delta=1e-6, unit=unit, clip=clip),
        aggregation=AggregationTerms(rule="weighted_mean", banks=1),
        cohort=("bank-0",),
        quorum=1,
        held_out=WINDOW,
    )


@pytest.fixture(scope="module")
def questions() -> Questions:
    """State and question of each learner's rounds, from the sums of 400 other payments."""
    columns = payments(400, seed=6) | {"day": np.full(400, np.datetime64("2026-03-03"))}
    rows, asked = code_table(build_table(SCHEMA, columns).train()), {}
    for name, learner in LEARNERS.items():
        state = learner.start(terms(name, 1.0, PrivacyUnit.CUSTOMER), SCHEMA)
        for round_ in range(ROUNDS + 1):
            query = learner.query(state)
            asked[name, round_] = state, query
            total = bounded_sum(learner.contributions(state, query, rows), clipping_norm=2**40).vector / LATTICE
            state = learner.settle(state, query, NoisySum(total.reshape(shape_of(query)), 0.0))
    return asked


@st.composite
def small_tables(draw: st.DrawFn) -> Table:
    """Two to six payments of two or three customers: missing values, values on the bounds and beyond them, equal rows."""
    rows = draw(st.integers(2, 6))

    def column(values: st.SearchStrategy[Any]) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=rows, max_size=rows)))

    numbers = {
        "amount": column(st.one_of(st.sampled_from([1.0, 1000.0, 5e6]), st.floats(0.5, 1500))),
        "hour": column(st.sampled_from([0.0, 3.0, 12.0, 23.0, np.nan])),
        "payments": column(st.integers(-1, 60)).astype(float),
        "day": np.datetime64("2026-02-27") + column(st.integers(0, 25)),
    }
    labels, cards = column(st.integers(0, 1)), column(st.integers(1, 3))
    labels[:2], cards[:2] = (0, 1), (1, 2)
    return build_table(SCHEMA, numbers | {"fraud": labels, "card": cards, "test": np.zeros(rows)})


def without(table: Table, rows: np.ndarray) -> Table:
    """The table with `rows` taken out, made as a bank makes the part that it trains on."""
    return dataclasses.replace(table, test=rows).train()


@pytest.mark.parametrize("unit", PrivacyUnit)
@pytest.mark.parametrize(("learner", "round_"), RELEASES)
@settings(max_examples=15, deadline=None)
@given(table=small_tables(), clip=st.sampled_from([0.01, 0.5, 0.999, 1.0, 2.5]))
def test_one_unit_moves_a_release_no_further_than_is_charged(
    questions: Questions, learner: str, round_: int, unit: PrivacyUnit, table: Table, clip: float
) -> None:
    """Any one customer, or transaction, there or not: the vectors' distance is at most the sensitivity, which is the
    plan's clipping norm. Which of the two tables is the neighbour does not matter to a distance."""
    state, query = questions[learner, round_]
    _, norm = noise_for(terms(learner, clip, unit), round_, query)

    def released(rows: Table) -> np.ndarray:
        contributions = LEARNERS[learner].contributions(state, query, code_table(rows))
        groups = rows.customers if unit is PrivacyUnit.CUSTOMER else None
        total = bounded_sum(contributions, clipping_norm=norm, customers=groups)
        assert total.sensitivity == norm
        return total.vector

    whole = released(table)
    units = table.customers if unit is PrivacyUnit.CUSTOMER else np.arange(len(table))
    for one in np.unique(units):
        there_or_not = (whole - released(without(table, units == one))).tolist()
        assert sum(step**2 for step in there_or_not) <= norm**2
