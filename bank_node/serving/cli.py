"""`mintmark-bank serve`: scores for single payments over HTTP, on this machine."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from bank_node.options import HomeOption
from bank_node.settings import Home


def serve(
    home: HomeOption,
    host: Annotated[str, typer.Option(help="Where to listen. Without login or TLS: put a proxy before any other.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port it listens on.")] = 8080,
    model: Annotated[
        str | None,
        typer.Option(help="deployed, champion, or a campaign's name. Without it: the deployed one if there is one."),
    ] = None,
    clip: Annotated[
        bool, typer.Option("--clip", help="Bring values within the agreed bounds, as in training, and say so.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=1, max=86400, help="How often to look for a newer model, in seconds.")
    ] = 60.0,
) -> None:
    """Score single payments: POST /score with the agreed features as JSON; GET /model, GET /healthz."""
    import gc

    import uvicorn

    from bank_node.serving.app import make_app
    from bank_node.serving.models import Site, default_alias, newer_model, open_model, warmed
    from mintmark.s3 import S3Store

    opened = Home(home)
    site = Site(opened, lambda: S3Store(opened.storage()))
    served = warmed(open_model(site, model or default_alias(opened)), site.schema)
    print(f"Serving {served.alias} of campaign {served.campaign} at http://{host}:{port}/score", flush=True)
    if served.note:
        print(served.note, flush=True)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    app = make_app(served, site.schema, newer=lambda now: newer_model(site, now), every_s=every, clip=clip)
    gc.collect()
    gc.freeze()  # what is loaded stays: no pause to look through it again
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, server_header=False)


def register(app: typer.Typer) -> None:
    """Add the command to `mintmark-bank`."""
    app.command()(serve)
