"""Step 11 without a server: runs, versions and what is loaded again, in an MLflow of its own."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from consortium import SCHEMA, Consortium, payments

from mintmark.campaign import learner_of, replay
from mintmark.errors import ProtocolError
from mintmark.models.lightgbm_text import load
from mintmark.table import build_table
from tasks import register as registering
from tasks.coordinator import Coordinator
from tasks.evaluation import evaluate_scores
from tasks.register import load_registered, register


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow that knows nothing yet: making its tables takes seconds, copying them none."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def consortium(tmp_path: Path, tables: Path, monkeypatch: pytest.MonkeyPatch) -> Consortium:
    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts without a server
    shutil.copy(tables, tmp_path / "mlflow.db")
    return Consortium(tmp_path / "banks", sizes=(900, 600, 500))


def finished(consortium: Consortium, learner: str) -> tuple[Coordinator, str]:
    """A settled campaign's coordinator, with an MLflow in a file, and the model."""
    model = consortium.run(consortium.campaign(learner=learner), 4)
    settings = consortium.coordinator.settings.model_copy(update={"mlflow": f"sqlite:///{Path.cwd()}/mlflow.db"})
    return dataclasses.replace(consortium.coordinator, settings=settings), model


def everything(coordinator: Coordinator) -> list[Any]:
    """All runs, models and versions, with all they say but when they were last touched."""
    import mlflow

    client = mlflow.MlflowClient(coordinator.settings.mlflow)
    experiment = client.get_experiment_by_name("test")
    runs = [run.to_dictionary() for run in client.search_runs([experiment.experiment_id])]
    history = [
        (metric.key, metric.step, metric.value)
        for run in runs
        for name in run["data"]["metrics"]
        for metric in client.get_metric_history(run["info"]["run_id"], name)
    ]
    versions = client.search_model_versions("name = 'test-fraud'")
    models = client.search_logged_models([experiment.experiment_id])
    aliases = client.get_registered_model("test-fraud").aliases
    return [runs, history, [(one.version, one.tags) for one in versions], [one.model_id for one in models], aliases]


@pytest.mark.parametrize("learner", ["logistic_regression", "guided_boosting"])
def test_registered_once_whole_and_loaded_only_as_signed(consortium: Consortium, learner: str) -> None:
    """Twice changes nothing; a run a round; the records beside it; no pickle; what is loaded scores as the mailbox's model,
    and a file that was changed is not loaded."""
    import mlflow

    coordinator, model = finished(consortium, learner)
    record = evaluate_scores(coordinator, "cards", model)
    assert evaluate_scores(coordinator, "cards", model) == record
    registered = register(coordinator, "cards", model, record, "http://127.0.0.1:1/run")
    before = everything(coordinator)
    assert register(coordinator, "cards", model, record) == registered
    assert everything(coordinator) == before

    client = mlflow.MlflowClient(coordinator.settings.mlflow)
    run = client.get_run(registered.run_id)
    assert run.data.metrics["evaluation/rows"] == round(record.pooled.rows.value or 0, 4)
    assert [metric.step for metric in client.get_metric_history(registered.run_id, "rounds/accepted")] == [0, 1, 2, 3]
    children = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{registered.run_id}'")
    assert len(children) == 4
    assert {entry.path for entry in client.list_artifacts(registered.run_id)} >= {
        "curves-by-bank.png",
        "curves.png",
        "lineage.json",
        "signed",
    }
    assert not [path for path in Path.cwd().rglob("*") if path.suffix in (".pkl", ".pickle")]

    artifact = coordinator.model("cards", model)
    text = learner_of(artifact.campaign).export(replay(artifact, SCHEMA))
    features = build_table(SCHEMA, payments(500, seed=8)).features
    loaded = load_registered(coordinator, "models:/test-fraud@challenger")
    scores = loaded.predict_proba(features)[:, 1] if learner == "logistic_regression" else loaded.predict(features)
    np.testing.assert_allclose(scores, load(text).predict(features), atol=1e-9)

    (stored,) = [path for path in Path.cwd().rglob("model.*") if path.suffix in (".lgb", ".skops")]
    stored.write_bytes(stored.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(ProtocolError, match="signed registration"):
        load_registered(coordinator, registered.uri)
    description = stored.parent / "MLmodel"
    description.write_text(description.read_text().replace("loader_module: mlflow.", "loader_module: evil."))
    with pytest.raises(ProtocolError, match="no code"):
        load_registered(coordinator, registered.uri)


def test_crashes_between_steps_are_made_good(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash after each step in turn; what was done before is found again: one run, one stored model, one version."""
    coordinator, model = finished(consortium, "logistic_regression")
    record = evaluate_scores(coordinator, "cards", model)

    def crash(*_: object) -> None:
        raise RuntimeError("crash")

    for step in ("store_model", "write_run", "read_model_file", "_point"):
        with monkeypatch.context() as patched:
            patched.setattr(registering, step, crash)
            with pytest.raises(RuntimeError, match="crash"):
                register(coordinator, "cards", model, record)
    register(coordinator, "cards", model, record)
    runs, _, versions, models, aliases = everything(coordinator)
    assert (len(runs), len(versions), len(models), aliases) == (1 + 4, 1, 1, {"challenger": 1})


def test_mlflow_away_is_no_failure(consortium: Consortium) -> None:
    """Nobody at MLflow's address: no exception, no registration, and the campaign's record is there all the same."""
    model = consortium.run(consortium.campaign(), 4)
    record = evaluate_scores(consortium.coordinator, "cards", model)
    assert registering.register_if_reachable(consortium.coordinator, "cards", model, record) is None
    assert not consortium.store.list("public/campaigns/cards/registration")
    assert consortium.store.list("public/campaigns/cards/evaluation")
