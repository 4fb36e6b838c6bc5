"""What a bank does with its own rows, by the product's own code: its tuned model, and the model that it deploys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from bank_node.personal.own_model import CrossFit, Effort, Parameters, cross_fit, deal_folds, search
from bank_node.personal.personalise import OwnModel, Personal, combine_with_shared
from bank_node.personal.scorer import Scorer
from bank_node.personal.shared_model import SharedModel
from mintmark.canonical import canonical_json, read_canonical
from mintmark.messages import ModelArtifact
from mintmark.models.lightgbm_text import load
from mintmark.privacy.ledger import write_durably
from mintmark.table import Table

MAX_SAVED_BYTES = 2**28
Floats = npt.NDArray[np.float64]


def tune_own(rows: Table) -> Parameters:
    """What the bank's own search chooses."""
    effort = Effort()
    return search(rows, deal_folds(rows, effort), effort)


def train_own(rows: Table, parameters: Parameters, seed: int) -> OwnModel:
    """The bank's own model with parameters that were searched before."""
    effort = Effort(seed=seed)
    folds = deal_folds(rows, effort)
    return OwnModel(effort, folds, cross_fit(rows, folds, parameters, seed=seed))


def own_scores(own: OwnModel, features: Floats) -> Floats:
    """Raw scores [n] of the bank's own model: the mean of its folds' models."""
    return np.mean([load(text).predict(features, raw_score=True) for text in own.models.texts], axis=0)


def save_own(path: Path, own: OwnModel) -> None:
    """Keep the models; folds and out-of-fold scores follow from the rows."""
    saved = {"seed": own.effort.seed, "parameters": dict(own.models.parameters), "texts": list(own.models.texts)}
    write_durably(path, canonical_json(saved))


def read_own(path: Path, rows: Table) -> OwnModel:
    """The own model that was saved, for the rows that it was trained on."""
    saved = read_canonical(path.read_bytes(), what=path.name, max_bytes=MAX_SAVED_BYTES)
    effort = Effort(seed=saved["seed"])
    folds = deal_folds(rows, effort)
    scores: Floats = np.empty(len(rows))
    for fold, text in enumerate(saved["texts"]):
        scores[folds == fold] = load(text).predict(rows.features[folds == fold], raw_score=True)
    return OwnModel(effort, folds, CrossFit(tuple(saved["texts"]), scores, saved["parameters"]))


def deploy(own: OwnModel, rows: Table, artifact: ModelArtifact, bank: str) -> Personal:
    """The stack of own and global model, or the own one where nothing is gained."""
    return combine_with_shared(own, rows, SharedModel(artifact, rows.schema), bank=bank)


def deployed_scores(personal: Personal, features: Floats) -> Floats:
    """Raw scores [n] of what the bank deploys."""
    return Scorer(personal.deployed).raw(features)
