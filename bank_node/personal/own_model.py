"""A bank's own LightGBM: a small seeded search, then one model a fold, so that every training row has a score from a model
that never saw its customer.

Rows of one customer are always in one fold. The bank's own model is the mean of the fold models' raw scores: nothing is
held back from it, and the out-of-fold scores say what it is worth without touching test rows. The same code trains the
models that start from the global one (`start`). Everything here stays inside the bank.

    effort = Effort()
    folds = deal_folds(rows, effort)
    own = cross_fit(rows, folds, search(rows, folds, effort))
    own.out_of_fold   # [n] raw scores;  own.texts: one LightGBM text a fold
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mintmark.errors import DataError
from mintmark.models.lightgbm_text import load
from mintmark.schema import FeatureKind
from mintmark.table import Table

Floats = npt.NDArray[np.float64]
Parameters = Mapping[str, float | int | bool]
Tell = Callable[[str], None]

_FIXED = {
    "objective": "binary",
    "metric": "binary_logloss",
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbose": -1,
}
CANDIDATES: tuple[Parameters, ...] = (
    {"num_leaves": 31, "min_data_in_leaf": 50, "lambda_l2": 1.0, "feature_fraction": 0.8},
    {"num_leaves": 15, "min_data_in_leaf": 20, "lambda_l2": 5.0, "feature_fraction": 0.8, "max_depth": 4},
    {"num_leaves": 63, "min_data_in_leaf": 50, "lambda_l2": 5.0, "feature_fraction": 0.8, "extra_trees": True},
    {"num_leaves": 63, "min_data_in_leaf": 100, "lambda_l2": 5.0, "feature_fraction": 0.6},
    {"num_leaves": 31, "min_data_in_leaf": 20, "lambda_l2": 20.0, "feature_fraction": 0.8},
    {"num_leaves": 15, "min_data_in_leaf": 100, "lambda_l2": 5.0, "feature_fraction": 0.5},
)
"""What the search tries, in this order: the first is a sound default, the others are smaller, larger and rougher."""

SMALL = 40_000  # rows: below, the fold models take half the step; the search compares shapes, and never needs to
_STEP, _SMALL_STEP = 0.12, 0.06
_MAX_TREES, _PATIENCE = 800, 40


def silent(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Effort:
    """How much is tried: the first `trials` of `CANDIDATES`; `folds` parts of the customers; `seed` of all draws."""

    trials: int = len(CANDIDATES)
    folds: int = 5
    seed: int = 0


@dataclass(frozen=True, eq=False)
class CrossFit:
    """K models as LightGBM texts, and the raw scores [n] that each gave to the rows it was not trained on."""

    texts: tuple[str, ...]
    out_of_fold: Floats
    parameters: Parameters


def deal_folds(rows: Table, effort: Effort) -> npt.NDArray[np.int64]:
    """The fold [n] of every row: customers are dealt out at random, those with fraud first, so that each fold has some.

    Raises `DataError` when there are fewer customers with fraud than folds.
    """
    fraud = np.bincount(rows.customers, weights=rows.labels) > 0
    if fraud.sum() < effort.folds:
        raise DataError(
            f"expected at least {effort.folds} customers with {rows.schema.label} = 1 to train on, got {fraud.sum()}: "
            "too few to train a model of one's own and to check it"
        )
    shuffled = np.random.default_rng([effort.seed, 1]).permutation(len(fraud))
    order = shuffled[np.argsort(~fraud[shuffled], kind="stable")]
    dealt = np.empty(len(fraud), dtype=np.int64)
    dealt[order] = np.arange(len(fraud)) % effort.folds
    return np.asarray(dealt[rows.customers])


def search(rows: Table, folds: npt.NDArray[np.int64], effort: Effort, tell: Tell = silent) -> Parameters:
    """The candidate with the least log-loss on the customers of fold 0, trained on the others'."""
    if effort.trials <= 1:
        return CANDIDATES[0]
    losses = []
    for number, candidate in enumerate(CANDIDATES[: effort.trials], 1):
        tell(f"search: {number} of {effort.trials}")
        booster = _train(rows, folds == 0, candidate, effort.seed, _STEP, None)
        losses.append(booster.best_score["held"]["binary_logloss"])
    return CANDIDATES[int(np.argmin(losses))]


def cross_fit(
    rows: Table,
    folds: npt.NDArray[np.int64],
    parameters: Parameters,
    *,
    seed: int = 0,
    start: Floats | None = None,
    tell: Tell = silent,
) -> CrossFit:
    """One model a fold, trained on the other folds and stopped early on its own.

    `start` [n] are raw scores that training starts from (LightGBM's `init_score`): the models learn what is missing in
    them, and neither the texts nor `out_of_fold` contain them. Stopping early on the rows that are scored afterwards
    chooses one whole number on a flat curve.
    """
    step = _SMALL_STEP if len(rows) < SMALL else _STEP
    scores: Floats = np.zeros(len(rows))
    texts, count = [], int(folds.max()) + 1
    for fold in range(count):
        tell(f"fold {fold + 1} of {count}")
        held = folds == fold
        booster = _train(rows, held, parameters, seed + fold, step, start)
        texts.append(booster.model_to_string(num_iteration=booster.best_iteration))
        scores[held] = load(texts[-1]).predict(rows.features[held], raw_score=True)
    return CrossFit(tuple(texts), scores, parameters)


def _train(
    rows: Table, held: npt.NDArray[np.bool_], parameters: Parameters, seed: int, step: float, start: Floats | None
) -> Any:
    """A Booster trained on the rows not `held` and stopped early on those `held`."""
    import lightgbm

    features = enumerate(rows.schema.features)
    categories = [column for column, feature in features if feature.kind is FeatureKind.CATEGORY]

    def part(which: npt.NDArray[np.bool_], reference: Any = None) -> Any:
        return lightgbm.Dataset(
            rows.features[which],
            rows.labels[which],
            reference=reference,
            init_score=None if start is None else start[which],
            feature_name=list(rows.schema.names),
            categorical_feature=categories,
        )

    training = part(~held)
    return lightgbm.train(
        {**_FIXED, "learning_rate": step, "seed": seed, **parameters},
        training,
        _MAX_TREES,
        valid_sets=[part(held, training)],
        valid_names=["held"],
        callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
    )
