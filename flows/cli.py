"""`mintmark`: the coordinator's command line, and the demonstration. Exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows import drift_cli, liveness_cli, promotion_cli, simulate_cli, status_cli, up_cli
from flows.register_cli import register
from infra.gateway import cli as gateway_cli
from mintmark.aggregation.rules import DEFAULT_RULE
from mintmark.errors import MintmarkError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Mintmark: banks learn to catch fraud together and show nobody a transaction.\n\n"
    "Start with: mintmark demo. It needs no internet, no Docker and no configuration.",
)
app.add_typer(promotion_cli.app)


@app.command()
def demo(
    banks: Annotated[int, typer.Option(min=2, max=26, help="Banks in the simulation, the last one small.")] = 4,
    rounds: Annotated[int, typer.Option(min=3, max=100, help="Training rounds; one more evaluates.")] = 9,
    epsilon: Annotated[
        float, typer.Option(min=0.01, max=10.0, help="What the campaign may cost every customer (delta is 1e-6).")
    ] = 4.0,
    learner: Annotated[
        str, typer.Option(help="guided_boosting, or logistic_regression for a small epsilon and a model to explain.")
    ] = "guided_boosting",
    seed: Annotated[
        int, typer.Option(min=0, help="Of the simulated rows and the random trees; never of the noise.")
    ] = 7,
    rule: Annotated[
        str, typer.Option(help="How updates are aggregated (docs/aggregation.md); weighted_mean trusts every bank.")
    ] = DEFAULT_RULE,
    liars: Annotated[
        int | None,
        typer.Option(min=0, help="How many banks may lie; a quarter unless given, none under weighted_mean."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Parquet file with rows of several banks, instead of the simulation.")
    ] = None,
    schema: Annotated[Path | None, typer.Option(help="What the file's columns are (TOML; see examples/).")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the figures to this file as JSON.")] = None,
    attack: Annotated[
        str | None,
        typer.Option(help="What lying banks do: alie, sign_flip, scaling, infinity or another."),
    ] = None,
    attackers: Annotated[int, typer.Option(min=0, help="How many banks lie: the second one, and so on.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running for browsing, until Ctrl-C.")] = False,
) -> None:
    """Run a whole consortium on this machine: S3, Prefect, MLflow, a worker per bank, one campaign, a comparison.

    Everything listens on 127.0.0.1 and is gone afterwards. Takes a bit over a minute.
    """
    from infra.embedded.demo import DemoOptions, run_demo

    options = DemoOptions(
        banks, rounds, epsilon, learner, seed, rule, liars, data, schema, report, keep, attack, attackers
    )
    try:
        run_demo(options, Console())
    except KeyboardInterrupt:
        print("Interrupted: everything that was started is stopped.", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def init(
    home: Annotated[Path, typer.Argument(help="A new folder for the coordinator.")],
    consortium: Annotated[str, typer.Option(help="The consortium's name: lower case, digits, hyphens.")],
    schema: Annotated[Path, typer.Option(help="The features the consortium agreed on (TOML; see examples/).")],
    storage_endpoint: Annotated[str, typer.Option(help="URL of the S3 endpoint.")],
    storage_bucket: Annotated[str, typer.Option(help="The consortium's bucket.")],
    prefect_ui: Annotated[str, typer.Option(help="URL of the Prefect UI, for links.")],
    mlflow: Annotated[str, typer.Option(help="URL of the MLflow server.")],
    access_key: Annotated[str, typer.Option(help="The coordinator's S3 access key.", envvar="AWS_ACCESS_KEY_ID")],
    secret_key: Annotated[
        str,
        typer.Option(
            help="Its secret; asked for when not given.", envvar="AWS_SECRET_ACCESS_KEY", prompt=True, hide_input=True
        ),
    ],
) -> None:
    """Make the coordinator's folder and its keys, and print what banks must know."""
    from mintmark.envelope import fingerprint, load_signer
    from mintmark.schema import parse_schema
    from mintmark.settings import StorageKey, checked
    from tasks.coordinator import CoordinatorSettings, create_home

    settings = checked(
        CoordinatorSettings,
        consortium=consortium,
        storage_endpoint=storage_endpoint,
        storage_bucket=storage_bucket,
        prefect_ui=prefect_ui,
        mlflow=mlflow,
    )
    create_home(
        home, settings, parse_schema(schema.read_text()), StorageKey(access_key=access_key, secret_key=secret_key)
    )
    key = load_signer(f"file:{home / 'identity' / 'signing.key'}").public_key
    print(f"Made {home}. Give every bank the schema and this key, and read them its fingerprint by telephone:")
    print(f"  coordinator key  {key.hex()}\n  fingerprint      {fingerprint(key)}")


@app.command()
def enrol(
    bank: Annotated[str, typer.Argument(help="The bank's name.")],
    signing_key: Annotated[str, typer.Argument(help="The key on its card, 64 hexadecimal digits.")],
    training_rows: Annotated[
        int, typer.Option(min=1, help="About how many; the roster keeps the nearest power of two.")
    ],
    home: Annotated[Path, typer.Option(envvar="MINTMARK_COORDINATOR_HOME", help="The coordinator's folder.")],
    days: Annotated[int, typer.Option(min=1, max=3660, help="How long the key is valid.")] = 365,
) -> None:
    """Put a bank, or its new key, into the next version of the signed roster. Compare the fingerprint first."""
    from datetime import UTC, datetime, timedelta

    from mintmark.envelope import fingerprint
    from mintmark.roster import Member, rows_band
    from mintmark.settings import checked
    from tasks.coordinator import open_coordinator, publish_roster

    now = datetime.now(UTC)
    member = checked(
        Member,
        bank=bank,
        signing_key=signing_key,
        rows_band=rows_band(training_rows),
        valid_from=now,
        valid_until=now + timedelta(days=days),
    )
    coordinator = open_coordinator(home)
    others = tuple(known for known in coordinator.members() if known.bank != bank)
    roster = publish_roster(coordinator, (*others, member))
    print(f"Roster {roster.version} has {len(roster.members)} banks. {bank}: {fingerprint(bytes.fromhex(signing_key))}")


@app.command()
def deploy(
    api_url: Annotated[str, typer.Option(envvar="PREFECT_API_URL", help="URL of the Prefect API.")],
    home: Annotated[Path, typer.Option(envvar="MINTMARK_COORDINATOR_HOME", help="The coordinator's folder.")],
    schedule: Annotated[
        str | None,
        typer.Option(help="Start a campaign whenever this cron expression says, in UTC: '0 6 * * MON'."),
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(help="URL to POST to when a campaign ends badly or a bank falls silent.")
    ] = None,
) -> None:
    """Create work pools, the banks' bells, the campaign's deployment, its schedule and automations. Safe to run again."""
    from datetime import UTC, datetime

    from flows.deployments import deploy as deploy_all
    from tasks.coordinator import open_coordinator

    banks = open_coordinator(home).roster().valid_banks(datetime.now(UTC))
    deploy_all(api_url, banks, schedule, webhook)
    print(f"Deployed the campaign and the bells of {', '.join(banks)}. Start one in the Prefect UI, or with:")
    print("  prefect deployment run campaign/mintmark --param campaign=NAME")
    if schedule:
        print(f"Scheduled by '{schedule}' (UTC): every run is a new campaign, named after its time.")


gateway_cli.register(app)
liveness_cli.register(app)
simulate_cli.register(app)
status_cli.register(app)
up_cli.register(app)


app.command()(register)


drift_cli.register(app)


def main() -> None:
    """Run the command line; what went wrong becomes one sentence on stderr and exit code 1."""
    try:
        app()
    except (MintmarkError, OSError) as error:
        print(f"mintmark: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
