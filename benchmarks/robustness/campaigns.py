"""One cell of the table: a set, its banks, a learner, a rule, an attack, a seed; and the AUPRC of the campaign's model.

Liars are f <= .3 n banks, those that hold most of the rows without passing 30 %, and see everything (`benchmarks.attacks`);
what they send is cut to the norm that screening lets pass, then screened and aggregated as in use. Seeds are fresh, and
all rules and attacks of a seed meet the same noise.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attacks import ATTACKS, Floats, Scene, flip_labels
from flows.campaign import CLIP
from infra.embedded.comparison import auprc
from infra.embedded.dataset import load_dataset
from mintmark.campaign import learner_of, noise_for
from mintmark.models.lightgbm_text import load
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit
from mintmark.privacy.ledger import write_durably
from mintmark.privacy.mechanism import LATTICE
from mintmark.roster import rows_band
from mintmark.round import norm_bound
from mintmark.schema import FeatureSchema, parse_schema
from mintmark.simulation import screened_total, seeded_gaussian, simulate_rounds
from mintmark.synthetic import simulate
from mintmark.table import Columns, Table, build_table

ROOT = Path(__file__).parents[2]
SETS = ("simulator", "uci_default")
REAL_ROWS = "uci_default/credit_default.parquet"
SIMULATED_ROWS = 300_000
ROUNDS, EPSILON, DELTA = 8, 4.0, 1e-6
MOST_OF_BANKS = MOST_OF_ROWS = 0.3
HONEST, ROW_ATTACK = "none", "label_flip"
CODE = (
    "mintmark/**/*.py",
    "benchmarks/attacks/*.py",
    "benchmarks/robustness/campaigns.py",
    "examples/uci_default.toml",
)


@dataclass(frozen=True, order=True)
class Cell:
    """One campaign."""

    seed: int
    set: str
    banks: int
    learner: str
    attack: str
    rule: str

    @property
    def name(self) -> str:
        return f"{self.set}-{self.banks}-{self.learner}-{self.rule.replace(':', '')}-{self.attack}-{self.seed}"


@dataclass(frozen=True, eq=False)
class Banks:
    """What a campaign needs: rows to train on, and all banks' held-out rows in one place."""

    schema: FeatureSchema
    training: Mapping[str, Table]
    features: Floats
    labels: Any

    @classmethod
    def of(cls, schema: FeatureSchema, columns: Mapping[str, Columns]) -> Banks:
        """Of the rows that each bank has."""
        tables = {bank: build_table(schema, own) for bank, own in columns.items()}
        held_out = [table.test_part() for table in tables.values()]
        return cls(
            schema,
            {bank: table.train() for bank, table in tables.items()},
            np.concatenate([rows.features for rows in held_out]),
            np.concatenate([rows.labels for rows in held_out]),
        )

    @property
    def sizes(self) -> Floats:
        """The roster's row bands [n], in the order of the banks' names."""
        return np.array([rows_band(len(self.training[bank])) for bank in sorted(self.training)], dtype=np.float64)

    def liars(self) -> tuple[int, ...]:
        """The f banks that hold most of the rows without passing 30 %."""
        shares = self.sizes / self.sizes.sum()
        sets = combinations(range(len(shares)), int(MOST_OF_BANKS * len(shares)))
        held = {some: float(shares[list(some)].sum()) for some in sets}
        return max((some for some in held if held[some] <= MOST_OF_ROWS), key=held.__getitem__)


class CellStore:
    """Finished cells under `folder`, by a digest of the code that decides them: each a JSON file that appears whole or
    not at all."""

    def __init__(self, folder: Path) -> None:
        files = sorted({path for pattern in CODE for path in ROOT.glob(pattern)})
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
        self._folder = folder / digest

    def _path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.name}.json"

    def has(self, cell: Cell) -> bool:
        return self._path(cell).exists()

    def read(self, cell: Cell) -> dict[str, Any]:
        """The cell's fields, `auprc` and `seconds` of a core."""
        return dict(json.loads(self._path(cell).read_text()))

    def write(self, cell: Cell, figure: float, seconds: float) -> None:
        content = {**asdict(cell), "auprc": round(figure, 4), "seconds": round(seconds, 1)}
        write_durably(self._path(cell), json.dumps(content).encode())


def compute(cell: Cell, data: Path, store: CellStore) -> None:
    """Run the cell's campaign and keep its figure."""
    banks, start = load_banks(cell.set, cell.banks, cell.seed, data), time.process_time()
    store.write(cell, run_campaign(banks, cell), time.process_time() - start)


@cache
def load_banks(name: str, count: int, seed: int, data: Path) -> Banks:
    """The simulator's unlike banks, whose fraud moves on; or real card customers, dealt to banks of which each has 1.25
    times the rows of the next. Raises `DataError` when the shared sets are not under `data`."""
    if name == "simulator":
        return Banks.of(*simulate(seed, banks=count, rows=SIMULATED_ROWS))
    schema = parse_schema((ROOT / "examples" / "uci_default.toml").read_text())
    return Banks.of(schema, _dealt(load_dataset(data / REAL_ROWS, schema).banks, count, seed))


def _dealt(banks: Mapping[str, Columns], count: int, seed: int) -> dict[str, Columns]:
    parts = list(banks.values())
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    length = len(next(iter(rows.values())))
    shares = 1.25 ** -np.arange(count)
    ends = np.cumsum(shares / shares.sum() * length).astype(int)[:-1]
    dealt = np.split(np.random.default_rng(seed).permutation(length), ends)
    return {
        f"bank-{number:02d}": {name: column[own] for name, column in rows.items()} for number, own in enumerate(dealt)
    }


class Liars:
    """Sends, for the liars of one campaign, what `attack` says; `state` is the learner's before the round."""

    def __init__(self, campaign: Campaign, attack: str, banks: Banks, seed: int) -> None:
        self.campaign, self.attack, self.sizes = campaign, attack, banks.sizes
        self.liars = np.array(banks.liars())
        self.state = learner_of(campaign).start(campaign, banks.schema)
        self.rng = np.random.default_rng(seed)
        self.doubted: frozenset[str] = frozenset()

    def __call__(self, number: int, updates: Floats) -> Floats:
        query = learner_of(self.campaign).query(self.state)
        scale, _ = noise_for(self.campaign, number, query)
        sizes = self.sizes[:, None]

        def rule(rates: Floats) -> Floats:
            return screened_total(self.campaign, self.sizes, rates * sizes, scale / LATTICE, self.doubted)[0].rate

        scene = Scene(updates / sizes, self.liars, scale / LATTICE / self.sizes, rule, self.rng)
        arriving = updates.copy()
        for bank, lie in zip(self.liars, ATTACKS[self.attack](scene), strict=True):
            sums = lie * self.sizes[bank]
            most = norm_bound(int(self.sizes[bank]), query.slots, updates.shape[1], scale) / LATTICE
            arriving[bank] = sums * (most / max(float(np.linalg.norm(sums)), most))
        return arriving


def campaign_of(banks: Banks, learner: str, rule: str, seed: int) -> Campaign:
    """The campaign of a cell: of all banks, as many liars as there are feared under any rule but the plain mean."""
    names = tuple(sorted(banks.training))
    f = 0 if rule == "weighted_mean" else len(banks.liars())
    return Campaign(
        name="robustness",
        seed=seed,
        learner=learner,
        schema_digest=banks.schema.digest(),
        rounds=ROUNDS,
        privacy=PrivacyTerms(epsilon=EPSILON, delta=DELTA, unit=PrivacyUnit.CUSTOMER, clip=CLIP[PrivacyUnit.CUSTOMER]),
        aggregation=AggregationTerms(rule=rule, banks=len(names), byzantine=f),
        cohort=names,
        quorum=len(names),
    )


def run_campaign(banks: Banks, cell: Cell) -> float:
    """AUPRC on all banks' held-out rows of one campaign's model."""
    campaign = campaign_of(banks, cell.learner, cell.rule, cell.seed)
    training = dict(banks.training)
    if cell.attack == ROW_ATTACK:
        lying = [campaign.cohort[place] for place in banks.liars()]
        training |= {bank: flip_labels(training[bank]) for bank in lying}
    liars = None if cell.attack in (HONEST, ROW_ATTACK) else Liars(campaign, cell.attack, banks, cell.seed)
    state: Any = None
    noise = seeded_gaussian(np.random.default_rng(cell.seed))
    for settled in simulate_rounds(campaign, training, noise=noise, attack=liars):
        state = settled.state
        if liars is not None:
            liars.state, liars.doubted = state, settled.doubted
    scores = load(learner_of(campaign).export(state)).predict(banks.features, raw_score=True)
    return auprc(banks.labels, np.asarray(scores))
