r"""A whole campaign in memory, for research and benchmarks: what banks and coordinator compute, without what lies between.

The learner, clipping, lattice, noise scale, wire rounding, screening against the others and robust rule are those in use,
so a model made here is the one that the protocol makes (with the noise off: to the byte). Left out: keys, mailbox,
policies, ledgers and stragglers; every bank answers every round. Nothing here protects anybody: it holds all banks' rows
in one place.

>>> from mintmark.plan import AggregationTerms, PrivacyTerms
>>> from mintmark.synthetic import simulate
>>> from mintmark.table import build_table
>>> schema, columns = simulate(seed=7, banks=2, rows=4_000)
>>> tables = {bank: build_table(schema, own) for bank, own in columns.items()}
>>> campaign = Campaign(
...     name="cards", seed=1, learner="guided_boosting", schema_digest=schema.digest(), rounds=3,
...     privacy=PrivacyTerms(epsilon=8.0, delta=1e-6, unit=PrivacyUnit.CUSTOMER),
...     aggregation=AggregationTerms(rule="weighted_mean", banks=2), cohort=tuple(tables), quorum=2,
... )
>>> training = {bank: table.train() for bank, table in tables.items()}
>>> *_, last = simulate_rounds(campaign, training, noise=seeded_gaussian(np.random.default_rng(7)))
>>> last.state.round, len(last.artifact.history)
(3, 3)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mintmark.aggregation.cohort import CohortTotal, combine
from mintmark.aggregation.report import figures_of, suspicion_of
from mintmark.aggregation.screening import Rejection, screen
from mintmark.campaign import learner_of, noise_for, shape_of
from mintmark.messages import ModelArtifact, decode_sums, encode_sums
from mintmark.models.learner import NoisySum, Query
from mintmark.models.rows import RowState, code_table
from mintmark.plan import Campaign, PrivacyUnit
from mintmark.privacy.mechanism import LATTICE, BoundedSum, bounded_sum, release
from mintmark.roster import rows_band
from mintmark.schema import FeatureSchema
from mintmark.table import Table

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

Attack = Callable[[int, Floats], Floats]
"""(round, noised updates [n, d] in units of 1.0, in the order of the cohort) -> the updates that arrive."""


class Noise(Protocol):
    """Makes of an exact sum what may leave. `release` is the real one."""

    def __call__(self, total: BoundedSum, *, noise_scale: float) -> Ints: ...


@dataclass(frozen=True, eq=False)
class SettledRound:
    """After a round: the learner's `state`, the `artifact` it follows from, each bank's share [n] in the round, the banks
    that screening has refused so far, and each bank's suspicion."""

    state: Any
    artifact: ModelArtifact
    shares: Floats
    doubted: frozenset[str]
    suspicion: Mapping[str, float]


def seeded_gaussian(generator: np.random.Generator) -> Noise:
    """Noise that can be repeated, **for research only**: who knows the seed can take it off again. What leaves a bank is
    drawn by `release`, which takes no seed."""

    def draw(total: BoundedSum, *, noise_scale: float) -> Ints:
        noise = np.rint(generator.normal(0.0, noise_scale, len(total.vector)))
        return total.vector + noise.astype(np.int64)

    return draw


def simulate_rounds(
    campaign: Campaign,
    training: Mapping[str, Table],
    *,
    held_out: Mapping[str, Table] | None = None,
    sizes: Mapping[str, int] | None = None,
    noise: Noise = release,
    attack: Attack | None = None,
) -> Iterator[SettledRound]:
    """Run the campaign over each bank's `training` rows, yielding after every round.

    The rounds are an iterator: take them one by one to show progress or to stop early, or the last for the model.
    With `held_out` rows the evaluation round follows the training rounds. `sizes` are the row bands of the roster, those
    of the training rows unless given. `noise` is not called in a campaign without epsilon.

    Raises:
        ValueError: the banks are not the campaign's cohort.
        ProtocolError, PrivacyError, AggregationError: as in a real round.
    """
    _check_cohort(campaign, training)
    schema = training[campaign.cohort[0]].schema
    rows = {bank: code_table(training[bank]) for bank in campaign.cohort}
    tested = None if held_out is None else {bank: code_table(held_out[bank]) for bank in campaign.cohort}
    return simulate_coded(campaign, schema, rows, held_out=tested, sizes=sizes, noise=noise, attack=attack)


def simulate_coded(
    campaign: Campaign,
    schema: FeatureSchema,
    training: Mapping[str, RowState],
    *,
    held_out: Mapping[str, RowState] | None = None,
    sizes: Mapping[str, int] | None = None,
    noise: Noise = release,
    attack: Attack | None = None,
) -> Iterator[SettledRound]:
    """What `simulate_rounds` does, for rows that are coded already, a byte a feature: hundreds of banks fit in memory."""
    _check_cohort(campaign, training)
    learner = learner_of(campaign)
    bands = sizes or {bank: rows_band(len(rows)) for bank, rows in training.items()}
    weights = np.array([bands[bank] for bank in campaign.cohort], dtype=np.float64)
    artifact, state = ModelArtifact(campaign), learner.start(campaign, schema)
    doubted: set[str] = set()
    suspicion: dict[str, float] = {}
    rows = {bank: training[bank] for bank in campaign.cohort}
    for number in range(campaign.rounds + (held_out is not None)):
        if held_out is not None and number == campaign.rounds:
            rows = {bank: held_out[bank] for bank in campaign.cohort}
        rows = {bank: learner.advance(state, own) for bank, own in rows.items()}
        query = learner.query(state)
        scale, _ = noise_for(campaign, number, query)
        updates = np.array([_update(campaign, state, query, own, noise) for own in rows.values()])
        if attack is not None:
            updates = attack(number, updates)
        total, shares, refused = screened_total(campaign, weights, updates, scale / LATTICE, doubted)
        doubted |= {rejection.bank for rejection in refused}
        suspicion = _suspicion(campaign, weights, updates, scale / LATTICE, total, refused, suspicion)
        settled = NoisySum(total.vector.reshape(shape_of(query)), total.noise)
        artifact = ModelArtifact(campaign, (*artifact.history, settled))
        state = learner.settle(state, query, settled)
        yield SettledRound(state, artifact, shares, frozenset(doubted), suspicion)


def screened_total(
    campaign: Campaign, sizes: Floats, updates: Floats, noise: float, doubted: Collection[str] = ()
) -> tuple[CohortTotal, Floats, tuple[Rejection, ...]]:
    """What screening leaves of the updates [n, d], made one by the campaign's rule; each bank's share [n] in it; and who
    was refused."""
    terms, shares = campaign.aggregation, np.zeros(len(sizes))
    refused = screen(campaign.cohort, updates, sizes, noise=noise, f=terms.byzantine, doubted=doubted)
    kept = _places_left(campaign, refused)
    total = combine(terms.chain, terms.byzantine, sizes=sizes[kept], updates=updates[kept], noise=noise)
    shares[kept] = total.shares
    return total, shares, refused


def _suspicion(
    campaign: Campaign,
    sizes: Floats,
    updates: Floats,
    noise: float,
    total: CohortTotal,
    refused: tuple[Rejection, ...],
    before: dict[str, float],
) -> dict[str, float]:
    """Each bank's suspicion after a round whose updates [n, d] made `total`."""
    kept = _places_left(campaign, refused)
    banks = tuple(campaign.cohort[place] for place in kept)
    rates, deviations = updates[kept] / sizes[kept, None], noise / sizes[kept]
    return suspicion_of(before, figures_of(banks, rates, total.rate, total.shares, deviations, before), refused)


def _places_left(campaign: Campaign, refused: tuple[Rejection, ...]) -> list[int]:
    gone = {rejection.bank for rejection in refused}
    return [place for place, bank in enumerate(campaign.cohort) if bank not in gone]


def _check_cohort(campaign: Campaign, banks: Mapping[str, object]) -> None:
    if tuple(sorted(banks)) != campaign.cohort:
        raise ValueError(f"expected tables of the banks {campaign.cohort}, got {tuple(sorted(banks))}")


def _update(campaign: Campaign, state: Any, query: Query, rows: RowState, noise: Noise) -> Floats:
    """One bank's update as it arrives: clipped, summed, noised, rounded to the wire's step; [d] in units of 1.0."""
    scale, clipping_norm = noise_for(campaign, state.round, query)
    contributions = learner_of(campaign).contributions(state, query, rows)
    customers = rows.customers if campaign.privacy.unit is PrivacyUnit.CUSTOMER else None
    total = bounded_sum(contributions, clipping_norm=clipping_norm, customers=customers)
    sums = noise(total, noise_scale=scale) if scale else total.vector
    return decode_sums(encode_sums(sums, scale), scale, len(sums)) / LATTICE
