"""The alias `champion` in MLflow: a copy, for people, of what the mailbox says. Without MLflow the mailbox is enough."""

from __future__ import annotations

import urllib.request
from urllib.error import URLError

from mintmark.champion import Champion
from mintmark.errors import ProtocolError
from tasks.coordinator import Coordinator
from tasks.register import read_registration

ALIAS = "champion"
_PATIENCE_S = 5.0  # MLflow's own client would try for minutes


def set_alias(coordinator: Coordinator, champion: Champion) -> str:
    """Point the alias at the champion's version; returns what was done, or why not, as a sentence. Safe to run again."""
    try:
        registered = read_registration(coordinator, champion.campaign)
    except ProtocolError:
        return f"MLflow: campaign {champion.campaign} is not registered yet; run this again when it is."
    url = coordinator.settings.mlflow
    if url.startswith("http") and not _answers(url):
        return f"MLflow at {url} does not answer: the alias is set when this is run again. The mailbox has it already."
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        MlflowClient(url, url).set_registered_model_alias(registered.name, ALIAS, registered.version)
    except MlflowException as error:
        return f"MLflow: the alias was not set ({error.error_code}); run this again. The mailbox has it already."
    return f"MLflow: {registered.name}@{ALIAS} is version {registered.version}."


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=_PATIENCE_S) as response:  # noqa: S310 - http(s) only
            return bool(response.status == 200)
    except (URLError, OSError, ValueError):
        return False
