"""`mintmark simulate`: a campaign of hundreds of banks in one process, without servers, for research and capacity planning.

The core is the product's (`mintmark.simulation`); banks are the demonstration's simulator, each as large as the next, made
one by one and kept as one byte a feature. Noise is seeded: a run can be repeated, and protects nobody. Left out: keys,
mailbox, ledgers, stragglers, the cost of moving bytes.

The report (`--report FILE`) holds `auprc` on the pooled held-out rows, `banks`, `rows`, `rounds[]` with `seconds`, `shares`
(smallest and largest) and `update_bytes`, `seconds.making`, `.rounds`, `.total` and `.cpu`, and `peak_memory_mib`.
"""

from __future__ import annotations

import json
import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.attacks import ATTACKS
from benchmarks.attacks.liars import Liars
from infra.embedded.comparison import auprc
from mintmark.aggregation.rules import DEFAULT_RULE
from mintmark.campaign import learner_named, learner_of
from mintmark.errors import DataError
from mintmark.models.boosting import GuidedBoosting
from mintmark.models.rows import RowState, code_table
from mintmark.plan import MAX_BANKS, Campaign, PrivacyTerms, PrivacyUnit
from mintmark.roster import rows_band
from mintmark.simulation import SettledRound, seeded_gaussian, simulate_coded
from mintmark.synthetic import SCHEMA, simulate_bank
from mintmark.table import build_table

FEWEST_ROWS = 1_000  # fewer may hold no fraud
DELTA = 1e-6
WIRE_BYTES = 4  # a number, sealed (docs/adr/0005)


@dataclass(frozen=True)
class SimulationOptions:
    """What the command line asks for."""

    banks: int = 300
    rounds: int = 10
    rows: int = 10_000
    epsilon: float = 4.0
    learner: str = GuidedBoosting.name
    rule: str = DEFAULT_RULE
    liars: int | None = None
    attack: str | None = None
    attackers: int = 0
    seed: int = 7
    report: Path | None = None


def run_simulation(options: SimulationOptions, console: Console) -> dict[str, Any]:
    """Run it, tell it and return the report. Raises `MintmarkError` with one sentence for options that cannot be."""
    started = time.perf_counter()
    campaign, lying = campaign_of(options)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        making = progress.add_task("making banks", total=options.banks)
        training, held_out = {}, []
        for number, bank in enumerate(campaign.cohort):
            training[bank], tested = _rows(options, number)
            held_out.append(tested)
            progress.advance(making)
        made = time.perf_counter()
        rounds, state = _run(options, campaign, training, lying, progress)
    report = {
        "auprc": round(_auprc(campaign, state, held_out), 4),
        "fraud_share": round(float(np.mean(np.concatenate([rows.labels for rows in held_out]))), 4),
        "banks": options.banks,
        "attackers": len(lying),
        "rows": int(sum(map(len, training.values())) + sum(map(len, held_out))),
        "rounds": rounds,
        "seconds": {
            "making": round(made - started, 1),
            "rounds": round(sum(entry["seconds"] for entry in rounds), 1),
            "total": round(time.perf_counter() - started, 1),
            "cpu": round(time.process_time(), 1),
        },
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    _tell(console, options, report)
    if options.report:
        options.report.write_text(json.dumps(report, indent=2) + "\n")
    return report


def campaign_of(options: SimulationOptions) -> tuple[Campaign, tuple[int, ...]]:
    """The campaign's terms, and which banks lie: the second one and those after it. Raises `MintmarkError`."""
    from flows.campaign import CLIP, aggregation_terms  # the product's terms; loads Prefect, starts nothing of it

    if not 2 <= options.banks <= MAX_BANKS or options.rows < FEWEST_ROWS:
        raise DataError(
            f"expected 2 to {MAX_BANKS} banks and {FEWEST_ROWS} rows each or more, got {options.banks} and {options.rows}"
        )
    if options.attack is not None and options.attack not in ATTACKS:
        raise DataError(f"expected an attack of {', '.join(ATTACKS)}; got {options.attack!r}")
    if options.attackers and options.attack is None:
        raise DataError("expected --attack with --attackers: what the liars do")
    attackers = max(1, options.attackers) if options.attack else 0
    if attackers >= options.banks:
        raise DataError(f"expected at most {options.banks - 1} attackers of {options.banks} banks, got {attackers}")
    unit, digits = PrivacyUnit.CUSTOMER, len(str(options.banks - 1))
    campaign = Campaign(
        name="simulation",
        seed=options.seed,
        learner=learner_named(options.learner).name,
        schema_digest=SCHEMA.digest(),
        rounds=options.rounds,
        privacy=PrivacyTerms(epsilon=options.epsilon, delta=DELTA, unit=unit, clip=CLIP[unit]),
        aggregation=aggregation_terms(options.rule, options.banks, options.liars),
        cohort=tuple(f"bank-{number:0{digits}d}" for number in range(options.banks)),
        quorum=options.banks,
    )
    return campaign, tuple(range(1, 1 + attackers))


def _rows(options: SimulationOptions, bank: int) -> tuple[RowState, RowState]:
    """A bank's rows to train on and those held out, a byte a feature; the table they came from is dropped."""
    table = build_table(SCHEMA, simulate_bank(options.seed, bank, options.rows))
    training = code_table(table.train())
    return training, code_table(table.test_part())


def _run(
    options: SimulationOptions,
    campaign: Campaign,
    training: dict[str, RowState],
    lying: tuple[int, ...],
    progress: Progress,
) -> tuple[list[dict[str, Any]], Any]:
    sizes = {bank: rows_band(len(rows)) for bank, rows in training.items()}
    liars = None
    if options.attack is not None:
        weights = np.array([sizes[bank] for bank in campaign.cohort], dtype=np.float64)
        liars = Liars(campaign, ATTACKS[options.attack], SCHEMA, weights, np.array(lying), options.seed)
    noise = seeded_gaussian(np.random.default_rng(options.seed))
    told, state = [], None
    task, began = progress.add_task("round 0", total=campaign.rounds), time.perf_counter()
    for settled in simulate_coded(campaign, SCHEMA, training, sizes=sizes, noise=noise, attack=liars):
        state = settled.state
        if liars is not None:
            liars.state = state
        told.append(_entry(settled, time.perf_counter() - began))
        progress.console.print(_line(campaign, told[-1]), highlight=False)
        progress.update(task, advance=1, description=f"round {len(told)}")
        began = time.perf_counter()
    return told, state


def _entry(settled: SettledRound, seconds: float) -> dict[str, Any]:
    coordinates = settled.artifact.history[-1].values.size
    return {
        "round": len(settled.artifact.history) - 1,
        "seconds": round(seconds, 2),
        "shares": [round(float(settled.shares.min()), 5), round(float(settled.shares.max()), 5)],
        "update_bytes": WIRE_BYTES * coordinates,
    }


def _line(campaign: Campaign, entry: dict[str, Any]) -> str:
    low, high = entry["shares"]
    return (
        f"  round {entry['round']:>2} of {campaign.rounds}  [dim]{entry['seconds']:>5.1f} s[/dim]  "
        f"an update {entry['update_bytes'] / 1000:.1f} kB, shares {100 * low:.2f} to {100 * high:.2f} %"
    )


def _auprc(campaign: Campaign, state: Any, held_out: list[RowState]) -> float:
    """Of the finished model, on everybody's held-out rows: what only a simulation can see."""
    scores = [learner_of(campaign).advance(state, replace(rows)).score for rows in held_out]
    return auprc(np.concatenate([rows.labels for rows in held_out]), np.concatenate(scores))


def _tell(console: Console, options: SimulationOptions, report: dict[str, Any]) -> None:
    seconds, sent = report["seconds"], max(entry["update_bytes"] for entry in report["rounds"])
    lines = {
        "AUPRC of the model": f"{report['auprc']:.3f} on all banks' held-out rows (by chance {report['fraud_share']:.3f})",
        "banks": f"{report['banks']}, of which {report['attackers']} lie; {report['rows']:,} rows in all",
        "a round's updates": f"{report['banks'] * sent / 1e6:.1f} MB at most",
        "time": f"{seconds['total']:.0f} s, {seconds['cpu']:.0f} of a core: making banks {seconds['making']:.0f}, "
        f"rounds {seconds['rounds']:.0f}",
        "peak memory": f"{report['peak_memory_mib']:,} MiB",
    }
    for name, line in lines.items():
        console.print(f"{name:<20} {line}", highlight=False, soft_wrap=True)
