"""Which rule keeps most of the model when banks lie: whole campaigns in memory, on the product's own learners.

    python -m benchmarks.robustness --data /path/to/credit_default.parquet

Every cell is one campaign at epsilon 4: a rule, an attack, a set of banks, a seed. Liars are f <= .3 n banks, those that
hold most of the rows without passing 30 %, and see everything (`benchmarks.attacks`); what they send is cut to the norm
that screening lets pass. Seeds are fresh, rules are compared on the same noise, nothing is chosen on test rows but the
default rule itself. Cells that var/benchmarks/robustness.json has already are not run again.

Left out: infinity and NaN, which the wire cannot carry and screening refuses.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attacks import ATTACKS, flip_labels
from benchmarks.attacks.liars import Liars
from infra.embedded.comparison import auprc
from infra.embedded.dataset import load_dataset
from mintmark.campaign import learner_of
from mintmark.models.lightgbm_text import load
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit
from mintmark.roster import rows_band
from mintmark.schema import FeatureSchema, parse_schema
from mintmark.simulation import seeded_gaussian, simulate_rounds
from mintmark.synthetic import simulate
from mintmark.table import Table, build_table

OUTPUT = Path("var/benchmarks/robustness.json")
SCHEMA = Path(__file__).parents[1] / "examples" / "uci_default.toml"
SIMULATED_ROWS = 300_000
ROUNDS, EPSILON = 8, 4.0
MOST_OF_BANKS = MOST_OF_ROWS = 0.3
HONEST = "none"
ROW_ATTACK = "label_flip"
FINALISTS = ("weighted_mean", "trimmed_mean:0.35", "coordinate_median", "caf", "arc+nnm+geometric_median")
CHAINS = (
    "weighted_mean", "trimmed_mean:0.35", "coordinate_median", "meamed", "geometric_median", "centred_clipping", "caf",
    "multi_krum", "nnm+trimmed_mean", "arc+nnm+geometric_median",
)  # fmt: skip
ATTACKING = (
    HONEST, "adaptive", "optimal_alie", "optimal_inner_product", "sign_flip", "scaling", ROW_ATTACK, "alie", "mimic",
    "gaussian", "size_lie",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Banks:
    """What a campaign needs: rows to train on, and all banks' held-out rows in one place."""

    schema: FeatureSchema
    training: Mapping[str, Table]
    features: Any
    labels: Any

    @property
    def sizes(self) -> Any:
        """The roster's row bands [n], in the order of the banks' names."""
        return np.array([rows_band(len(self.training[bank])) for bank in sorted(self.training)], dtype=np.float64)

    def liars(self) -> tuple[int, ...]:
        """The f banks that hold most of the rows without passing 30 %."""
        sizes = self.sizes / self.sizes.sum()
        sets = combinations(range(len(sizes)), int(MOST_OF_BANKS * len(sizes)))
        return max(
            (some for some in sets if sizes[list(some)].sum() <= MOST_OF_ROWS),
            key=lambda some: float(sizes[list(some)].sum()),
        )


def simulated(count: int, seed: int, _: Path | None) -> Banks:
    """The project's own simulator: unlike banks, fraud that moves on."""
    schema, columns = simulate(seed, banks=count, rows=SIMULATED_ROWS)
    return _banks(schema, {bank: build_table(schema, own) for bank, own in columns.items()})


def real(count: int, seed: int, data: Path | None) -> Banks:
    """Real credit card customers (uci_default), dealt to banks of which each has 1.25 times the rows of the next."""
    schema = parse_schema(SCHEMA.read_text())
    assert data is not None
    columns = list(load_dataset(data, schema).banks.values())
    rows = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    length = len(rows[schema.label])
    parts = 1.25 ** -np.arange(count)
    ends = np.cumsum(parts / parts.sum() * length).astype(int)[:-1]
    dealt = np.split(np.random.default_rng(seed).permutation(length), ends)
    tables = {
        f"bank-{number:02d}": build_table(schema, {name: column[own] for name, column in rows.items()})
        for number, own in enumerate(dealt)
    }
    return _banks(schema, tables)


def _banks(schema: FeatureSchema, tables: Mapping[str, Table]) -> Banks:
    held_out = [table.test_part() for table in tables.values()]
    return Banks(
        schema,
        {bank: table.train() for bank, table in tables.items()},
        np.concatenate([rows.features for rows in held_out]),
        np.concatenate([rows.labels for rows in held_out]),
    )


SETS: dict[str, Callable[[int, int, Path | None], Banks]] = {"simulator": simulated, "uci_default": real}


def run_campaign(banks: Banks, chain: str, attack: str, learner: str, seed: int) -> float:
    """AUPRC on all banks' held-out rows of one campaign's model."""
    names = tuple(sorted(banks.training))
    f = 0 if chain == "weighted_mean" else len(banks.liars())
    campaign = Campaign(
        name="robustness",
        seed=seed,
        learner=learner,
        schema_digest=banks.schema.digest(),
        rounds=ROUNDS,
        privacy=PrivacyTerms(epsilon=EPSILON, delta=1e-6, unit=PrivacyUnit.CUSTOMER, clip=0.5),
        aggregation=AggregationTerms(rule=chain, banks=len(names), byzantine=f),
        cohort=names,
        quorum=len(names),
    )
    training = dict(banks.training)
    if attack == ROW_ATTACK:
        training |= {names[bank]: flip_labels(training[names[bank]]) for bank in banks.liars()}
    liars = None
    if attack not in (HONEST, ROW_ATTACK):
        liars = Liars(campaign, ATTACKS[attack], banks.schema, banks.sizes, np.array(banks.liars()), seed)
    state: Any = None
    for settled in simulate_rounds(
        campaign, training, noise=seeded_gaussian(np.random.default_rng(seed)), attack=liars
    ):
        state = settled.state
        if liars is not None:
            liars.state = state
    scores = load(learner_of(campaign).export(state)).predict(banks.features, raw_score=True)
    return auprc(banks.labels, np.asarray(scores))


def main() -> None:
    """Run what is missing of the asked part of the table."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", type=Path, help="credit_default.parquet; without it only the simulator runs")
    ask.add_argument("--sets", nargs="*", default=list(SETS))
    ask.add_argument("--banks", nargs="*", type=int, default=[8, 20])
    ask.add_argument("--chains", nargs="*", default=list(CHAINS))
    ask.add_argument("--attacks", nargs="*", default=list(ATTACKING))
    ask.add_argument("--learner", default="guided_boosting")
    ask.add_argument("--seeds", nargs="*", type=int, default=[31, 32])
    asked = ask.parse_args()
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    for name, count, seed in product(asked.sets, asked.banks, asked.seeds):
        if name == "uci_default" and asked.data is None:
            continue
        banks = None
        for attack, chain in product(asked.attacks, asked.chains):
            cell = f"{asked.learner} {name} {count} {chain} {attack} {seed}"
            if cell in known:
                continue
            banks = banks or SETS[name](count, seed, asked.data)
            start = time.perf_counter()
            known[cell] = round(run_campaign(banks, chain, attack, asked.learner, seed), 4)
            print(f"{cell:<70} {known[cell]:.3f}  {time.perf_counter() - start:.1f} s", flush=True)
            OUTPUT.write_text(json.dumps(known, indent=0) + "\n")


if __name__ == "__main__":
    main()
