"""The attacks do what they say, and the demonstration's liar sends a lie where nothing else of the bank's differs."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.attacks import ATTACKS, Scene, flip_labels
from infra.embedded.attacker import LARGEST, lie
from infra.embedded.demo import DemoOptions, attacks_of
from infra.embedded.telling import tell_suspicion
from mintmark.aggregation import aggregate
from mintmark.errors import DataError
from mintmark.messages import decode_sums, encode_sums, largest_sum
from mintmark.synthetic import simulate
from mintmark.table import build_table

ROOT = Path(__file__).parent.parent
FINITE = [name for name in ATTACKS if name not in ("infinity", "nan")]


def scene(rule: str = "trimmed_mean", f: int = 2, seed: int = 0) -> Scene:
    """Eight banks that agree on a direction and differ by noise; the last f lie."""
    rng = np.random.default_rng(seed)
    noise = np.linspace(0.2, 1.0, 8)
    updates = rng.standard_normal(60) + noise[:, None] * rng.standard_normal((8, 60))
    return Scene(
        updates, np.arange(8 - f, 8), noise, lambda rows: aggregate(rule, rows, f=f).vector, np.random.default_rng(1)
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_makes_a_row_a_liar(name: str) -> None:
    """Every attack gives one update for each liar, and leaves the scene as it is."""
    seen = scene()
    seen.updates.flags.writeable = False
    assert ATTACKS[name](seen).shape == (2, 60)


@pytest.mark.parametrize(
    "name", ["sign_flip", "scaling", "inner_product", "size_lie", "optimal_inner_product", "adaptive"]
)
def test_the_plain_mean_follows_liars(name: str) -> None:
    """Under the mean, these move the result against the honest mean, as far as they want."""
    seen = scene("coordinate_median")
    lies = ATTACKS[name](seen)
    moved = (seen.updates[:6].sum(axis=0) + lies.sum(axis=0)) / 8
    assert moved @ seen.mean < seen.updates.mean(axis=0) @ seen.mean


@pytest.mark.parametrize("name", ["optimal_alie", "optimal_inner_product", "adaptive"])
@pytest.mark.parametrize("rule", ["trimmed_mean", "geometric_median", "coordinate_median"])
def test_an_optimal_attack_is_not_beaten_by_its_plain_form(name: str, rule: str) -> None:
    """Searching with the rule does at least the harm that the plain attacks with the same direction do."""
    seen = scene(rule)
    plain = "alie" if name == "optimal_alie" else "inner_product"

    def harm(attack: str) -> float:
        return float((seen.mean - seen.outcome(ATTACKS[attack](seen))) @ seen.mean)

    assert harm(name) >= harm(plain) * 0.95


def test_alie_stays_among_the_honest() -> None:
    """A little is enough: the lie is nearer to the honest mean than honest banks are."""
    seen = scene()
    away = np.linalg.norm(ATTACKS["alie"](seen) - seen.mean, axis=1)
    assert (away < np.linalg.norm(seen.honest - seen.mean, axis=1).max()).all()


def test_flipped_labels_are_the_other_ones() -> None:
    """Poisoned rows keep their features and have the opposite label."""
    schema, banks = simulate(3, banks=2, rows=4000)
    table = build_table(schema, next(iter(banks.values())))
    flipped = flip_labels(table)
    assert (flipped.labels + table.labels == 1).all()
    assert flipped.labels.dtype == table.labels.dtype
    assert flipped.features is table.features


@pytest.mark.parametrize("name", ATTACKS)
def test_a_lying_bank_s_update_fits_the_wire(name: str) -> None:
    """Whatever a liar that sees only itself sends is whole numbers of the wire's range; infinity arrives as its end."""
    truth = np.random.default_rng(0).integers(-(2**40), 2**40, 500)
    sent = lie(name, truth, noise_scale=2.0**36)
    arrived = decode_sums(encode_sums(sent, 2.0**36), 2.0**36, 500)
    assert sent.dtype == np.int64
    assert np.abs(sent.astype(float)).max() <= LARGEST
    assert ((np.abs(arrived) >= largest_sum(2.0**36)).any()) == (name in ("infinity", "nan"))
    assert name in ("mimic",) or not np.array_equal(sent, truth)


def test_who_lies_in_the_demonstration() -> None:
    """The second bank and those after it; nobody without an attack, and one sentence for what makes no sense."""
    banks = ["bank-a", "bank-b", "bank-c"]
    assert attacks_of(DemoOptions(), banks) == {}
    assert attacks_of(DemoOptions(attack="alie", attackers=1), banks) == {"bank-b": "alie"}
    for options in (
        DemoOptions(attack="none", attackers=1),
        DemoOptions(attackers=1),
        DemoOptions(attack="alie", attackers=3),
    ):
        with pytest.raises(DataError, match="expected"):
            attacks_of(options, banks)


def test_the_demonstration_tells_who_lied_and_what_it_cost() -> None:
    """Liars who are found out, liars who are not and honest banks that are suspected are told apart; so is the price."""
    console = Console(record=True, width=200, file=io.StringIO())
    rounds = [{"rejected": {}}, {"rejected": {"bank-b": "against_the_others"}}]
    report = {
        "rounds": rounds,
        "attacks": {"bank-b": "alie", "bank-c": "alie"},
        "suspicion": {"bank-a": 6.0, "bank-b": 9.0, "bank-c": 1.0, "bank-d": 0.0},
        "auprc": {"federated": 0.45, "honest": 0.5},
    }
    tell_suspicion(console, report)
    honest, caught, missed, price = console.export_text().splitlines()
    assert honest.startswith("bank-a is suspicious") and honest.endswith("It was honest: a false alarm.")
    assert "bank-b is suspicious (9.0, told from 5 on; refused in 1 of 2 rounds (against_the_others))" in caught
    assert missed.startswith("bank-c lied and is not suspicious (1.0, told from 5 on; never refused)")
    assert "0.450, with nobody lying 0.500: 90 % is kept" in price
    assert "bank-d" not in console.export_text()


def test_no_bank_can_be_made_to_lie() -> None:
    """What a bank installs never mentions attacks: only the one-machine consortium starts a liar."""
    for path in [*(ROOT / "bank_node").rglob("*.py"), *(ROOT / "mintmark").rglob("*.py")]:
        names = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not {name for name in names if name.startswith(("benchmarks", "infra"))}, path
