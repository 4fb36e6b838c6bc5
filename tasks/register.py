"""Step 11: one MLflow run a campaign, one model version a campaign, under the alias `challenger`. Doing it twice changes
nothing, and a crash in the middle is made good by doing it again.

The model is logged as a LightGBM Booster, which MLflow keeps as text, or as a scikit-learn pipeline, which skops keeps as
numbers and the names of known types; never as a pickle. MLflow stands beside the path, never in it: when it is away the
campaign is settled all the same, and `mintmark register CAMPAIGN` registers it later.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from mintmark import mailbox
from mintmark.agreed import Digest, SignedRecord
from mintmark.campaign import learner_of, replay
from mintmark.canonical import digest
from mintmark.errors import ProtocolError
from mintmark.evaluation_record import EvaluationRecord
from mintmark.plan import Campaign
from tasks.coordinator import Coordinator
from tasks.plots import spoken
from tasks.runs import CAMPAIGN_TAG, DIGEST_TAG, open_run, write_run
from tasks.stored_model import booster_bytes, load_pipeline, read_model_file, store_model

ALIAS = "challenger"
REGISTRATION_TYPE = "application/x-mintmark-registration"
MAX_REGISTRATION_BYTES = 64 * 1024
REACHABLE_S = 5.0  # for MLflow to answer at all
_FILE_TAG, _MODEL_TAG = "mintmark.file_digest", "mintmark.stored_model"

log = logging.getLogger(__name__)


class RegisteredModel(SignedRecord):
    """Where the model is, signed into the mailbox. `file_digest` is the SHA-256 of the model's one file, `uri` what
    `load_registered` takes."""

    payload_type = REGISTRATION_TYPE
    most_bytes = MAX_REGISTRATION_BYTES
    name: str
    version: str
    uri: str
    run_id: str
    page: str
    file_digest: Digest


def load_mlflow() -> None:
    """Import what registration needs, ahead of need."""
    import lightgbm  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import mlflow.lightgbm
    import mlflow.sklearn  # noqa: F401


def register(
    coordinator: Coordinator, campaign: str, model_digest: str, record: EvaluationRecord, flow_run_page: str = ""
) -> RegisteredModel:
    """Register the campaign's model unless it is there, and point `challenger` at it unless a newer one has it."""
    from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT
    from mlflow.tracking import MlflowClient

    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # two lines for every round
    artifact = coordinator.model(campaign, model_digest)
    name = f"{coordinator.settings.consortium}-fraud"
    client = MlflowClient(coordinator.settings.mlflow, coordinator.settings.mlflow)
    found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{model_digest}'")
    if found:
        version = found[0]
    else:
        _ensure_registered(client, name)
        run_id = open_run(coordinator, client, artifact.campaign, model_digest)
        finished = learner_of(artifact.campaign).finished(replay(artifact, coordinator.schema))
        model_id, uri = store_model(client, coordinator.settings.mlflow, run_id, finished, coordinator.schema)
        write_run(coordinator, client, run_id, artifact, record, flow_run_page)
        _, stored = read_model_file(client, coordinator.settings.mlflow, model_id)
        tags = {CAMPAIGN_TAG: campaign, DIGEST_TAG: model_digest, _FILE_TAG: digest(stored), _MODEL_TAG: model_id}
        version = client.create_model_version(
            name, uri, run_id, tags, description=_about(artifact.campaign, record), model_id=model_id
        )
    _point(client, name, version)
    registered = RegisteredModel(
        name=name,
        version=str(version.version),
        uri=f"models:/{name}/{version.version}",
        run_id=str(version.run_id),
        page=f"{coordinator.settings.mlflow}/#/models/{name}/versions/{version.version}",
        file_digest=version.tags[_FILE_TAG],
    )
    message = registered.signed(coordinator.signer)
    mailbox.put_same(coordinator.store, mailbox.registration_key(campaign), message)
    return registered


def register_if_reachable(
    coordinator: Coordinator, campaign: str, model_digest: str, record: EvaluationRecord, flow_run_page: str = ""
) -> RegisteredModel | None:
    """Register the model, or say in the log that MLflow is away and return None: nothing of the campaign is lost."""
    import httpx
    from mlflow.exceptions import MlflowException

    try:
        httpx.get(f"{coordinator.settings.mlflow}/health", timeout=REACHABLE_S).raise_for_status()
        return register(coordinator, campaign, model_digest, record, flow_run_page)
    except (httpx.HTTPError, MlflowException) as error:
        log.warning("MLflow is away (%s): run `mintmark register %s` when it is back", type(error).__name__, campaign)
        return None


def read_registration(coordinator: Coordinator, campaign: str) -> RegisteredModel:
    """Where a finished campaign's model is. Raises `ProtocolError` when it is not registered."""
    key = mailbox.registration_key(campaign)
    message = mailbox.get_required(coordinator.store, key, max_bytes=MAX_REGISTRATION_BYTES)
    return RegisteredModel.read(message, coordinator.signer.public_key)


def load_registered(coordinator: Coordinator, uri: str) -> Any:
    """The model at `models:/<name>/<version>` or `models:/<name>@<alias>`: a Booster or a scikit-learn pipeline.

    Nothing is loaded before its flavour is one that runs no code, its file is the one that the coordinator signed at
    registration and, for a Booster, that of the mailbox's model to the byte. Raises `ProtocolError`.
    """
    from mlflow.tracking import MlflowClient

    client = MlflowClient(coordinator.settings.mlflow, coordinator.settings.mlflow)
    version = _version_of(client, uri)
    tags = version.tags
    campaign, model_digest = tags.get(CAMPAIGN_TAG, ""), tags.get(DIGEST_TAG, "")
    if not re.fullmatch("[a-z0-9][a-z0-9-]{0,39}", campaign) or not re.fullmatch("[0-9a-f]{64}", model_digest):
        raise ProtocolError(f"{uri}: expected a version that Mintmark registered, got one without its tags")
    registered = read_registration(coordinator, campaign)
    kind, data = read_model_file(client, coordinator.settings.mlflow, tags.get(_MODEL_TAG, ""))
    found = (version.name, str(version.version), digest(data))
    if found != (registered.name, registered.version, registered.file_digest):
        raise ProtocolError(
            f"{uri}: expected the file {registered.file_digest} of the signed registration, got another"
        )
    if kind == "sklearn":
        return load_pipeline(data)
    artifact = coordinator.model(campaign, model_digest)
    booster = learner_of(artifact.campaign).finished(replay(artifact, coordinator.schema))
    if booster_bytes(booster) != data:
        raise ProtocolError(f"{uri}: expected the trees of the mailbox's model {model_digest}, got others")
    return booster


def _version_of(client: Any, uri: str) -> Any:
    found = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@(\w+))", uri)
    if found is None:
        raise ProtocolError(f"expected models:/<name>/<version> or models:/<name>@<alias>, got {uri[:80]!r}")
    name, number, alias = found.groups()
    return client.get_model_version(name, number) if number else client.get_model_version_by_alias(name, alias)


def _ensure_registered(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    about = (
        "Scores card payments: the higher, the likelier fraud. Made by several banks together without showing each other "
        "a payment (Mintmark: federated, differentially private). `challenger` is the newest version; people move "
        "`champion`."
    )
    try:
        client.create_registered_model(name, {"mintmark": "fraud score"}, about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _point(client: Any, name: str, version: Any) -> None:
    """Give the version the alias, unless a newer one has it: an old campaign registered again changes nothing."""
    holder = client.get_registered_model(name).aliases.get(ALIAS)
    if holder is None or int(holder) < int(version.version):
        client.set_registered_model_alias(name, ALIAS, version.version)


def _about(campaign: Campaign, record: EvaluationRecord) -> str:
    """A version's description: one line to choose by."""
    pooled, privacy = record.pooled, campaign.privacy
    return (
        f"{campaign.learner} of campaign {campaign.name}, {len(campaign.cohort)} banks, epsilon {privacy.epsilon} at delta "
        f"{privacy.delta:g} for every {privacy.unit}. Held-out rows: AUPRC {spoken(pooled.auprc)}, frauds caught at "
        f"{record.false_positive_rate:.1%} false alarms {spoken(pooled.recall_at_false_positives)}."
    )


register_model = task(
    name="register model", cache_policy=NO_CACHE, persist_result=False, retries=2, retry_delay_seconds=5
)(register_if_reachable)
