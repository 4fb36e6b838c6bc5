"""`mintmark-bank personalise`, `explain` and `score`, as a bank's platform team runs them, on a mailbox in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from consortium import Consortium
from typer.testing import CliRunner

from bank_node.cli import app
from mintmark import s3
from mintmark.errors import MintmarkError

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bank that has just made the model to deploy."""
    consortium = Consortium(tmp_path_factory.mktemp("banks"))
    consortium.plan(consortium.run(consortium.campaign(), rounds=3))
    home = consortium.banks["bank-0"].home.path
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3, "S3Store", lambda _: consortium.store)
        shown = RUNNER.invoke(app, ["personalise", "--home", str(home), "--campaign", "cards", "--trials", "1"])
    assert shown.exit_code == 0, shown.output
    for word in ("own", "global", "deployed", "95 % interval", "ahead in"):
        assert word in shown.output
    return home


def test_personalise_writes_model_report_and_picture(home: Path) -> None:
    """Everything is in deployed/, the report has the three figures, and nothing of it went to the mailbox."""
    report = json.loads((home / "deployed" / "report.json").read_text())
    assert sorted(report["auprc"]) == ["deployed", "global", "own"]
    assert all(0 <= figure <= 1 for figure in report["auprc"].values())
    assert report["gain"]["deployed"]["low"] <= report["gain"]["deployed"]["high"]
    assert report["keeps_own"] == (report["weights"] == {"own": 1, "global": 0, "corrected": 0})
    assert (home / "deployed" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_explain_writes_table_and_picture(home: Path) -> None:
    """Every feature has its place in both models."""
    shown = RUNNER.invoke(app, ["explain", "--home", str(home)])
    assert shown.exit_code == 0, shown.output
    importance = json.loads((home / "deployed" / "explanation.json").read_text())
    assert sorted(importance) == ["amount", "hour", "payments"]
    assert all(name in shown.output for name in importance)
    assert (home / "deployed" / "explanation.png").read_bytes().startswith(b"\x89PNG")


def test_score_writes_scores_beside_what_is_kept(home: Path, tmp_path: Path) -> None:
    """The bank's own file, scored with reasons and its card column."""
    arguments = [str(home / "data" / "transactions.parquet"), "--out", str(tmp_path / "out.parquet")]
    shown = RUNNER.invoke(app, ["score", *arguments, "--home", str(home), "--keep", "card", "--reasons", "1"])
    assert shown.exit_code == 0, shown.output
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.column_names == ["card", "score", "log_odds", "reason_1", "reason_1_log_odds"]
    assert f"Scored {len(out):,} rows" in shown.output


def test_what_is_missing_is_one_sentence(home: Path, tmp_path: Path) -> None:
    """No file, and no deployed model: the domain's error, which the command line says in one line with exit code 1."""
    missing = ["score", str(tmp_path / "none.parquet"), "--out", str(tmp_path / "out.parquet"), "--home", str(home)]
    shown = RUNNER.invoke(app, missing)
    assert isinstance(shown.exception, MintmarkError)
    assert "expected a readable Parquet file" in str(shown.exception)
    (home / "deployed").rename(home / "elsewhere")
    shown = RUNNER.invoke(app, ["explain", "--home", str(home)])
    (home / "elsewhere").rename(home / "deployed")
    assert "make it with mintmark-bank personalise" in str(shown.exception)
