"""The one interface every learner has, and the values that pass through it.

A learner never sees Prefect, storage or noise. The coordinator and every bank run the same pure functions: from the
campaign and the aggregates published so far follow the model and the next question (`replay`), so neither has to be
sent; a bank brings its rows up to the model (`advance`) and turns the question and them into contributions
(`contributions`); the coordinator turns the aggregate into the next state (`settle`). A learner of your own is one file
and one entry in `campaign.LEARNERS`: docs/extending.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mintmark.models.rows import RowState
from mintmark.plan import Campaign
from mintmark.privacy.mechanism import Contributions
from mintmark.schema import FeatureSchema

State = TypeVar("State")


@dataclass(frozen=True, eq=False)
class NoisySum:
    """One settled round's aggregate, public: `values` [slots, cells, width] float64 in units of 1.0, estimating the
    sums over all accepted banks' rows, and `noise`, the standard deviation of the noise in each (0 without noise)."""

    values: npt.NDArray[np.float64]
    noise: float


class Query(Protocol):
    """One round's question: a grid of `slots` x `cells` x `width` numbers that every row adds to."""

    @property
    def slots(self) -> int: ...
    @property
    def cells(self) -> int: ...
    @property
    def width(self) -> int: ...

    def digest(self) -> str:
        """SHA-256 of everything that decides which cell a row falls in."""
        ...


class Learner(Protocol[State]):
    """`State` is a frozen value of the learner's own; `state.round` settled rounds led to it, and `state.scores` holds the
    score histograms [2, cells] of the classes once the round that evaluates is settled, None before."""

    name: ClassVar[str]

    def start(self, campaign: Campaign, schema: FeatureSchema) -> State:
        """The state before round 0."""
        ...

    def budget_share(self, campaign: Campaign, round: int) -> float:
        """The part of the campaign's mu squared that this round may spend; over all rounds they sum to 1."""
        ...

    def query(self, state: State) -> Query:
        """The question of the state's next round, derived from public values only."""
        ...

    def advance(self, state: State, rows: RowState) -> RowState:
        """The rows with the scores of the state's model; what the rows have seen of it already is not done again."""
        ...

    def contributions(self, state: State, query: Query, rows: RowState) -> Contributions:
        """What each of a bank's rows adds to the sums. Runs at the bank; depends on each row alone."""
        ...

    def settle(self, state: State, query: Query, total: NoisySum) -> State:
        """The state after the round. Pure post-processing of released sums: costs no privacy."""
        ...

    def export(self, state: State) -> str:
        """The model as a LightGBM text, which a bank scores with: no learner's own code is needed for that."""
        ...

    def finished(self, state: State) -> Any:
        """The model as what MLflow registers: a `lightgbm.Booster` or a scikit-learn estimator of built-in parts."""
        ...
