"""`mintmark-bank`: what a bank's platform team runs. Exit codes: 0 done, 1 refused or failed, 2 wrong usage."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bank_node import backtest_cli, ledger_cli
from bank_node.options import HomeOption
from bank_node.personal import cli as personal_cli
from bank_node.serving import cli as serving_cli
from mintmark.errors import MintmarkError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A bank's agent: it answers signed plans with differentially private, sealed updates, and nothing else.\n\n"
    "Start with: init (make the bank's folder), then work (wait for the bell).",
)
app.add_typer(ledger_cli.app, name="ledger")


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
    settings = opened.settings
    run_worker(opened.path, opened.pool, settings.prefect_api, settings.poll_s, tls=opened.gateway_tls())


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


@app.command()
def rehearse(
    plan_key: Annotated[
        str, typer.Argument(metavar="PLAN", help="The plan's key in the mailbox: public/campaigns/NAME/plans/0003-00.")
    ],
    home: HomeOption,
) -> None:
    """Do all that answering a plan does, up to and not including charge and send, and show exactly what would leave."""
    from bank_node.bank import open_bank
    from bank_node.rehearsal import rehearse as rehearse_plan
    from bank_node.rehearsal_text import tell
    from bank_node.settings import Home
    from mintmark.privacy.ledger import Ledger

    console = Console()
    bank = open_bank(Home(home))
    with console.status("rehearsing"), Ledger.open(bank.home.ledger, bank.home.anchor) as ledger:
        rehearsal = rehearse_plan(bank, ledger, plan_key, datetime.now(UTC))
    tell(console, rehearsal)
    if rehearsal.refused:
        raise typer.Exit(1)


personal_cli.register(app)
serving_cli.register(app)
backtest_cli.register(app)


def main() -> None:
    """Run the command line; what went wrong becomes one sentence on stderr and exit code 1."""
    try:
        app()
    except (MintmarkError, OSError) as error:
        print(f"mintmark-bank: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
