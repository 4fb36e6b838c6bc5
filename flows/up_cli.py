"""`mintmark up`: the consortium's servers, in the foreground."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(up)


def up(
    database: Annotated[
        str,
        typer.Option(
            envvar="MINTMARK_DATABASE",
            help="URL of a PostgreSQL server: postgresql://user:password@host:5432. In the variable `ps` does not show it.",
        ),
    ],
    home: Annotated[Path, typer.Option(help="Folder of the servers' files, keys and logs: a new one, or theirs.")],
    bank: Annotated[list[str] | None, typer.Option(help="Make an S3 user for this bank; may be repeated.")] = None,
    storage_port: Annotated[int, typer.Option(min=1024, max=65535, help="Port of S3.")] = 9000,
    prefect_port: Annotated[int, typer.Option(min=1024, max=65535, help="Port of Prefect.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1024, max=65535, help="Port of MLflow.")] = 5000,
) -> None:
    """Run S3, Prefect and MLflow on 127.0.0.1, with their databases in a PostgreSQL of yours, until Ctrl-C.

    The databases mintmark_prefect and mintmark_mlflow are created when missing. Started again, everything is there.
    """
    from infra.embedded.up import UpOptions, keep_up

    ports = (storage_port, prefect_port, mlflow_port)
    try:
        keep_up(UpOptions(home.resolve(), database, tuple(bank or ()), ports), Console(), dict(os.environ))
    except KeyboardInterrupt:
        print("Interrupted: everything that was started is stopped.", file=sys.stderr)
        raise typer.Exit(130) from None
