"""A many-draw audit of what a bank sends, and of wrong variants of it (`mutants.py`): `make audit`.

The bank's own code answers one plan: table, policy, model, contributions, clipping, sum, charge, draw, send. It does so
for a table with and without the customer who matters most, and the noise is drawn tens of thousands of times. From how
well the two can be told apart follows a lower bound on epsilon, to be held against what the bank's ledger says was paid.

    python tests/audit.py        # prints a table, writes var/audit.json, fails when something is not as it should be
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from consortium import POLICY, Bank, Consortium, payments
from mutants import MUTANTS, Mutant
from scipy.optimize import brentq
from scipy.special import betaincinv, log_ndtr, ndtri

from bank_node import local_round
from bank_node.settings import Home
from mintmark.mailbox import plan_key
from mintmark.plan import RoundPlan
from mintmark.privacy.accountant import total_mu
from mintmark.privacy.mechanism import BoundedSum
from mintmark.schema import Feature, FeatureKind, FeatureSchema

DELTA = 1e-6
FALSE_ALARM = 1e-6  # how often a bound may exceed the truth: far less than the 5 % of a 95 % bound
DRAWS = {1.0: 100_000, 3.0: 20_000, 8.0: 20_000}  # by declared epsilon: the smaller, the more it takes to see it
MUTANTS_DECLARED, MUTANTS_DRAWS = 1.0, 20_000
FLOOR = 0.6  # of the declared epsilon: an audit that finds less would miss too much
REPLAYS = 2_000
ATTEMPTS = 4
CANARY = 77
SCHEMA = FeatureSchema("canary", (Feature("amount", FeatureKind.LOG, 1, 1000),), "fraud", "card", "bank", "test")
LARGE = (
    POLICY.replace("smallest_cohort = 3", "smallest_cohort = 2")
    .replace("epsilon_per_round = 4.0", "epsilon_per_round = 10.0")
    .replace("epsilon_per_campaign = 4.0", "epsilon_per_campaign = 10.0")
)


@dataclass(frozen=True)
class Finding:
    """What one audit found. `charged` is epsilon by the bank's own ledger, `lower_bound` what was shown of it at least;
    `moved` is how far the customer moved the exact sum, as a multiple of the sensitivity that was charged."""

    declared: float
    charged: float
    lower_bound: float
    moved: float
    releases: int
    draws: int

    @property
    def sound(self) -> bool:
        """Nothing shown that was not paid for, and the sum within its bound."""
        return self.lower_bound <= self.charged <= self.declared and self.moved <= 1

    @property
    def sharp(self) -> bool:
        """Enough is shown that a fault would be, too."""
        return self.lower_bound > FLOOR * self.declared


class Exposed:
    """A consortium in which bank-0 is asked for gradients and hessians, and has one customer who shows most: forty equal
    frauds, all in one leaf, far over the clipping norm. Its twin is the same bank without that customer."""

    def __init__(self, root: Path) -> None:
        self._fresh = (root / f"copy-{number}" for number in itertools.count())
        self.consortium = Consortium(root, (300, 300, 300), policy=LARGE, schema=SCHEMA, data=_with_canary)
        model = self.consortium.campaign(epsilon=10.0, quorum=2)
        first = self.consortium.plan(model)
        for name in ("bank-1", "bank-2"):
            self.consortium.answer(name, first)
        self._honest = self.consortium.plan(self.consortium.settle(first))
        self._bank = self.consortium.banks["bank-0"]
        self._objects = dict(self.consortium.store._objects)

    def audit(self, declared: float, draws: int) -> Finding:
        """Answer a plan of that price in four attempts, then draw `draws` times, half of them without the customer."""
        bank, twin = self._copy(), self._without(self._copy())
        self.consortium.banks["bank-0"] = bank
        plans = [self._plan(declared, attempt) for attempt in range(ATTEMPTS)]
        there, gone = (local_round.measure(each, plans[0]) for each in (bank, twin))
        for plan in plans:
            self.consortium.answer("bank-0", plan)
        releases = len({self.consortium.sums_sent("bank-0", plan) for plan in plans})
        with self.consortium.ledger("bank-0") as ledger:
            charged = ledger.epsilon(delta=DELTA)
        pair = _where_they_differ(gone.vector, there.vector)
        mu = shown_mu(pair, plans[0].noise_scale, draws, releases)
        moved = math.sqrt(sum(step**2 for step in (there.vector - gone.vector).tolist())) / there.sensitivity
        return Finding(declared, charged, epsilon_of(mu), moved, releases, draws)

    def _plan(self, declared: float, attempt: int) -> RoundPlan:
        noise = self._honest.clipping_norm / total_mu(declared, DELTA)
        plan = self._honest.model_copy(update={"noise_scale": noise, "attempt": attempt})
        message = plan.signed(self.consortium.coordinator.signer)
        self.consortium.store._objects[plan_key("cards", plan.round, attempt)] = message
        return plan

    def _copy(self) -> Bank:
        """The bank before its first answer, in a folder of its own; the mailbox as it was then."""
        home = next(self._fresh)
        shutil.copytree(self._bank.home.path, home)
        self.consortium.store._objects.clear()
        self.consortium.store._objects.update(self._objects)
        return dataclasses.replace(self._bank, home=Home(home))

    def _without(self, bank: Bank) -> Bank:
        table = pq.read_table(bank.home.data)
        pq.write_table(table.filter(pc.not_equal(table["card"], CANARY)), bank.home.data)
        return bank


def _with_canary(number: int, rows: int) -> dict[str, np.ndarray]:
    columns = payments(rows, seed=number, prefix=1000 * (number + 1))
    for column, value in {"amount": 900.0, "fraud": 1, "card": CANARY, "test": False}.items():
        columns[column][: 40 if number == 0 else 0] = value
    return columns


def _where_they_differ(gone: np.ndarray, there: np.ndarray) -> np.ndarray:
    """[2, cells, 2]: both sums in the cells where they differ; the others hold the same in both, and independent noise."""
    pair = np.stack([gone, there]).reshape(2, -1, 2)
    return pair[:, (pair[0] != pair[1]).any(axis=1)]


def shown_mu(pair: np.ndarray, noise_scale: float, draws: int, releases: int) -> float:
    r"""A lower bound on the $\mu$ of Gaussian differential privacy, wrong at most once in 1 / FALSE_ALARM audits.

    `pair` [2, cells, 2] are the sums without and with the customer. An attacker who knows both guesses which one was
    released by a threshold midway: of all coordinates, of gradients or hessians alone, or after running the mechanism
    once more and subtracting its noise. A $\mu$-GDP mechanism lets error rates of both kinds add up to no less than
    $2 \Phi(-\mu / 2)$ (Dong, Roth and Su 2022); their sum is bounded by Clopper and Pearson over all guesses, which
    holds for two unequal rates too (Hoeffding 1956).
    """
    released = _draw(pair, noise_scale, draws // 2, releases).mean(axis=2)  # [2, draws / 2, cells, 2]
    noise = _draw(np.zeros_like(pair), noise_scale, REPLAYS // 2, 1)
    replayed = (_draw(pair, noise_scale, REPLAYS // 2, 1) - noise).mean(axis=2)
    columns = ([1, 1], [1, 0], [0, 1])
    guesses = [(released, pair * np.array(kept)) for kept in columns] + [(replayed, pair)]
    return max(_mu_of_guesses(drawn, known, FALSE_ALARM / len(guesses)) for drawn, known in guesses)


def _draw(pair: np.ndarray, noise_scale: float, draws: int, releases: int) -> np.ndarray:
    """[2, draws, releases, cells, 2]: what leaves, as the bank draws it."""
    shape = (len(pair), draws, releases, *pair.shape[1:])
    vector = np.broadcast_to(pair[:, None, None], shape).reshape(-1)
    return local_round.release(BoundedSum(vector, 1), noise_scale=noise_scale).reshape(shape)


def _mu_of_guesses(drawn: np.ndarray, known: np.ndarray, false_alarm: float) -> float:
    direction = (known[1] - known[0]).astype(float)
    if not direction.any():
        return 0.0
    direction /= np.linalg.norm(direction)
    score = np.einsum("wncv,cv->wn", drawn, direction)
    threshold = (known.sum(axis=0) / 2 * direction).sum()
    wrong = int((score[0] > threshold).sum() + (score[1] <= threshold).sum())
    rate = betaincinv(wrong + 1, max(score.size - wrong, 1), 1 - false_alarm)
    return max(0.0, -2 * float(ndtri(rate)))


def epsilon_of(mu: float) -> float:
    """Epsilon at DELTA of a mu-GDP mechanism (Balle and Wang 2018, Theorem 8)."""

    def excess(epsilon: float) -> float:
        above, below = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
        return float(math.exp(above) - math.exp(below)) - DELTA

    return float(brentq(excess, 0, 500)) if mu > 1e-3 and excess(0) > 0 else 0.0


def audit_mutant(exposed: Exposed, mutant: Mutant) -> Finding:
    """The same audit of a wrong variant."""
    with mutant():
        return exposed.audit(MUTANTS_DECLARED, MUTANTS_DRAWS)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="mintmark-audit-") as root:
        exposed = Exposed(Path(root))
        honest = [exposed.audit(declared, draws) for declared, draws in DRAWS.items()]
        wrong = {name: audit_mutant(exposed, mutant) for name, mutant in MUTANTS.items()}
    print(f"{'':<26} declared  charged  shown at least  sum moved  releases   draws")
    for name, found in [*(("as it is", found) for found in honest), *wrong.items()]:
        verdict = "caught" if not found.sound else "sound" if found.sharp else "not sharp enough"
        print(
            f"{name:<26} {found.declared:8.2f} {found.charged:8.2f} {found.lower_bound:15.2f} {found.moved:10.6g}"
            f" {found.releases:9} {found.draws:7}  {verdict}"
        )
    target = Path("var/audit.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(_record(honest, wrong), indent=2) + "\n")
    passed = all(found.sound and found.sharp for found in honest) and not any(found.sound for found in wrong.values())
    print(
        "passed" if passed else "FAILED: a variant was not caught, or the bank's own code shows more than it paid for"
    )
    return 0 if passed else 1


def _record(honest: list[Finding], wrong: dict[str, Finding]) -> dict[str, object]:
    """Parallel lists over the declared epsilons, and what became of every mutant."""
    columns = {field: [getattr(found, field) for found in honest] for field in dataclasses.asdict(honest[0])}
    mutants = [{"name": name, "caught": not found.sound, **dataclasses.asdict(found)} for name, found in wrong.items()]
    return {"delta": DELTA, "false_alarm": FALSE_ALARM, **columns, "mutants": mutants}


if __name__ == "__main__":
    sys.exit(main())
