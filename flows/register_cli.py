"""`mintmark register`: put a settled campaign's model into MLflow, when MLflow was away at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(
    campaign: Annotated[str, typer.Argument(help="The settled campaign's name.")],
    home: Annotated[Path, typer.Option(envvar="MINTMARK_COORDINATOR_HOME", help="The coordinator's folder.")],
) -> None:
    """Register a settled campaign's model in MLflow. Registering again changes nothing."""
    from tasks.coordinator import open_coordinator
    from tasks.evaluation import evaluate_scores
    from tasks.records import settled_model
    from tasks.register import register as register_model

    coordinator = open_coordinator(home)
    model_digest = settled_model(coordinator, campaign)
    record = evaluate_scores(coordinator, campaign, model_digest)
    registered = register_model(coordinator, campaign, model_digest, record)
    print(f"{registered.uri} is registered: {registered.page}")
