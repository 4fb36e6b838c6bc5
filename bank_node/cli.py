"""`mintmark-bank`: what a bank's platform team runs. Exit codes: 0 done, 1 refused or failed, 2 wrong usage."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from mintmark.errors import MintmarkError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A bank's agent: it answers signed plans with differentially private, sealed updates, and nothing else.\n\n"
    "Start with: init (make the bank's folder), then work (wait for the bell).",
)
ledger_app = typer.Typer(no_args_is_help=True, help="What this bank has spent, from its own books.")
app.add_typer(ledger_app, name="ledger")
HomeOption = Annotated[
    Path, typer.Option("--home", help="The bank's folder, made by init.", envvar="MINTMARK_BANK_HOME")
]


@app.command()
def init(
    home: Annotated[Path, typer.Argument(help="A new folder for the bank.")],
    bank: Annotated[str, typer.Option(help="The bank's name in the consortium: lower case, digits, hyphens.")],
    coordinator_key: Annotated[str, typer.Option(help="The coordinator's signing key, 64 hexadecimal digits.")],
    schema: Annotated[Path, typer.Option(help="The features the consortium agreed on (TOML).")],
    storage_endpoint: Annotated[str, typer.Option(help="URL of the S3 endpoint.")],
    storage_bucket: Annotated[str, typer.Option(help="The consortium's bucket.")],
    prefect_api: Annotated[str, typer.Option(help="URL of the coordinator's Prefect API.")],
    access_key: Annotated[str, typer.Option(help="The bank's S3 access key.", envvar="AWS_ACCESS_KEY_ID")],
    secret_key: Annotated[
        str,
        typer.Option(
            help="The bank's S3 secret; asked for when not given.",
            envvar="AWS_SECRET_ACCESS_KEY",
            prompt=True,
            hide_input=True,
        ),
    ],
) -> None:
    """Make the bank's folder and its signing key, and print the card for the coordinator."""
    from bank_node.enrol import create_home
    from bank_node.settings import BankSettings
    from mintmark.schema import parse_schema
    from mintmark.settings import StorageKey, checked

    settings = checked(
        BankSettings,
        bank=bank,
        coordinator_key=coordinator_key,
        storage_endpoint=storage_endpoint,
        storage_bucket=storage_bucket,
        prefect_api=prefect_api,
    )
    card = create_home(
        home, settings, parse_schema(schema.read_text()), StorageKey(access_key=access_key, secret_key=secret_key)
    )
    print(f"Made {home}. Read policy.toml: it decides what may leave. Put your Parquet file at {home / settings.data}.")
    print(f"Tell the coordinator:  bank {card.bank}  key {card.signing_key}")
    print(f"and read this fingerprint to them by telephone:  {card.fingerprint}")


@app.command()
def work(home: HomeOption) -> None:
    """Wait for the bell and answer plans, until SIGTERM. Restart it always; it loses nothing."""
    from bank_node.settings import Home
    from bank_node.worker import run_worker

    opened = Home(home)
    run_worker(opened.path, opened.pool, opened.settings.prefect_api, opened.settings.poll_s)


@app.command()
def answer(
    plan_key: Annotated[str, typer.Argument(help="The plan's key in the mailbox.")],
    plan_digest: Annotated[str, typer.Argument(help="Its digest, 64 hexadecimal digits.")],
    home: HomeOption,
) -> None:
    """Answer one plan without Prefect: the mailbox is the protocol, the bell only a bell."""
    from bank_node.local_round import AnswerStatus, answer_plan

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    outcome = answer_plan(home, plan_key, plan_digest, datetime.now(UTC))
    print(outcome.status if outcome.status is AnswerStatus.SENT else f"{outcome.status}: {outcome.reason}")
    if outcome.status is not AnswerStatus.SENT:
        raise typer.Exit(1)


@ledger_app.command("show")
def ledger_show(home: HomeOption) -> None:
    """Verify the ledger and list what every campaign has cost each customer so far."""
    from bank_node.policy import read_policy
    from bank_node.settings import Home
    from mintmark.privacy.ledger import Ledger

    opened = Home(home)
    budget = read_policy(opened.policy).budget
    grid = Grid(title=f"{opened.settings.bank}: epsilon at delta {budget.delta:g}, for each customer")
    for heading in ("campaign or year", "releases", "epsilon", "budget"):
        grid.add_column(heading)
    with Ledger.open(opened.ledger, opened.anchor) as ledger:
        for campaign in dict.fromkeys(entry.campaign for entry in ledger.entries):
            releases, spent = ledger.releases(campaign=campaign), ledger.epsilon(delta=budget.delta, campaign=campaign)
            grid.add_row(campaign, str(len(releases)), f"{spent:.3f}", f"{budget.epsilon_per_campaign:g}")
        for year in sorted({entry.at.year for entry in ledger.entries}):
            releases, spent = ledger.releases(year=year), ledger.epsilon(delta=budget.delta, year=year)
            grid.add_row(str(year), str(len(releases)), f"{spent:.3f}", f"{budget.epsilon_per_year:g}")
    Console().print(grid)


def main() -> None:
    """Run the command line; what went wrong becomes one sentence on stderr and exit code 1."""
    try:
        app()
    except (MintmarkError, OSError) as error:
        print(f"mintmark-bank: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
