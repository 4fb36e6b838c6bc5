"""Step 11 without a server: the linear learner's pipeline in an MLflow of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from consortium import SCHEMA, Consortium, payments

from mintmark.campaign import learner_of, replay
from mintmark.models.lightgbm_text import load
from mintmark.table import build_table
from tasks.evaluation import evaluate_scores
from tasks.register import register


def test_the_pipeline_is_registered_once_and_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One version under `challenger` however often it runs: no pickle, its coefficients beside it, the right scores."""
    import mlflow
    import pandas

    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts without a server
    consortium = Consortium(tmp_path / "banks")
    model = consortium.run(consortium.campaign(learner="logistic_regression"), 4)
    settings = consortium.coordinator.settings.model_copy(update={"mlflow": f"sqlite:///{tmp_path}/mlflow.db"})
    coordinator = dataclasses.replace(consortium.coordinator, settings=settings)
    report = evaluate_scores(coordinator, "cards", model)
    registered = register(coordinator, "cards", model, report, "http://127.0.0.1:1/run")
    assert register(coordinator, "cards", model, report, "http://127.0.0.1:1/run") == registered
    artifact = coordinator.model("cards", model)
    text = learner_of(artifact.campaign).export(replay(artifact, SCHEMA))
    features = build_table(SCHEMA, payments(500, seed=8)).features
    frame = pandas.DataFrame(features, columns=list(SCHEMA.names))
    found = mlflow.pyfunc.load_model("models:/test-fraud@challenger").predict(frame)
    np.testing.assert_allclose(np.asarray(found)[:, 1], load(text).predict(features), atol=1e-9)
    beside = {entry.path for entry in mlflow.MlflowClient().list_artifacts(registered.run_id)}
    assert beside >= {"coefficients.csv", "curves.png"}
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pickle")]
