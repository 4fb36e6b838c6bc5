"""The benchmark's cells: one set, one seed and, where there is privacy, one epsilon. Each is computed once and kept.

    tuned       what every bank's own search chooses; once a set
    own         the banks' own models, and the average of their log-odds
    central     one model of all rows in one place
    federated   the global model of a campaign; linear: the same with logistic regression as the learner
    deployed    what each bank makes of its own model and the global one

A cell is a list of records, one a method and place (a bank, or all banks' rows pooled), and lies under the digest of the
code that made it: figures of different code never mix.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.learning import banks, tuning
from benchmarks.learning.datasets import BenchmarkSet, pooled
from benchmarks.learning.figures import figures, resampled_auprc
from flows.campaign import CLIP, aggregation_terms
from mintmark.aggregation.rules import DEFAULT_RULE
from mintmark.campaign import learner_of
from mintmark.messages import ModelArtifact
from mintmark.models import lightgbm_text
from mintmark.models.boosting import GuidedBoosting
from mintmark.models.linear import LogisticRegression
from mintmark.plan import Campaign, PrivacyTerms, PrivacyUnit
from mintmark.privacy.ledger import write_durably
from mintmark.simulation import seeded_gaussian, simulate_rounds

Floats = npt.NDArray[np.float64]
Record = dict[str, Any]

DELTA = 1e-6
POOLED = "pooled"
WITH_BUDGET = ("federated", "linear", "deployed")
ROOT = Path(__file__).parents[2]
_ROWS = ("benchmarks/learning/datasets.py", "benchmarks/learning/cells.py", "benchmarks/learning/figures.py")
_ROWS = (*_ROWS, "mintmark/table.py", "mintmark/synthetic.py", "examples/*.toml")
_OWN = ("benchmarks/learning/banks.py", "bank_node/personal/own_model.py")
_GLOBAL = ("mintmark/**/*.py", "flows/campaign.py")
_CENTRAL = ("benchmarks/learning/tuning.py", "benchmarks/learning/tuned.json")
CODE = {  # what decides the figures of a cell, by its kind
    "tuned": (*_ROWS, *_OWN),
    "own": (*_ROWS, *_OWN),
    "central": (*_ROWS, *_CENTRAL),
    "federated": (*_ROWS, *_GLOBAL),
    "linear": (*_ROWS, *_GLOBAL),
    "deployed": (*_ROWS, *_OWN, *_GLOBAL, "bank_node/**/*.py"),
}


@dataclass(frozen=True, order=True)
class Cell:
    """`epsilon` is None without noise, and where the kind knows none; `unit` is whom the noise hides."""

    seed: int
    set: str
    kind: str
    epsilon: float | None = None
    unit: PrivacyUnit = PrivacyUnit.CUSTOMER

    @property
    def name(self) -> str:
        if self.kind not in WITH_BUDGET:
            return f"{self.set}-{self.kind}-{self.seed}"
        budget = "none" if self.epsilon is None else f"{self.epsilon:g}"
        return f"{self.set}-{self.kind}-{self.unit}-{budget}-{self.seed}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """The cells that must be there before this one."""
        match self.kind:
            case "own":
                return (Cell(0, self.set, "tuned"),)
            case "deployed":
                return (Cell(self.seed, self.set, "own"), replace(self, kind="federated"))
            case _:
                return ()


@dataclass(frozen=True)
class Defaults:
    """What every campaign here works under: the defaults of `flows.campaign`."""

    learner: str = GuidedBoosting.name
    rounds: int = 9
    rule: str = DEFAULT_RULE


class CellStore:
    """Finished cells under `folder`, each a JSON file that appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folders = {kind: folder / f"{kind}-{_digest_of(files)}" for kind, files in CODE.items()}

    def path(self, cell: Cell, suffix: str = ".json") -> Path:
        return self._folders[cell.kind] / f"{cell.name}{suffix}"

    def has(self, cell: Cell) -> bool:
        return self.path(cell).exists()

    def read(self, cell: Cell) -> list[Record]:
        """The records of a finished cell."""
        return list(json.loads(self.path(cell).read_text())["records"])

    def seconds(self, cell: Cell) -> float:
        return float(json.loads(self.path(cell).read_text())["seconds"])

    def write(self, cell: Cell, records: list[Record], seconds: float) -> None:
        content = {"cell": asdict(cell), "seconds": round(seconds, 1), "records": records}
        write_durably(self.path(cell), json.dumps(content).encode())


def compute(cell: Cell, data: BenchmarkSet, store: CellStore, defaults: Defaults) -> None:
    """Compute a cell and keep it. What it needs must be there."""
    started = time.monotonic()
    store.path(cell).parent.mkdir(parents=True, exist_ok=True)
    match cell.kind:
        case "tuned":
            records: Iterable[Record] = _tuned(data)
        case "own":
            records = _own(cell, data, store)
        case "central":
            records = _central(cell, data)
        case "federated":
            records = _federated(cell, data, store, defaults)
        case "linear":
            records = _federated(cell, data, store, replace(defaults, learner=LogisticRegression.name))
        case _:
            records = _deployed(cell, data, store)
    store.write(cell, list(records), time.monotonic() - started)


def _tuned(data: BenchmarkSet) -> Iterable[Record]:
    for bank, rows in data.training.items():
        yield {"where": bank, "parameters": dict(banks.tune_own(rows))}


def _own(cell: Cell, data: BenchmarkSet, store: CellStore) -> Iterable[Record]:
    """Each bank's own model on its own rows; and the mean of all banks' log-odds, weighted by rows, on everybody's."""
    (needed,) = cell.needs
    chosen = {record["where"]: record["parameters"] for record in store.read(needed)}
    models = {bank: banks.train_own(rows, chosen[bank], cell.seed) for bank, rows in data.training.items()}
    for bank, model in models.items():
        banks.save_own(store.path(cell, f"-{bank}.models"), model)
    sizes = np.array([len(rows) for rows in data.training.values()], dtype=np.float64)
    own, average = {}, {}
    for bank, rows in data.held_out.items():
        scores = np.array([banks.own_scores(model, rows.features) for model in models.values()])
        own[bank] = scores[list(models).index(bank)]
        average[bank] = sizes @ scores / sizes.sum()
    return [*_records(cell, data, "own", own, resample=True), *_records(cell, data, "average", average)]


def _central(cell: Cell, data: BenchmarkSet) -> Iterable[Record]:
    chosen = json.loads(tuning.TUNED.read_text())[data.name]
    booster = tuning.fit(pooled(data.training), chosen, cell.seed)
    scores = {bank: booster.predict(rows.features, raw_score=True) for bank, rows in data.held_out.items()}
    return _records(cell, data, "central", scores)


def _federated(cell: Cell, data: BenchmarkSet, store: CellStore, defaults: Defaults) -> Iterable[Record]:
    campaign = campaign_for(data, cell, defaults)
    noise = seeded_gaussian(np.random.default_rng([cell.seed, round(100 * (cell.epsilon or 0))]))
    *_, last = simulate_rounds(campaign, data.training, noise=noise)
    store.path(cell, ".model").write_bytes(last.artifact.encode())
    booster = lightgbm_text.load(learner_of(campaign).export(last.state))
    scores = {bank: booster.predict(rows.features, raw_score=True) for bank, rows in data.held_out.items()}
    return _records(cell, data, cell.kind, scores)


def _deployed(cell: Cell, data: BenchmarkSet, store: CellStore) -> Iterable[Record]:
    own, federated = cell.needs
    artifact = ModelArtifact.decode(store.path(federated, ".model").read_bytes())
    scores, kept = {}, {}
    for bank, rows in data.training.items():
        personal = banks.deploy(banks.read_own(store.path(own, f"-{bank}.models"), rows), rows, artifact, bank)
        scores[bank] = banks.deployed_scores(personal, data.held_out[bank].features)
        kept[bank] = personal.deployed.terms.keeps_own
    for record in _records(cell, data, "deployed", scores, resample=True):
        yield {**record, "keeps_own": kept.get(record["where"])}


def campaign_for(data: BenchmarkSet, cell: Cell, defaults: Defaults) -> Campaign:
    """The campaign of one federated cell."""
    cohort = tuple(sorted(data.training))
    return Campaign(
        name="benchmark",
        seed=cell.seed,
        learner=defaults.learner,
        schema_digest=data.schema.digest(),
        rounds=defaults.rounds,
        privacy=PrivacyTerms(epsilon=cell.epsilon, delta=DELTA, unit=cell.unit, clip=CLIP[cell.unit]),
        aggregation=aggregation_terms(defaults.rule, len(cohort), None),
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
        yield {**head, "where": bank, "rows": len(data.training[bank]), **figures(*part), "draws": draws}
    labels, everything, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    rows = sum(map(len, data.training.values()))
    yield {**head, "where": POOLED, "rows": rows, **figures(labels, everything, value), "draws": []}


def _digest_of(patterns: Iterable[str]) -> str:
    files = sorted({path for pattern in patterns for path in ROOT.glob(pattern)})
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
