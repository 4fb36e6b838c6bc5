"""Back-tests and drift, at a bank and at the coordinator: figures against scikit-learn's, and what is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from consortium import SCHEMA, START, Consortium, payments
from sklearn.metrics import average_precision_score, roc_curve
from typer.testing import CliRunner

from bank_node.backtest import ALL_ROWS, divide, figures_of
from bank_node.cli import app as bank_line
from bank_node.table import load_table
from flows import drift_cli
from flows.cli import app as coordinator_line
from mintmark import s3
from mintmark.champion import Champion
from mintmark.errors import DataError, MintmarkError, ProtocolError
from mintmark.evaluation_record import EvaluationRecord, Figure, Figures
from mintmark.mailbox import champion_key, evaluation_key
from mintmark.table import Table
from tasks import coordinator as coordinators

DATED = replace(SCHEMA, time="day")
RUNNER = CliRunner(env={"COLUMNS": "220", "NO_COLOR": "1"})


def dated(number: int, rows: int) -> dict[str, np.ndarray]:
    """Payments of three weeks from Monday, 5 April 2021."""
    days = np.datetime64("2021-04-05") + np.random.default_rng(number).integers(0, 21, rows)
    return payments(rows, seed=number, prefix=number * 10**6) | {"day": days}


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """Two evaluated campaigns that were champion one after the other, and a rollback to the first."""
    consortium = Consortium(tmp_path_factory.mktemp("banks"), data=dated, schema=DATED)
    models = {}
    for name in ("cards", "cards-2"):
        models[name] = consortium.run(consortium.campaign(name=name, epsilon=2.0), 4, name)
    for number, name in enumerate(("cards", "cards-2", "cards"), 1):
        champion = Champion(
            number=number,
            campaign=name,
            model_digest=models[name],
            schema_digest=DATED.digest(),
            decision="d" * 64,
            promoted_at=START + timedelta(days=number),
        )
        consortium.store.put_once(champion_key(number), champion.signed(consortium.coordinator.signer))
        record = evaluation(name, models[name], seed=number)
        consortium.store.put_once(evaluation_key(name), record.signed(consortium.coordinator.signer))
    return consortium


def evaluation(campaign: str, model_digest: str, seed: int) -> EvaluationRecord:
    """A signed evaluation as the coordinator's would be."""
    rng, none = np.random.default_rng(seed), Figure(value=None, low=None, high=None)
    half = Figure(value=0.5, low=0.4, high=0.6)
    figures = Figures(
        rows=Figure(value=2000.0, low=1990.0, high=2010.0),
        positives=half,
        auprc=half,
        auroc=half,
        recall_at_false_positives=half,
        recall_at_alerts=none,
        calibration_error=half,
        value_detected=none,
        false_alarm_rate=none,
    )
    honest, frauds = rng.poisson(100 * np.exp(-np.arange(32) / 5.0)), rng.poisson(10, 32)
    return EvaluationRecord(
        campaign=campaign,
        model_digest=model_digest,
        plan_digest="b" * 64,
        manifest_digest="c" * 64,
        score_counts=(tuple(honest.astype(float).tolist()), tuple(frauds.astype(float).tolist())),
        noise=0.0,
        threshold=None,
        pooled=figures,
        banks={},
        groups={},
        weeks={"2021-w14": figures, "2021-w15": figures},
        feature_counts={"amount": (10.0, 400.0 * seed, 300.0)},
        feature_noise=5.0,
    )


@pytest.fixture
def home(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(s3, "S3Store", lambda _: consortium.store)
    return consortium.banks["bank-0"].home.path


def held_out(rows: int = 4000) -> tuple[Table, np.ndarray]:
    """Rows of several per customer, and scores with ties."""
    rng = np.random.default_rng(5)
    labels = (rng.random(rows) < 0.05).astype(np.uint8)
    customers = np.sort(rng.integers(0, 900, rows))
    table = Table(
        SCHEMA,
        np.zeros((rows, 3)),
        labels,
        np.unique(customers, return_inverse=True)[1],
        np.ones(rows, bool),
        (0.0,) * 3,
    )
    return table, np.round(rng.normal(size=rows) + 2 * labels, 1)


def test_figures_are_scikit_learns() -> None:
    """AUPRC as average_precision_score has it, recall and alerts as read off roc_curve, both inside their intervals."""
    table, scores = held_out()
    found = figures_of(table, scores)
    assert found.auprc.value == pytest.approx(average_precision_score(table.labels, scores))
    false_rate, recall, thresholds = roc_curve(table.labels, scores, drop_intermediate=False)
    at = np.flatnonzero(false_rate <= 0.005)[-1]
    assert found.recall.value == pytest.approx(recall[at])
    assert found.alerts == (scores >= thresholds[at]).sum()
    assert found.auprc.low < found.auprc.value < found.auprc.high  # type: ignore[operator]
    assert (found.rows, found.frauds) == (4000, table.labels.sum())


def test_intervals_are_those_of_fresh_samples() -> None:
    """Drawn anew from the population, AUPRC varies about as much as the interval says."""
    rng, drawn = np.random.default_rng(7), []
    for _ in range(200):
        labels = (rng.random(4000) < 0.05).astype(int)
        drawn.append(average_precision_score(labels, rng.normal(size=4000) + 2 * labels))
    table, scores = held_out()
    found = figures_of(table, scores).auprc
    assert found.high - found.low == pytest.approx(4 * np.std(drawn), rel=0.35)  # type: ignore[operator]


def test_without_frauds_nothing_is_said() -> None:
    """A week without a fraud has rows and no figures."""
    table, scores = held_out()
    found = figures_of(table.part(table.labels == 0), scores[table.labels == 0])
    assert (found.frauds, found.auprc.value, found.recall.low) == (0, None, None)


def test_rows_are_told_by_week_and_young_ones_left_out(consortium: Consortium) -> None:
    """Monday to Sunday is one ISO week; with a week's delay the newest is gone; only held-out rows are there."""
    table = load_table(consortium.banks["bank-0"].home.data, DATED)
    weeks = divide(table)
    assert list(weeks) == ["2021-w14", "2021-w15", "2021-w16"]
    assert sum(map(len, weeks.values())) == table.test.sum()
    assert list(divide(table, labels_after=7)) == ["2021-w14", "2021-w15"]
    with pytest.raises(DataError, match="that are 30 days old, got none"):
        divide(table, labels_after=30)


def test_without_a_time_column_all_rows_are_one(consortium: Consortium) -> None:
    """And a delay cannot be kept: said in a sentence."""
    table = replace(load_table(consortium.banks["bank-0"].home.data, DATED), days=np.empty(0, np.int32))
    assert list(divide(table)) == [ALL_ROWS]
    with pytest.raises(DataError, match="expected a time column"):
        divide(table, labels_after=7)


def test_a_bank_tests_every_past_champion(home: Path) -> None:
    """`mintmark-bank backtest`: both models once, whatever was rolled back; figures and a picture in its folder."""
    shown = RUNNER.invoke(bank_line, ["backtest", "--home", str(home), "--labels-after", "7"])
    assert shown.exit_code == 0, shown.output
    found = json.loads((home / "checks" / "backtest.json").read_text())
    assert {name: list(weeks) for name, weeks in found["models"].items()} == {
        name: ["2021-w14", "2021-w15"] for name in ("champion 1", "champion 2")
    }
    assert "2021-w14" in shown.output
    assert (home / "checks" / "backtest.png").read_bytes().startswith(b"\x89PNG")


def test_a_bank_sees_what_changed(home: Path, consortium: Consortium, tmp_path: Path) -> None:
    """`mintmark-bank drift`: amounts ten times as large drift strongly, hours do not; no label is needed."""
    month = dated(9, 3000)
    columns = {"amount": np.minimum(month["amount"] * 10, 1000), "hour": month["hour"], "payments": month["payments"]}
    pq.write_table(
        pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()}), tmp_path / "m"
    )
    shown = RUNNER.invoke(bank_line, ["drift", str(tmp_path / "m"), "--home", str(home)])
    assert shown.exit_code == 0, shown.output
    found = json.loads((home / "checks" / "drift.json").read_text())["drift"]
    assert found["amount"]["drift"] == "strong"
    assert list(found)[:2] == ["score", "amount"]
    assert {found["hour"]["drift"], found["payments"]["drift"]} == {"none"}
    assert (home / "checks" / "drift.png").read_bytes().startswith(b"\x89PNG")
    pq.write_table(pa.table({"amount": [1.0]}), tmp_path / "m")
    shown = RUNNER.invoke(bank_line, ["drift", str(tmp_path / "m"), "--home", str(home)])
    assert "got no hour, payments" in str(shown.exception)


@pytest.fixture
def coordinator(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> Iterator[Consortium]:
    monkeypatch.setattr(coordinators, "open_coordinator", lambda _: consortium.coordinator)
    return consortium


def test_the_coordinator_tells_past_champions_by_week(coordinator: Consortium, tmp_path: Path) -> None:
    """`mintmark backtest`: every model that was champion, once, from its signed record."""
    files = ["--plot", str(tmp_path / "w.png"), "--json", str(tmp_path / "w.json")]
    shown = RUNNER.invoke(coordinator_line, ["backtest", "--home", "x", *files])
    assert shown.exit_code == 0, shown.output
    found = json.loads((tmp_path / "w.json").read_text())["champions"]
    assert {name: list(weeks) for name, weeks in found.items()} == {
        name: ["all weeks", "2021-w14", "2021-w15"] for name in ("1: cards", "2: cards-2")
    }
    assert "0.500 (0.400 to 0.600)" in shown.output
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")


def test_the_coordinator_tells_drift_between_campaigns(coordinator: Consortium, tmp_path: Path) -> None:
    """`mintmark drift`: two samples of one population show none, and figures go to a file."""
    shown = RUNNER.invoke(coordinator_line, ["drift", "cards", "cards-2", "--home", "x", "--json", str(tmp_path / "d")])
    assert shown.exit_code == 0, shown.output
    found = json.loads((tmp_path / "d").read_text())["drift"]
    assert list(found["scores"]) == ["all rows", "honest rows", "frauds"]
    assert {own["drift"] for own in found["scores"].values()} == {"none"}
    assert list(found["features"]) == ["amount"]
    assert found["features"]["amount"]["drift"] != "none"  # 56 % of the rows, then 72 %


def test_only_signed_records_of_the_champions_count(coordinator: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model's evaluation, another campaign's, or none: an error, not a figure."""
    for record in (evaluation("cards", "e" * 64, 1), evaluation("cards-2", "e" * 64, 1)):
        message = record.signed(coordinator.coordinator.signer)
        with monkeypatch.context() as patch:
            patch.setattr(coordinator.store, "get", forged(coordinator, message))
            with pytest.raises(ProtocolError, match=r"another one's record|expected the evaluation of campaign cards"):
                drift_cli.champion_records(coordinator.coordinator)
    with pytest.raises(MintmarkError, match="expected an object at public/campaigns/cards-3/evaluation"):
        drift_cli.record_of(coordinator.coordinator, "cards-3")


def forged(consortium: Consortium, message: bytes):  # type: ignore[no-untyped-def]
    real = type(consortium.store).get

    def get(key: str, *, max_bytes: int) -> bytes | None:
        return message if key == evaluation_key("cards") else real(consortium.store, key, max_bytes=max_bytes)

    return get
