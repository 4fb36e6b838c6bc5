"""`mintmark demo`: one campaign of a whole consortium on this machine, told as it happens, compared at the end.

The report (`--report FILE`) holds: `auprc.local.<bank>`, `auprc.federated`, `auprc.central` and, where banks lie,
`auprc.honest`, the same campaign with nobody lying (all on the pooled test rows), `auprc.own.<bank>` and
`auprc.deployed.<bank>` (on each bank's own test rows), `gain.<bank>` with `low`, `high` (the 95 % interval of deployed less
own) and `keeps_own`, `epsilon.<bank>`, `rounds[]` with `round`, `accepted`, `rejected`, `late`, `seconds`, `shares.<bank>`,
`distances.<bank>`; `suspicion.<bank>` after the last round, `attacks.<bank>`, `model.uri`, `seconds.total`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from rich.console import Console

from bank_node.settings import Home
from bank_node.table import load_table
from benchmarks.attacks import ATTACKS
from infra.embedded.comparison import auprc
from infra.embedded.consortium import EmbeddedConsortium
from infra.embedded.dataset import load_dataset
from infra.embedded.interrupts import interruptible
from infra.embedded.processes import ProcessGroup
from infra.embedded.servers import NO_TELEMETRY, Endpoints
from infra.embedded.telling import tell_banks, tell_open_round, tell_report, tell_round
from mintmark.aggregation.report import AggregationReport, last_suspicion
from mintmark.aggregation.rules import DEFAULT_RULE
from mintmark.campaign import learner_named, learner_of, replay
from mintmark.errors import DataError, MintmarkError
from mintmark.models.boosting import GuidedBoosting
from mintmark.models.lightgbm_text import load
from mintmark.models.rows import code_table
from mintmark.plan import Campaign
from mintmark.privacy.ledger import Ledger
from mintmark.schema import FeatureSchema, parse_schema
from mintmark.simulation import simulate_coded
from mintmark.synthetic import simulate
from mintmark.table import Columns
from tasks.aggregation import read_reports
from tasks.progress import CampaignWatch, RoundProgress
from tasks.register import read_registration

CAMPAIGN = "demo"
COMPARISON = "comparison"
ROUND_DEADLINE_S = 120.0
CAMPAIGN_DEADLINE_S = 1800.0
COMPARISON_DEADLINE_S = 900.0
MAILBOX_POLL_S, STATE_POLL_S = 0.3, 2.0
ROWS_A_BANK = 125_000


@dataclass(frozen=True)
class DemoOptions:
    """What the command line asks for."""

    banks: int = 4
    rounds: int = 8
    epsilon: float = 4.0
    learner: str = GuidedBoosting.name
    seed: int = 7
    rule: str = DEFAULT_RULE
    liars: int | None = None
    data: Path | None = None
    schema: Path | None = None
    report: Path | None = None
    keep: bool = False
    attack: str | None = None
    attackers: int = 0


def run_demo(options: DemoOptions, console: Console) -> None:
    """Run it. Raises `MintmarkError` with one sentence; whatever happens, no process is left."""
    started = time.monotonic()
    learner_named(options.learner)  # an unknown one is refused before anything starts
    schema, banks = _input(options)
    state = Path(tempfile.mkdtemp(prefix="mintmark-"))
    environment = environment_for(state)
    (state / "tmp").mkdir()
    os.environ.update(environment)  # before Prefect is imported here, so that it keeps to the demo's folder too
    keep_logs = True
    try:
        console.rule(f"[bold]Mintmark[/bold]: {len(banks)} banks, {options.rounds} rounds, epsilon {options.epsilon:g}")
        tell_banks(console, schema, banks)
        with interruptible(), ProcessGroup(state / "logs") as group:
            attacks = attacks_of(options, sorted(banks))
            for bank, attack in attacks.items():
                console.print(f"  [red]{bank} lies[/red] in every round: {attack}", highlight=False)
            consortium = EmbeddedConsortium(group, state, schema, banks, options.epsilon, attacks)
            del banks  # on disk now, each bank's with that bank
            report = _campaign(options, console, group, consortium, environment, started)
            if options.report:
                options.report.write_text(json.dumps(report, indent=2) + "\n")
            keep_logs = False
            if options.keep:
                console.print("\nEverything stays up for browsing. Ctrl-C ends it.")
                _stay(group)
    except KeyboardInterrupt:
        keep_logs = False
        raise
    finally:
        if keep_logs:
            _keep_only_logs(state)
            console.print(f"Stopped. The logs are in {state / 'logs'}.", highlight=False, soft_wrap=True)
        else:
            shutil.rmtree(state, ignore_errors=True)


def attacks_of(options: DemoOptions, banks: Sequence[str]) -> dict[str, str]:
    """Which banks lie, and how: the second one and those after it. Raises `DataError` for an attack that is none."""
    if options.attack is None:
        if options.attackers:
            raise DataError("expected --attack with --attackers: what the liars do")
        return {}
    if options.attack not in ATTACKS:
        raise DataError(f"expected an attack of {', '.join(ATTACKS)}; got {options.attack!r}")
    lying = banks[1 : 1 + max(1, options.attackers)]
    if len(lying) < options.attackers:
        raise DataError(f"expected at most {len(banks) - 1} attackers of {len(banks)} banks, got {options.attackers}")
    return dict.fromkeys(lying, options.attack)


def _keep_only_logs(state: Path) -> None:
    """Rows, keys and databases go; the logs hold none of them."""
    for path in state.iterdir():
        if path.name != "logs":
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _input(options: DemoOptions) -> tuple[FeatureSchema, Mapping[str, Columns]]:
    """The rows, checked before anything starts."""
    if (options.data is None) != (options.schema is None):
        raise DataError("expected --data and --schema together, got one of them: a file needs its schema")
    if options.data is None or options.schema is None:
        schema, banks = simulate(options.seed, banks=options.banks, rows=ROWS_A_BANK * options.banks)
        return schema, banks
    try:
        schema = parse_schema(options.schema.read_text())
    except OSError as error:
        raise DataError(f"{options.schema}: expected a readable schema, got {type(error).__name__}") from None
    return schema, load_dataset(options.data, schema).banks


def environment_for(state: Path) -> dict[str, str]:
    """The environment of every process: the user's own, without what would steer the servers elsewhere."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT", "MLFLOW", "AWS", "MINTMARK")) and not name.lower().endswith("_proxy")
    }
    # One thread for each process: the banks share this machine, and idle BLAS threads only spin.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    places = {"PREFECT_HOME": str(state / "prefect"), "TMPDIR": str(state / "tmp"), "PYTHONUNBUFFERED": "1"}
    return kept | threads | dict(NO_TELEMETRY) | places


def _campaign(
    options: DemoOptions,
    console: Console,
    group: ProcessGroup,
    consortium: EmbeddedConsortium,
    environment: dict[str, str],
    started: float,
) -> dict[str, Any]:
    def say(what: str) -> None:
        console.print(f"  [green]ready[/green] {what}  [dim]{time.monotonic() - started:.0f} s[/dim]", highlight=False)

    with console.status("starting S3, Prefect, MLflow and the banks"):
        endpoints, coordinator = consortium.start(environment, say)
    from flows.deployments import start_campaign

    expert = {
        "deadline_s": ROUND_DEADLINE_S, "seed": options.seed, "rule": options.rule, "liars": options.liars,
    }  # fmt: skip
    parameters = {
        "campaign": CAMPAIGN,
        "rounds": options.rounds,
        "learner": options.learner,
        "epsilon": options.epsilon,
    }
    parameters |= {"expert": expert}
    flow_run = start_campaign(endpoints.prefect_api, parameters)
    flow_page = f"{endpoints.prefect_ui}/runs/flow-run/{flow_run}"
    console.print(f"  the campaign in Prefect: {flow_page}", highlight=False, soft_wrap=True)
    _start_comparison(group, consortium, environment, options.rounds)
    watch = CampaignWatch(coordinator.store, CAMPAIGN, consortium.banks, coordinator.signer.public_key)
    rounds = _follow(console, group, endpoints, watch, flow_run, options)
    with console.status("making what each bank deploys, and comparing"):
        baselines = _await_comparison(group, consortium)
    registered = read_registration(coordinator, CAMPAIGN)
    gain = baselines.pop("gain")
    reports = read_reports(coordinator.store, CAMPAIGN, coordinator.signer.public_key)
    federated = coordinator.model(CAMPAIGN, watch.plan(watch.closed - 1).model_digest)
    baselines["federated"] = _pooled_auprc(consortium, replay(federated, consortium.schema), federated.campaign)
    if consortium.attacks:
        with console.status("playing the same campaign in memory, with nobody lying"):
            baselines["honest"] = _honest_auprc(consortium, federated.campaign)
    report = {
        "gain": gain,
        "auprc": baselines,
        "delta": watch.plan(0).campaign.privacy.delta,
        "epsilon": {bank: _epsilon(consortium.bank_home(bank), watch) for bank in consortium.banks},
        "rounds": [_round_entry(progress, told) for progress, told in zip(rounds, reports, strict=True)],
        "attacks": dict(consortium.attacks),
        "suspicion": last_suspicion(reports),
        "model": registered.model_dump(),
        "links": {"flow_run": flow_page, "model": registered.page},
        "seconds": {"total": round(time.monotonic() - started, 1)},
    }
    tell_report(console, report)
    return report


def _follow(
    console: Console,
    group: ProcessGroup,
    endpoints: Endpoints,
    watch: CampaignWatch,
    flow_run: UUID,
    options: DemoOptions,
) -> list[RoundProgress]:
    """Print rounds as they close, until the campaign is finished. Raises `MintmarkError` when it fails."""
    from flows.deployments import campaign_state

    last, told, deadline = options.rounds, 0, time.monotonic() + CAMPAIGN_DEADLINE_S
    asked = time.monotonic()
    with console.status("waiting for the coordinator's flow to start") as status:
        while time.monotonic() < deadline:
            rounds = watch.rounds()
            for progress in rounds[told:]:
                if progress.manifest is None:
                    status.update(tell_open_round(progress, last, watch.banks))
                    break
                tell_round(console, progress, last, watch.banks)
                told += 1
            if told > last:
                status.update("registering the model in MLflow")
            group.check()
            if time.monotonic() - asked > STATE_POLL_S:
                state, message = campaign_state(endpoints.prefect_api, flow_run)
                if state == "COMPLETED":
                    return rounds
                if state in ("FAILED", "CRASHED", "CANCELLED"):
                    raise MintmarkError(f"the campaign's flow run ended {state}: {message}")
                asked = time.monotonic()
            time.sleep(MAILBOX_POLL_S)
    raise MintmarkError(
        f"expected the campaign to end within {CAMPAIGN_DEADLINE_S:.0f} s, got no end; look into the logs"
    )


def _pooled_auprc(consortium: EmbeddedConsortium, state: Any, campaign: Campaign) -> float:
    """A finished model on the pooled test rows, which only the demonstration can see."""
    booster = load(learner_of(campaign).export(state))
    labels, scores = [], []
    for bank in consortium.banks:  # one at a time: they may be large
        rows = load_table(Home(consortium.bank_home(bank)).data, consortium.schema).test_part()
        labels.append(rows.labels)
        scores.append(np.asarray(booster.predict(rows.features, raw_score=True)))
    return auprc(np.concatenate(labels), np.concatenate(scores))


def _honest_auprc(consortium: EmbeddedConsortium, campaign: Campaign) -> float:
    """The model of the same campaign where all banks are honest, played in memory with noise of its own."""
    rows = {
        bank: code_table(load_table(Home(consortium.bank_home(bank)).data, consortium.schema).train())
        for bank in consortium.banks
    }
    *_, last = simulate_coded(campaign, consortium.schema, rows)
    return _pooled_auprc(consortium, last.state, campaign)


def _epsilon(home: Path, watch: CampaignWatch) -> float:
    """What the campaign cost, from the bank's own ledger."""
    opened = Home(home)
    with Ledger.open(opened.ledger, opened.anchor) as ledger:
        return ledger.epsilon(delta=watch.plan(0).campaign.privacy.delta, campaign=CAMPAIGN)


def _round_entry(progress: RoundProgress, report: AggregationReport) -> dict[str, Any]:
    manifest = progress.manifest
    assert manifest is not None
    return {
        "round": progress.round,
        "accepted": [update.bank for update in manifest.accepted],
        "rejected": {rejection.bank: str(rejection.reason) for rejection in manifest.rejected},
        "late": list(manifest.late),
        "seconds": round(manifest.seconds, 2),
        "shares": {figures.bank: round(figures.share, 4) for figures in report.accepted},
        "distances": {figures.bank: round(figures.distance, 3) for figures in report.accepted},
    }


def _start_comparison(
    group: ProcessGroup, consortium: EmbeddedConsortium, environment: Mapping[str, str], rounds: int
) -> None:
    """Baselines and deployed models, in a process of their own beside the rounds."""
    homes = [str(consortium.bank_home(bank)) for bank in consortium.banks]
    output = str(consortium.state / "comparison.json")
    command = [sys.executable, "-m", "infra.embedded.comparison", output, CAMPAIGN, str(rounds), *homes]
    group.start(COMPARISON, command, env=environment, job=True)


def _await_comparison(group: ProcessGroup, consortium: EmbeddedConsortium) -> dict[str, Any]:
    group.finish(COMPARISON, COMPARISON_DEADLINE_S)
    figures: dict[str, Any] = json.loads((consortium.state / "comparison.json").read_text())
    return figures


def _stay(group: ProcessGroup) -> None:
    """Keep everything up until Ctrl-C, or until a server dies."""
    while True:
        group.check()
        time.sleep(1)
