"""The ledger for people: a statement whose sums are right, files that spreadsheets read, a plot, and exit codes."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from consortium import Consortium
from typer.testing import CliRunner

from bank_node.books import days, export, spending_plot, statement
from bank_node.cli import app
from mintmark.errors import DataError
from mintmark.plan import PrivacyUnit
from mintmark.privacy.accountant import GaussianRelease, epsilon
from mintmark.privacy.ledger import EntryKind, Ledger, entry_after

NOON = datetime(2025, 12, 31, 12, 0, tzinfo=UTC)
RELEASE = GaussianRelease(2**26, 2.0**29, 10)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A bank whose ledger holds a charge on the last day of 2025 and, of two campaigns, three in 2026."""
    home = Consortium(tmp_path, sizes=(20, 20)).banks["bank-0"].home
    with Ledger.open(home.ledger, home.anchor) as ledger:
        for number, (campaign, after) in enumerate([("old", 0), ("cards", 1), ("cards", 3), ("loans", 3)]):
            facts = {
                "campaign": campaign,
                "round": number,
                "attempt": 0,
                "roster_version": 1,
                "plan_digest": f"{number:064x}",
                "release_digest": f"{100 + number:064x}",
                "unit": PrivacyUnit.CUSTOMER,
                "campaign_epsilon": 2.0,
                "campaign_delta": 1e-6,
                "sensitivity": RELEASE.sensitivity,
                "noise_scale": RELEASE.noise_scale,
                "coordinates": RELEASE.coordinates,
            }
            at = NOON + timedelta(days=after)
            ledger.append(entry_after(ledger, EntryKind.CHARGE, at, **facts))
            if campaign != "loans":
                ledger.append(entry_after(ledger, EntryKind.DRAWN, at, **facts))
                (home.outbox / f"{100 + number:064x}.sums").write_bytes(b"")
    return home.path


def ledger_of(home: Path) -> Ledger:
    with Ledger.open(home / "ledger" / "ledger.jsonl", home / "anchor" / "ledger.anchor") as ledger:
        return ledger


def test_statement_adds_up(home: Path) -> None:
    """Each line has the price of its release alone, with its campaign's and with its year's before it."""
    lines = statement(ledger_of(home), delta=1e-6)
    one, two, three = (epsilon([RELEASE] * count, delta=1e-6) for count in (1, 2, 3))
    assert [line.epsilon for line in lines] == [one] * 4
    assert [line.epsilon_campaign for line in lines] == [one, one, two, one]
    assert [line.epsilon_year for line in lines] == [one, one, two, three]
    assert [line.drawn for line in lines] == [True, True, True, False]
    assert [line.mu for line in lines] == [0.125] * 4


def test_days_begin_anew_each_year(home: Path) -> None:
    """One point a day with charges: the sum of its calendar year, and the campaigns of that day."""
    one, three = (epsilon([RELEASE] * count, delta=1e-6) for count in (1, 3))
    assert [(str(day.day), day.campaigns, day.epsilon) for day in days(ledger_of(home), delta=1e-6)] == [
        ("2025-12-31", ("old",), one),
        ("2026-01-01", ("cards",), one),
        ("2026-01-03", ("cards", "loans"), three),
    ]


def test_export_is_read_back(home: Path, tmp_path: Path) -> None:
    """CSV and JSON hold the same lines, and another ending is refused."""
    lines = statement(ledger_of(home), delta=1e-6)
    export(lines, tmp_path / "a.json")
    export(lines, tmp_path / "a.csv")
    from_json = json.loads((tmp_path / "a.json").read_text())
    with open(tmp_path / "a.csv", newline="") as file:
        from_csv = list(csv.DictReader(file))
    assert [{key: str(value) for key, value in row.items()} for row in from_json] == from_csv
    assert from_json[2]["campaign"] == "cards"
    with pytest.raises(DataError, match=r"\.csv or \.json"):
        export(lines, tmp_path / "a.xls")


def test_plot_shows_every_year_under_the_budget(home: Path, tmp_path: Path) -> None:
    """A step line a year from 0, with a point a day, and the budget above it."""
    from bank_node.policy import read_policy

    budget = read_policy(home / "policy.toml").budget
    points = days(ledger_of(home), delta=1e-6)
    figure = spending_plot(points, budget, "bank-0")
    old, new, limit = figure.axes[0].lines
    assert list(old.get_ydata()) == [0.0, points[0].epsilon]
    assert list(new.get_ydata()) == [0.0, points[1].epsilon, points[2].epsilon]
    assert set(limit.get_ydata()) == {budget.epsilon_per_year}
    figure.savefig(tmp_path / "spent.png")
    assert (tmp_path / "spent.png").stat().st_size > 5_000


def test_commands(home: Path, tmp_path: Path) -> None:
    """show, verify and export succeed on a sound ledger; on a cut one each ends with 1 and writes nothing."""
    run, at = CliRunner(), ["--home", str(home)]
    shown = run.invoke(app, ["ledger", "show", *at, "--plot", str(tmp_path / "spent.png")])
    assert shown.exit_code == 0, shown.output
    assert "campaign cards" in shown.output
    assert "2026-01-03" in shown.output
    verified = run.invoke(app, ["ledger", "verify", *at])
    assert verified.exit_code == 0
    assert "4 charges, 3 drawn" in verified.output
    assert ledger_of(home).head in verified.output
    assert run.invoke(app, ["ledger", "export", str(tmp_path / "all.csv"), *at]).exit_code == 0
    ledger = home / "ledger" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-1])
    for command in (["show"], ["verify"], ["export", str(tmp_path / "cut.csv")]):
        assert run.invoke(app, ["ledger", *command, *at]).exit_code == 1
    assert not (tmp_path / "cut.csv").exists()


def test_verify_names_what_the_outbox_lost(home: Path) -> None:
    """A drawn release whose sums are gone fails verification: the bank will sit that round out."""
    next((home / "outbox").glob("*.sums")).unlink()
    assert CliRunner().invoke(app, ["ledger", "verify", "--home", str(home)]).exit_code == 1
