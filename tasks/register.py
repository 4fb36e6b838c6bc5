"""Step 11: one MLflow run a campaign, one model version a campaign, under the alias `challenger`. Doing it twice changes
nothing.

The model is logged as a LightGBM Booster, which MLflow keeps as text, or as a scikit-learn pipeline, which skops keeps as
numbers and the names of known types; never as a pickle. MLflow stands beside the path, never in it: when it is away the
campaign is settled all the same, and registers when it is run again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from mintmark import mailbox
from mintmark.campaign import learner_of, replay
from mintmark.envelope import sign, verify
from mintmark.evaluation import EvaluationReport
from mintmark.models.linear import LinearState, coefficients_csv
from mintmark.models.scikit_pipeline import TRUSTED_TYPES
from mintmark.plan import Agreed, Campaign
from tasks.aggregation import read_reports
from tasks.coordinator import Coordinator
from tasks.suspicion import suspicion_figure

ALIAS = "challenger"
REGISTRATION_TYPE = "application/x-mintmark-registration"
MAX_REGISTRATION_BYTES = 64 * 1024
_CAMPAIGN_TAG, _DIGEST_TAG = "mintmark.campaign", "mintmark.model_digest"


class RegisteredModel(Agreed):
    """Where the model is. `uri` is what `mlflow.lightgbm.load_model` or `mlflow.sklearn.load_model` takes."""

    name: str
    version: str
    uri: str
    run_id: str
    page: str


def load_mlflow() -> None:
    """Import what registration needs, ahead of need."""
    import lightgbm  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import mlflow.lightgbm
    import mlflow.sklearn  # noqa: F401


def register(
    coordinator: Coordinator, campaign: str, model_digest: str, report: EvaluationReport, flow_run_page: str
) -> RegisteredModel:
    """Register the campaign's model unless it is there, and point `challenger` at it."""
    from mlflow.tracking import MlflowClient

    artifact = coordinator.model(campaign, model_digest)
    name = f"{coordinator.settings.consortium}-fraud"
    client = MlflowClient(coordinator.settings.mlflow, coordinator.settings.mlflow)
    found = client.search_model_versions(f"name = '{name}' and tags.`{_DIGEST_TAG}` = '{model_digest}'")
    if found:
        version = found[0]
    else:
        _ensure_registered(client, name)
        run_id = _log_run(coordinator, client, artifact.campaign, model_digest, report, flow_run_page)
        state = replay(artifact, coordinator.schema)
        if isinstance(state, LinearState):
            client.log_text(run_id, coefficients_csv(state), "coefficients.csv")
        logged = _log_model(coordinator, run_id, learner_of(artifact.campaign).finished(state))
        tags = {_CAMPAIGN_TAG: campaign, _DIGEST_TAG: model_digest}
        version = client.create_model_version(
            name, logged.model_uri, run_id=run_id, tags=tags, model_id=logged.model_id
        )
    client.set_registered_model_alias(name, ALIAS, version.version)
    registered = RegisteredModel(
        name=name,
        version=str(version.version),
        uri=f"models:/{name}/{version.version}",
        run_id=str(version.run_id),
        page=f"{coordinator.settings.mlflow}/#/models/{name}/versions/{version.version}",
    )
    message = sign(coordinator.signer, REGISTRATION_TYPE, registered.canonical_bytes())
    mailbox.put_same(coordinator.store, mailbox.registration_key(campaign), message)
    return registered


def read_registration(coordinator: Coordinator, campaign: str) -> RegisteredModel:
    """Where a finished campaign's model is. Raises `ProtocolError` when it is not registered."""
    key = mailbox.registration_key(campaign)
    message = mailbox.get_required(coordinator.store, key, max_bytes=MAX_REGISTRATION_BYTES)
    payload = verify(message, REGISTRATION_TYPE, coordinator.signer.public_key, max_bytes=MAX_REGISTRATION_BYTES)
    return RegisteredModel.from_bytes(payload, max_bytes=MAX_REGISTRATION_BYTES)


def _ensure_registered(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Made by Mintmark: federated, differentially private.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_run(
    coordinator: Coordinator,
    client: Any,
    campaign: Campaign,
    model_digest: str,
    report: EvaluationReport,
    flow_run_page: str,
) -> str:
    """One finished run with the campaign's terms, figures and curves; returns its id."""
    experiment = client.get_experiment_by_name(coordinator.settings.consortium)
    experiment_id = (
        experiment.experiment_id if experiment else client.create_experiment(coordinator.settings.consortium)
    )
    run = client.create_run(experiment_id, run_name=campaign.name, tags={_CAMPAIGN_TAG: campaign.name})
    run_id = str(run.info.run_id)
    flat = {"learner": campaign.learner, "rounds": campaign.rounds, "seed": campaign.seed, "quorum": campaign.quorum}
    privacy = {f"privacy.{key}": value for key, value in campaign.privacy.model_dump(mode="json").items()}
    rule = {f"aggregation.{key}": value for key, value in campaign.aggregation.model_dump(mode="json").items()}
    for key, value in (flat | privacy | rule | {"cohort": ",".join(campaign.cohort)}).items():
        client.log_param(run_id, key, value)
    client.log_metric(run_id, "auprc.federated_evaluation", report.auprc)
    client.log_metric(run_id, "auroc.federated_evaluation", report.auroc)
    client.set_tag(run_id, _DIGEST_TAG, model_digest)
    client.set_tag(run_id, "mlflow.note.content", f"[The campaign's flow run in Prefect]({flow_run_page})")
    client.log_figure(run_id, _curves(report), "curves.png")
    reports = read_reports(coordinator.store, campaign.name, coordinator.signer.public_key)
    client.log_figure(run_id, suspicion_figure(reports), "suspicion.png")
    client.set_terminated(run_id)
    return run_id


def _log_model(coordinator: Coordinator, run_id: str, model: Any) -> Any:
    """Log the finished model with its signature; returns MLflow's record of it."""
    import lightgbm
    import mlflow
    import sklearn
    import skops
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    mlflow.set_tracking_uri(coordinator.settings.mlflow)
    columns = [ColSpec(DataType.double, name, required=False) for name in coordinator.schema.names]
    signature = ModelSignature(Schema(columns), Schema([ColSpec(DataType.double)]))
    with mlflow.start_run(run_id=run_id):
        if isinstance(model, lightgbm.Booster):
            needs = [f"lightgbm=={lightgbm.__version__}"]
            return mlflow.lightgbm.log_model(model, name="model", signature=signature, pip_requirements=needs)
        return mlflow.sklearn.log_model(
            model,
            name="model",
            signature=signature,
            serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
            skops_trusted_types=TRUSTED_TYPES,
            pyfunc_predict_fn="predict_proba",
            pip_requirements=[f"scikit-learn=={sklearn.__version__}", f"skops=={skops.__version__}"],
        )


def _curves(report: EvaluationReport) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.step(report.recall, report.precision, where="post")
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1), title=f"AUPRC {report.auprc:.3f}")
    right.plot(np.append(0.0, report.false_positive_rate), np.append(0.0, report.recall))
    right.set(
        xlabel="false positive rate", ylabel="recall", xlim=(0, 1), ylim=(0, 1), title=f"AUROC {report.auroc:.3f}"
    )
    figure.suptitle("From the banks' noised score histograms (held-out rows)")
    return figure


register_model = task(
    name="register model", cache_policy=NO_CACHE, persist_result=False, retries=2, retry_delay_seconds=5
)(register)
