"""The simulated banks: repeatable, unlike, and such that together they know more than each alone."""

from __future__ import annotations

import lightgbm
import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import average_precision_score

from mintmark.schema import Scope
from mintmark.synthetic import simulate
from mintmark.table import Table, build_table

Banks = dict[str, dict[str, npt.NDArray[np.generic]]]


@pytest.fixture(scope="module")
def banks() -> Banks:
    """The default consortium."""
    return simulate(seed=7)[1]


def test_the_same_seed_gives_the_same_payments() -> None:
    """Two runs agree to the bit, and another seed does not."""
    one, two, other = (simulate(seed, banks=2, rows=5_000)[1] for seed in (1, 1, 2))

    for bank, columns in one.items():
        for name, column in columns.items():
            np.testing.assert_array_equal(column, two[bank][name])
    assert not np.array_equal(one["bank-a"]["amount"], other["bank-a"]["amount"])


def test_the_banks_are_of_very_unlike_sizes_with_about_one_percent_fraud(banks: Banks) -> None:
    """Four banks of about 50, 30, 15 and 5 % of 200,000 rows, each accepted as a table; customers are at one bank."""
    schema = simulate(seed=7, banks=2, rows=5_000)[0]
    tables = {bank: build_table(schema, columns) for bank, columns in banks.items()}
    sizes = np.array([len(table) for table in tables.values()])
    customers = [set(columns["customer"].tolist()) for columns in banks.values()]

    assert list(tables) == ["bank-a", "bank-b", "bank-c", "bank-d"]
    assert abs(sizes.sum() - 200_000) < 12_000
    np.testing.assert_allclose(sizes / sizes.sum(), [0.5, 0.3, 0.15, 0.05], atol=0.03)
    for table in tables.values():
        assert 0.007 < table.labels.mean() < 0.018
        assert 0.2 < table.test.mean() < 0.4
        assert max(table.clipped_share) < 0.01
    assert len(set().union(*customers)) == sum(map(len, customers))


def test_no_feature_looks_at_other_customers() -> None:
    """Windows are declared as the customer's, and nothing is counted over other customers' rows."""
    schema, _ = simulate(seed=1, banks=2, rows=5_000)
    scopes = {feature.name: feature.scope for feature in schema.features}

    assert Scope.ENTITY not in scopes.values()
    assert scopes["amount"] is Scope.ROW and scopes["payments_7d"] is Scope.CUSTOMER


def test_windows_are_what_a_plain_loop_counts() -> None:
    """A customer's windows hold his payments before this one, itself left out, as a loop over his rows counts them."""
    columns = simulate(seed=3, banks=2, rows=6_000)[1]["bank-a"]
    held_out = {name: column[columns["test"]] for name, column in columns.items()}
    windows = {"payments_1h": 3_600, "payments_1d": 86_400, "payments_7d": 7 * 86_400}
    checked = 0
    for customer in np.unique(held_out["customer"]):
        rows = {name: column[held_out["customer"] == customer] for name, column in held_out.items()}
        gaps = np.rint(3_600 * rows["hours_since_last"][1:])
        times = np.concatenate([[0], np.cumsum(gaps)])
        for row in np.flatnonzero(times > 7 * 86_400):  # windows that lie within the held-out days
            within = {name: [b for b in range(row) if times[row] - times[b] <= s] for name, s in windows.items()}
            assert {name: len(earlier) for name, earlier in within.items()} == {
                name: rows[name][row] for name in windows
            }
            assert rows["spent_1d"][row] == pytest.approx(sum(rows["amount"][b] for b in within["payments_1d"]))
            checked += 1
    assert checked > 500


def test_every_size_gives_tables_to_train_on() -> None:
    """From the smallest allowed set on, and for 2 to 26 banks, every bank has both labels to train on."""
    for banks, rows in ((2, 4_000), (4, 8_000), (26, 52_000)):
        schema, data = simulate(seed=5, banks=banks, rows=rows)
        assert all(build_table(schema, columns).train().labels.any() for columns in data.values())
        assert len(data) == banks


@pytest.mark.parametrize(("banks", "rows"), [(1, 9_000), (27, 900_000), (4, 7_999)])
def test_an_impossible_consortium_is_refused(banks: int, rows: int) -> None:
    """Fewer than two banks, more than the alphabet names, or too few rows are a mistake of the caller."""
    with pytest.raises(ValueError, match="expected 2 to 26 banks"):
        simulate(seed=1, banks=banks, rows=rows)


def test_together_the_banks_know_more_than_each_alone(banks: Banks) -> None:
    """On everybody's held-out rows, one model of all training rows clearly beats each bank's own."""
    schema = simulate(seed=7, banks=2, rows=5_000)[0]
    tables = [build_table(schema, columns) for columns in banks.values()]
    held_out = np.concatenate([table.test_part().features for table in tables])
    labels = np.concatenate([table.test_part().labels for table in tables])

    def quality(*parts: Table) -> float:
        rows = np.concatenate([part.train().features for part in parts])
        data = lightgbm.Dataset(rows, np.concatenate([part.train().labels for part in parts]))
        terms = {"objective": "binary", "num_leaves": 31, "min_data_in_leaf": 50, "verbose": -1, "num_threads": 1}
        return float(average_precision_score(labels, lightgbm.train(terms, data, 50).predict(held_out)))

    together, alone = quality(*tables), [quality(table) for table in tables]

    assert 0.5 < together < 0.75
    assert max(alone) < together - 0.04
    assert alone[-1] < together - 0.15
