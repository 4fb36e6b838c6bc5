"""The coordinator's own rows: scikit-learn's figures, a paired comparison, what record and gate make of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from consortium import SCHEMA, Consortium, payments
from records import LIMITS, NOW, People, figure
from scipy.stats import binom
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mintmark.approval import Action
from mintmark.campaign import learner_of, replay
from mintmark.champion import Champion
from mintmark.decision import Check
from mintmark.errors import DataError
from mintmark.evaluation_record import ReferenceComparison
from mintmark.mailbox import champion_key
from mintmark.models.lightgbm_text import load
from mintmark.promotion import no_worse_on_reference
from mintmark.reference import compare, judge
from mintmark.settings import StorageKey
from tasks.coordinator import Coordinator, create_home, open_coordinator
from tasks.evaluation import evaluate_scores
from tasks.promotion import promote, question_on
from tasks.reference import read_reference

ROWS = 4_000


def scored(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the scores of a good model and of one that is the same but for some noise; many scores are tied."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.05).astype(np.uint8)
    good = np.round(labels * 1.5 + rng.standard_normal(rows), 1)
    return labels, good, np.round(good + 0.2 * rng.standard_normal(rows), 1)


@pytest.mark.parametrize("seed", [1, 2])
def test_figures_are_scikit_learns(seed: int) -> None:
    """Exactly, ties included; recall where at most .5 % of the honest rows are flagged."""
    labels, scores, _ = scored(ROWS, seed)
    found = judge(labels, scores, "0" * 64, np.random.default_rng(seed))
    assert found.auprc.value == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert found.auroc.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    false_rate, recall, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert found.recall_at_false_positives.value == pytest.approx(recall[false_rate <= 0.005].max())
    assert found.auprc.low is not None
    assert found.auprc.low < found.auprc.value < found.auprc.high
    assert (found.rows, found.positives) == (ROWS, labels.sum())


def test_rows_drawn_together_narrow_the_difference_and_hold_the_truth() -> None:
    """Of 60 samples, as many intervals hold the population's difference as 95 % makes likely; they are less than half as
    wide as that of two samples drawn apart."""
    labels, one, other = scored(400_000, 9)
    truth = average_precision_score(labels, one) - average_precision_score(labels, other)
    held = 0
    for seed in range(60):
        own, good, worse = scored(ROWS, 100 + seed)
        found = compare(own, good, worse, "0" * 64, np.random.default_rng(seed))
        held += found.difference.low <= truth <= found.difference.high
    assert held >= binom.ppf(1e-4, 60, 0.95)
    apart = np.hypot(found.challenger.half_width, found.champion.half_width)
    assert found.difference.half_width < apart / 2
    assert found.difference.value == pytest.approx(found.challenger.value - found.champion.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    """Two campaigns run to their ends, and a coordinator with a reference set."""
    folder = tmp_path_factory.mktemp("consortium")
    consortium = Consortium(folder / "banks", sizes=(600, 400, 300))
    columns = payments(ROWS, seed=77)
    table = {name: columns[name] for name in (*SCHEMA.names, SCHEMA.label)}
    pq.write_table(pa.table({name: pa.array(values) for name, values in table.items()}), folder / "reference.parquet")
    coordinator = dataclasses.replace(consortium.coordinator, reference=folder / "reference.parquet")
    for name, learner in (("older", "logistic_regression"), ("cards", "guided_boosting")):
        model = consortium.run(consortium.campaign(name=name, learner=learner), 4, name)
        evaluate_scores(coordinator, name, model)
    return coordinator


def test_a_record_tells_the_exact_figures(finished: Coordinator) -> None:
    """Those that the model's LightGBM text gives on the very rows of the file."""
    question = question_on(finished, "cards", Action.PROMOTE)
    record = evaluate_scores(finished, "cards", question.model)
    artifact = finished.model("cards", question.model)
    booster = load(learner_of(artifact.campaign).export(replay(artifact, finished.schema)))
    columns = payments(ROWS, seed=77)
    scores = booster.predict(np.column_stack([columns[name] for name in SCHEMA.names]), raw_score=True)
    assert record.reference is not None
    assert record.reference.auprc.value == pytest.approx(average_precision_score(columns["fraud"], scores), abs=1e-9)
    assert record.reference.rows == ROWS
    without = dataclasses.replace(finished, reference=None)
    assert read_reference(without) is None


def test_challenger_and_champion_are_compared_on_it(finished: Coordinator) -> None:
    """The decision tells the difference of the two models' exact figures, and of which file."""

    def checked(campaign: str) -> Check:
        decision = promote(finished, campaign, LIMITS, People().list, NOW).decision
        return next(one for one in decision.checks if one.name == "AUPRC on the reference set")

    assert "no champion yet" in checked("older").got
    champion = Champion(
        number=1,
        campaign="older",
        model_digest=question_on(finished, "older", Action.PROMOTE).model,
        schema_digest=finished.schema.digest(),
        decision="d" * 64,
        promoted_at=NOW,
    )
    finished.store.put_once(champion_key(1), champion.signed(finished.signer))
    check = checked("cards")
    exact = {}
    for campaign in ("older", "cards"):
        record = evaluate_scores(finished, campaign, question_on(finished, campaign, Action.PROMOTE).model)
        assert record.reference is not None
        exact[campaign] = record.reference.auprc.value
    assert check.value == pytest.approx(exact["cards"] - exact["older"], abs=1e-9)
    assert f"{ROWS:,} rows" in check.got


def test_the_gate_judges_the_low_end(finished: Coordinator) -> None:
    """Surely no worse than the margin allows passes, else not; what is not defined refuses."""
    from test_promotion import GOOD

    def passes(difference) -> bool:  # type: ignore[no-untyped-def]
        compared = ReferenceComparison(
            file="0" * 64, rows=10, positives=2, challenger=figure(0.5), champion=figure(0.5), difference=difference
        )
        return no_worse_on_reference(dataclasses.replace(GOOD, reference=compared), LIMITS).passed

    assert passes(figure(-0.029))
    assert not passes(figure(-0.031))
    assert not passes(figure(0.0).model_copy(update={"value": None, "low": None, "high": None}))
    assert no_worse_on_reference(GOOD, LIMITS).passed


def test_a_reference_set_that_is_not_one_is_said_in_a_sentence(finished: Coordinator, tmp_path: Path) -> None:
    """No such column, no frauds, no Parquet: the file's name and what was expected."""
    columns = payments(50, seed=1)
    names = (*SCHEMA.names, SCHEMA.label)
    for spoiled, sentence in (
        ({name: columns[name] for name in SCHEMA.names}, "none named fraud"),
        ({name: columns[name] for name in names} | {"fraud": np.zeros(50)}, "fraud = 1"),
    ):
        pq.write_table(pa.table({name: pa.array(values) for name, values in spoiled.items()}), tmp_path / "r.parquet")
        with pytest.raises(DataError, match=f"r.parquet: .*{sentence}"):
            read_reference(dataclasses.replace(finished, reference=tmp_path / "r.parquet"))
    (tmp_path / "r.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="readable Parquet"):
        read_reference(dataclasses.replace(finished, reference=tmp_path / "r.parquet"))


def test_a_file_that_is_not_there_is_said_before_anything_begins(finished: Coordinator, tmp_path: Path) -> None:
    """Opening the coordinator's folder names the file that `coordinator.toml` names and nobody has put there."""
    settings = finished.settings.model_copy(update={"reference": "rows.parquet"})
    create_home(tmp_path / "home", settings, SCHEMA, StorageKey(access_key="a", secret_key="b"))
    with pytest.raises(DataError, match=r"reference set at .*rows\.parquet"):
        open_coordinator(tmp_path / "home")
