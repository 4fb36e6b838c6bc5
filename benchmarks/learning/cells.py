"""The benchmark's cells: one set, one seed and, where there is privacy, one epsilon. Each is computed once and kept.

A baseline cell has the banks' own models and their average, or the centralised model; a federated cell has the global
model and what each bank deploys. A cell is a list of records, one a method and place (a bank, or all banks' rows pooled),
and lies under the digest of the code that made it: figures of different code never mix.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.learning import tuning
from benchmarks.learning.banks import OwnModel, deploy, train_own
from benchmarks.learning.datasets import BenchmarkSet, pooled
from benchmarks.learning.figures import figures, resampled_auprc
from mintmark.campaign import learner_of
from mintmark.models import lightgbm_text
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit
from mintmark.privacy.ledger import write_durably
from mintmark.simulation import seeded_gaussian, simulate_rounds

Floats = npt.NDArray[np.float64]
Record = dict[str, Any]

DELTA = 1e-6
POOLED = "pooled"
ROOT = Path(__file__).parents[2]
_ROWS = ("benchmarks/learning/datasets.py", "benchmarks/learning/cells.py", "benchmarks/learning/figures.py")
_ROWS = (*_ROWS, "mintmark/table.py", "mintmark/synthetic.py", "examples/*.toml")
_BANKS = ("benchmarks/learning/banks.py", "bank_node/*.py")
CODE = {  # what decides the figures of a cell, by its kind
    "central": (*_ROWS, "benchmarks/learning/tuning.py", "benchmarks/learning/tuned.json"),
    "own": (*_ROWS, *_BANKS),
    "federated": (*_ROWS, *_BANKS, "mintmark/**/*.py"),
}


@dataclass(frozen=True, order=True)
class Cell:
    """`kind` is `central`, `own` or `federated`; `epsilon` is None without noise and in baseline cells."""

    seed: int
    set: str
    kind: str
    epsilon: float | None = None

    @property
    def name(self) -> str:
        budget = f"-{'none' if self.epsilon is None else f'{self.epsilon:g}'}" if self.kind == "federated" else ""
        return f"{self.set}-{self.kind}{budget}-{self.seed}"


@dataclass(frozen=True)
class Defaults:
    """What every campaign here works under: the product's defaults."""

    learner: str = "guided_boosting"
    rounds: int = 8
    clip: float = 0.5
    unit: PrivacyUnit = PrivacyUnit.CUSTOMER
    rule: str = "weighted_mean"


class CellStore:
    """Finished cells under `folder`, each a JSON file that appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folders = {kind: folder / f"{kind}-{_digest_of(files)}" for kind, files in CODE.items()}

    def path(self, cell: Cell, suffix: str = ".json") -> Path:
        return self._folders[cell.kind] / f"{cell.name}{suffix}"

    def read(self, cell: Cell) -> list[Record] | None:
        """The cell's records, or None when it is not finished."""
        path = self.path(cell)
        return json.loads(path.read_text())["records"] if path.exists() else None

    def seconds(self, cell: Cell) -> float:
        return float(json.loads(self.path(cell).read_text())["seconds"])

    def write(self, cell: Cell, records: list[Record], seconds: float) -> None:
        self.path(cell).parent.mkdir(parents=True, exist_ok=True)
        content = {"cell": asdict(cell), "seconds": round(seconds, 1), "records": records}
        write_durably(self.path(cell), json.dumps(content).encode())


def compute(cell: Cell, data: BenchmarkSet, store: CellStore, defaults: Defaults) -> None:
    """Compute a cell and keep it. A federated cell needs its seed's `own` cell to be there."""
    started = time.monotonic()
    records = {"own": _own, "central": _central, "federated": _federated}[cell.kind](cell, data, store, defaults)
    store.write(cell, list(records), time.monotonic() - started)


def _central(cell: Cell, data: BenchmarkSet, store: CellStore, defaults: Defaults) -> Iterable[Record]:
    chosen = json.loads(tuning.TUNED.read_text())[data.name]
    booster = tuning.fit(pooled(data.training), chosen, cell.seed)
    scores = {bank: booster.predict(rows.features, raw_score=True) for bank, rows in data.held_out.items()}
    return _records(cell, data, "central", scores)


def _own(cell: Cell, data: BenchmarkSet, store: CellStore, defaults: Defaults) -> Iterable[Record]:
    """Each bank's own model on its own rows; and the mean of all banks' log-odds, weighted by rows, on everybody's."""
    models = {bank: train_own(rows, cell.seed) for bank, rows in data.training.items()}
    sizes = np.array([len(rows) for rows in data.training.values()], dtype=np.float64)
    own, average = {}, {}
    for bank, rows in data.held_out.items():
        scores = np.array([model.scores(rows.features) for model in models.values()])
        own[bank] = scores[list(models).index(bank)]
        average[bank] = sizes @ scores / sizes.sum()
    store.path(cell).parent.mkdir(parents=True, exist_ok=True)
    for bank, model in models.items():
        store.path(cell, f"-{bank}.model").write_text(model.dump())
    return [*_records(cell, data, "own", own, resample=True), *_records(cell, data, "average", average)]


def _federated(cell: Cell, data: BenchmarkSet, store: CellStore, defaults: Defaults) -> Iterable[Record]:
    campaign = campaign_for(data, cell, defaults)
    noise = seeded_gaussian(np.random.default_rng([cell.seed, round(100 * (cell.epsilon or 0))]))
    *_, last = simulate_rounds(campaign, data.training, noise=noise)
    text = learner_of(campaign).export(last.state)
    booster = lightgbm_text.load(text)
    federated, deployed = {}, {}
    for bank, rows in data.held_out.items():
        federated[bank] = np.asarray(booster.predict(rows.features, raw_score=True))
        saved = store.path(Cell(cell.seed, cell.set, "own"), f"-{bank}.model").read_text()
        model = deploy(data.training[bank], OwnModel.load(saved), text, cell.seed)
        deployed[bank] = model.scores(rows.features)
    return [
        *_records(cell, data, "federated", federated, resample=True),
        *_records(cell, data, "deployed", deployed, resample=True),
    ]


def campaign_for(data: BenchmarkSet, cell: Cell, defaults: Defaults) -> Campaign:
    """The campaign of one federated cell."""
    cohort = tuple(sorted(data.training))
    return Campaign(
        name="benchmark",
        seed=cell.seed,
        learner=defaults.learner,
        schema_digest=data.schema.digest(),
        rounds=defaults.rounds,
        privacy=PrivacyTerms(epsilon=cell.epsilon, delta=DELTA, unit=defaults.unit, clip=defaults.clip),
        aggregation=AggregationTerms(rule=defaults.rule, banks=len(cohort)),
        cohort=cohort,
        quorum=len(cohort),
    )


def _records(
    cell: Cell, data: BenchmarkSet, method: str, scores: Mapping[str, Floats], *, resample: bool = False
) -> Iterable[Record]:
    """One record a bank, and one of all banks' rows pooled."""
    head = {"set": cell.set, "seed": cell.seed, "epsilon": cell.epsilon, "method": method}
    parts = []
    for bank, rows in data.held_out.items():
        part = (rows.labels, np.asarray(scores[bank]), data.value(rows))
        draws = resampled_auprc(rows.labels, part[1], rows.customers).round(5).tolist() if resample else []
        parts.append(part)
        yield {**head, "where": bank, **figures(*part), "draws": draws}
    labels, everything, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    yield {**head, "where": POOLED, **figures(labels, everything, value), "draws": []}


def _digest_of(patterns: Iterable[str]) -> str:
    files = sorted({path for pattern in patterns for path in ROOT.glob(pattern)})
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
