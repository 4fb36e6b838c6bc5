"""Scoring a Parquet file: the same scores as in memory, whatever the batch, and one sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bank_node.personal import scoring
from bank_node.personal.deployed import assemble
from bank_node.personal.scorer import Scorer
from bank_node.personal.scoring import score_file
from bank_node.personal.stacking import Stack
from mintmark.errors import DataError
from mintmark.models.lightgbm_text import Tree, write
from mintmark.schema import Feature, FeatureKind, FeatureSchema
from mintmark.table import build_table

SCHEMA = FeatureSchema(
    "cards",
    (
        Feature("amount", FeatureKind.LOG, 1, 100),
        Feature("channel", FeatureKind.CATEGORY, 0, 2, categories=("chip", "online", "7")),
    ),
    label="fraud",
    customer="card",
    bank="bank",
    test="test",
)
ROWS = 1000


def stump(feature: int, threshold: float, left: float, right: float) -> str:
    split = (np.array([feature]), np.array([threshold]), np.array([True]), np.array([-1]), np.array([-2]))
    return write([Tree(*split, np.array([left, right]))], names=SCHEMA.names, base_score=-1.0)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """Amount above 50 raises the score in every part, the channel in the global one."""
    deployed = assemble(
        bank="bank-a",
        campaign="cards",
        model_digest="ab" * 32,
        schema_digest=SCHEMA.digest(),
        own=(stump(0, 50.0, -1, 1), stump(0, 20.0, -1, 1)),
        shared=stump(1, 0.5, 0, 2),
        corrected=(stump(0, 80.0, 0, 1),),
        calibration=Stack((0.9,), 0.5),
        stack=Stack((0.5, 0.3, 0.2), 0.1),
        keeps_own=False,
    )
    return Scorer(deployed)


def columns(rows: int = ROWS) -> dict[str, pa.Array]:
    rng = np.random.default_rng(0)
    amounts = rng.lognormal(3, 1.5, rows)
    amounts[::17] = np.nan
    words = rng.choice(np.array(["chip", "online", "7", "sms"], dtype=object), rows)
    words[::13] = None
    return {
        "payment": pa.array([f"p{number}" for number in range(rows)]),
        "amount": pa.array(amounts, from_pandas=True),
        "channel": pa.array(words, pa.string()),
    }


def put(path: Path, **changes: pa.Array | None) -> Path:
    kept = {name: values for name, values in (columns() | changes).items() if values is not None}
    pq.write_table(pa.table(kept), path)
    return path


def test_scores_are_those_of_the_rows_in_memory(scorer: Scorer, tmp_path: Path) -> None:
    """Clipped, coded and missing values as in training; the probability is the log-odds'; ids and order are kept."""
    source = put(tmp_path / "in.parquet")
    scored = score_file(source, tmp_path / "out.parquet", scorer, SCHEMA, keep=("payment",))

    out, raw = pq.read_table(tmp_path / "out.parquet"), pq.read_table(source)
    rest = {"fraud": np.arange(ROWS) % 2, "card": np.arange(ROWS), "test": np.zeros(ROWS)}
    own = build_table(SCHEMA, {"amount": raw["amount"].to_numpy(), "channel": raw["channel"].to_numpy(), **rest})
    assert out.column_names == ["payment", "score", "log_odds"]
    assert out["payment"].equals(raw["payment"])
    assert (out["log_odds"].to_numpy() == scorer.raw(own.features)).all()
    assert out["score"].to_numpy() == pytest.approx(1 / (1 + np.exp(-scorer.raw(own.features))))
    assert scored.rows == ROWS
    assert scored.outside["channel"] == raw["channel"].to_pylist().count("sms")


def test_batches_change_nothing(scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file read in many batches gives the bytes' same table as one read whole."""
    source = put(tmp_path / "in.parquet")
    score_file(source, tmp_path / "whole.parquet", scorer, SCHEMA, keep=("payment",), reasons=2)
    monkeypatch.setattr(scoring, "BATCH_ROWS", 37)
    score_file(source, tmp_path / "parts.parquet", scorer, SCHEMA, keep=("payment",), reasons=2)
    assert pq.read_table(tmp_path / "whole.parquet").equals(pq.read_table(tmp_path / "parts.parquet"))


def test_reasons_are_what_raised_the_score_most(scorer: Scorer, tmp_path: Path) -> None:
    """A large payment online has both reasons, largest first; where nothing raised the score there is none."""
    large = {"amount": pa.array([90.0, 2.0]), "channel": pa.array(["online", "chip"]), "payment": pa.array(["a", "b"])}
    put(tmp_path / "in.parquet", **large)
    score_file(tmp_path / "in.parquet", tmp_path / "out.parquet", scorer, SCHEMA, reasons=2)
    first, second = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert {first["reason_1"], first["reason_2"]} == {"amount", "channel"}
    assert first["reason_1_log_odds"] >= first["reason_2_log_odds"] > 0
    assert second["reason_1"] is None
    assert second["reason_1_log_odds"] is None


def test_dictionaries_integers_and_empty_columns_are_read(scorer: Scorer, tmp_path: Path) -> None:
    """Categories may be dictionaries or numbers' words, numbers may be integers, and a column may be all missing."""
    source = put(tmp_path / "in.parquet", channel=columns()["channel"].dictionary_encode(), amount=pa.nulls(ROWS))
    assert score_file(source, tmp_path / "out.parquet", scorer, SCHEMA).rows == ROWS
    source = put(tmp_path / "in.parquet", channel=pa.array(np.full(ROWS, 7)), amount=pa.array(np.arange(ROWS)))
    assert score_file(source, tmp_path / "out.parquet", scorer, SCHEMA).outside["channel"] == 0


@pytest.mark.parametrize(
    ("changes", "keep", "sentence"),
    [
        ({"amount": None}, (), "expected the columns amount, channel, got no amount"),
        ({"amount": pa.array(["1"] * ROWS)}, (), "column amount: expected kind log, got string"),
        ({"channel": pa.array([[1]] * ROWS)}, (), "column channel: expected kind category, got list"),
        ({"amount": pa.array(np.full(ROWS, np.inf))}, (), "column amount: expected finite or missing values, got 1000"),
        ({}, ("id",), "expected the columns amount, channel, id, got no id"),
        ({"score": pa.array(np.ones(ROWS))}, ("score",), "expected other columns to keep than score"),
    ],
)
def test_a_wrong_file_is_one_sentence_and_leaves_the_output_alone(
    scorer: Scorer, tmp_path: Path, changes: dict[str, pa.Array | None], keep: tuple[str, ...], sentence: str
) -> None:
    """What is wrong is said with the column; yesterday's scores are still there and nothing else is."""
    source, target = put(tmp_path / "in.parquet", **changes), tmp_path / "out.parquet"
    target.write_bytes(b"yesterday")
    with pytest.raises(DataError, match=sentence):
        score_file(source, target, scorer, SCHEMA, keep=keep)
    assert target.read_bytes() == b"yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]


def test_an_interrupt_leaves_nothing_half_written(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the second batch: no output, no part of one."""
    source = put(tmp_path / "in.parquet")
    monkeypatch.setattr(scoring, "BATCH_ROWS", 400)
    calls = iter([None, KeyboardInterrupt])
    real = scorer.raw

    def interrupted(features: np.ndarray) -> np.ndarray:
        if (error := next(calls)) is not None:
            raise error
        return real(features)

    monkeypatch.setattr(scorer, "raw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_file(source, tmp_path / "out.parquet", scorer, SCHEMA)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_not_parquet_and_its_own_output_are_refused(scorer: Scorer, tmp_path: Path) -> None:
    """A text file, and a file that would overwrite itself."""
    (tmp_path / "in.txt").write_text("amount,channel\n")
    with pytest.raises(DataError, match="expected a readable Parquet file"):
        score_file(tmp_path / "in.txt", tmp_path / "out.parquet", scorer, SCHEMA)
    source = put(tmp_path / "in.parquet")
    with pytest.raises(DataError, match="expected another file"):
        score_file(source, source, scorer, SCHEMA)
