r"""What a bank deploys: its own model and the global one, combined by what its own training rows say. Nothing of it leaves.

Three scores are stacked: the bank's own model, the global model calibrated to the own rows, and that corrected by trees
that the bank trains from its scores on. Calibration comes first because the campaign clips customers: those without fraud
fill their norm too, and probabilities come out too low (on the simulator by 2 to 5 in log-odds), which trees would have to
mend before they learn anything. Every training row has each of the three from models that never saw its customer, so all
of them are evidence for the weights, and the global model need not be trained twice. Then the bank asks whether anything is
gained: weights are fitted again without each fold, that fold is scored with them, and customers are drawn anew
(`bank_node/personal/gain.py`). Where the stack is ahead in a quarter of the draws or fewer, the bank keeps its own model.

    own = train_own(rows, Effort())                                        # needs no global model
    personal = combine_with_shared(own, rows, shared, bank="bank-a")       # personal.deployed, personal.gain
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bank_node.personal.deployed import Deployed, assemble
from bank_node.personal.gain import Gain, paired_gain
from bank_node.personal.own_model import CrossFit, Effort, Tell, cross_fit, deal_folds, search, silent
from bank_node.personal.shared_model import SharedModel, held_out_scores
from bank_node.personal.stacking import Stack, fit_weights
from mintmark.models.lightgbm_text import load
from mintmark.table import Table

Floats = npt.NDArray[np.float64]

OWN_ALONE = Stack((1.0, 0.0, 0.0), 0.0)
AHEAD = 0.25  # of the draws, at most, where the own model is kept: the out-of-fold comparison is hard on the stack


@dataclass(frozen=True, eq=False)
class OwnModel:
    """The bank's own tuned model, and the fold of every training row."""

    effort: Effort
    folds: npt.NDArray[np.int64]
    models: CrossFit


@dataclass(frozen=True, eq=False)
class Personal:
    """The deployed model, and what it gains over the own one on the training rows, each judged without its customer."""

    deployed: Deployed
    gain: Gain


def train_own(rows: Table, effort: Effort, tell: Tell = silent) -> OwnModel:
    """Search and train the bank's own model on its training rows. Raises `DataError` when they are too few."""
    folds = deal_folds(rows, effort)
    parameters = search(rows, folds, effort, tell)
    return OwnModel(effort, folds, cross_fit(rows, folds, parameters, seed=effort.seed, tell=_named(tell, "own model")))


def combine_with_shared(own: OwnModel, rows: Table, shared: SharedModel, *, bank: str, tell: Tell = silent) -> Personal:
    """Correct the global model on the own rows, fit the weights, and decide. `rows` are those of `train_own`."""
    tell("global model: scores without each fold")
    text = shared.text()
    held_out = held_out_scores(shared, rows, own.folds)
    calibration = fit_weights([held_out], rows.labels, prior=(1.0,))
    start = calibration.scores([np.asarray(load(text).predict(rows.features, raw_score=True))])
    calibrated = calibration.scores([held_out])
    corrections = cross_fit(
        rows,
        own.folds,
        own.models.parameters,
        seed=own.effort.seed + 1000,
        start=start,
        tell=_named(tell, "corrected model"),
    )
    tell("weights")
    parts = [own.models.out_of_fold, calibrated, calibrated + corrections.out_of_fold]
    gain = judge(parts, rows, own.folds, seed=own.effort.seed)
    keeps_own = gain.ahead <= AHEAD
    deployed = assemble(
        bank=bank,
        campaign=shared.artifact.campaign.name,
        model_digest=shared.digest,
        schema_digest=rows.schema.digest(),
        own=own.models.texts,
        shared=text,
        corrected=corrections.texts,
        calibration=calibration,
        stack=OWN_ALONE if keeps_own else fit_weights(parts, rows.labels, prior=OWN_ALONE.weights),
        keeps_own=keeps_own,
    )
    return Personal(deployed, gain)


def judge(parts: Sequence[Floats], rows: Table, folds: npt.NDArray[np.int64], *, seed: int) -> Gain:
    """What the stack of `parts` (own first, [n] each) gains over the own model, each fold by weights that never saw it."""
    stacked: Floats = np.empty(len(rows))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        stack = fit_weights([part[~held] for part in parts], rows.labels[~held], prior=OWN_ALONE.weights)
        stacked[held] = stack.scores([part[held] for part in parts])
    return paired_gain(rows.labels, rows.customers, parts[0], stacked, seed=seed)


def _named(tell: Tell, name: str) -> Tell:
    return lambda what: tell(f"{name}: {what}")
