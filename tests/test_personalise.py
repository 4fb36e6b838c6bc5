"""The model a bank deploys: what decides its weights, when the own model is kept, and that nothing changed is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from consortium import SCHEMA, Consortium, payments
from scipy.optimize import minimize
from sklearn.metrics import average_precision_score

from bank_node.personal.deployed import MODEL_FILE, Deployed, load_deployed, save
from bank_node.personal.gain import average_precision, paired_gain
from bank_node.personal.own_model import Effort, cross_fit, deal_folds, search
from bank_node.personal.personalise import AHEAD, OWN_ALONE, combine_with_shared, judge, train_own
from bank_node.personal.report import compare, explain
from bank_node.personal.scorer import Scorer
from bank_node.personal.shared_model import SharedModel, fetch_shared_model, held_out_scores
from bank_node.personal.stacking import Stack, fit_weights
from mintmark.envelope import generate_signer
from mintmark.errors import DataError, ProtocolError
from mintmark.models.lightgbm_text import load
from mintmark.table import Table, build_table

QUICK = Effort(trials=1, folds=3)


def table(rows: int = 1500, seed: int = 0) -> Table:
    return build_table(SCHEMA, payments(rows, seed=seed, customers=rows // 4))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Consortium, str]:
    """A consortium whose campaign is over but for settling its evaluation, and the digest of the finished model."""
    consortium = Consortium(tmp_path_factory.mktemp("banks"))
    model_digest = consortium.run(consortium.campaign(), rounds=3)
    consortium.plan(model_digest)
    return consortium, model_digest


def fetch(consortium: Consortium) -> SharedModel:
    key = consortium.coordinator.signer.public_key
    return fetch_shared_model(consortium.store, key, "cards", SCHEMA)


@pytest.fixture(scope="module")
def deployed(finished: tuple[Consortium, str]) -> Deployed:
    rows = table().train()
    made = combine_with_shared(train_own(rows, QUICK), rows, fetch(finished[0]), bank="bank-0").deployed
    changed = {"scale": 0.8, "shift": 1.5, "weights": (0.5, 0.25, 0.4), "intercept": 0.1, "keeps_own": False}
    terms = made.terms.model_copy(update=changed)
    return replace(made, terms=terms)  # all parts count, whatever was decided


def test_weights_are_the_constrained_minimum() -> None:
    """Weights and intercept minimise log-loss plus ridge under w >= 0: SLSQP, another method, finds nothing better."""
    rng = np.random.default_rng(3)
    labels = (rng.random(400) < 0.3).astype(np.uint8)
    parts = [2.0 * labels - 1 + rng.normal(0, 1, 400), rng.normal(0, 1, 400), -2.0 * labels + rng.normal(0, 1, 400)]

    def objective(point: np.ndarray) -> float:
        z = np.column_stack(parts) @ point[:3] + point[3]
        return float((np.logaddexp(0, z) - labels * z).sum() + 5 * ((point[:3] - [1, 0, 0]) ** 2).sum())

    bounds = [(0, None)] * 3 + [(None, None)]
    oracle = minimize(objective, [1, 0, 0, 0], method="SLSQP", bounds=bounds, options={"ftol": 1e-12, "maxiter": 500})

    stack = fit_weights(parts, labels, prior=(1, 0, 0))

    assert [*stack.weights, stack.intercept] == pytest.approx(oracle.x.tolist(), abs=1e-4)
    assert stack.weights[2] == 0  # it points the wrong way


def test_without_evidence_the_stack_stays_the_own_model() -> None:
    """Two rows move no weight far from (1, 0, 0)."""
    stack = fit_weights([np.array([0.1, -0.1]), np.array([5.0, -5.0]), np.zeros(2)], np.array([1, 0]), prior=(1, 0, 0))
    assert np.abs(np.array(stack.weights) - [1, 0, 0]).max() < 0.5


def test_wild_scores_are_clipped() -> None:
    """A part's score beyond 12 counts as 12."""
    assert Stack((1.0, 0.5), 1.0).scores([np.array([1e6]), np.array([-1e6])]).tolist() == [12 - 6 + 1]


def test_average_precision_is_scikit_learns() -> None:
    """With ties and weights the figure is scikit-learn's."""
    rng = np.random.default_rng(0)
    labels, scores = (rng.random(500) < 0.2).astype(np.uint8), rng.integers(0, 30, 500).astype(float)
    weights = rng.integers(0, 4, 500).astype(float)
    expected = average_precision_score(labels, scores, sample_weight=weights)
    assert average_precision(labels, scores)(weights) == pytest.approx(expected, abs=1e-12)


def test_bootstrap_agrees_with_the_closed_case() -> None:
    """One fraud among m + 1 customers, last for the one model and first for the other: where it is drawn k > 0 times among
    n draws the gain is 1 - k / n. Its mean and quantiles follow from the binomial distribution."""
    n = 40
    labels, customers = np.eye(1, n, dtype=np.uint8)[0], np.arange(n)
    last, first = -labels.astype(float), labels.astype(float)
    gain = paired_gain(labels, customers, last, first, seed=0, replicates=4000)
    drawn = np.random.default_rng(1).binomial(n, 1 / n, 200_000)
    expected = np.quantile(1 - drawn[drawn > 0] / n, [0.025, 0.975])
    assert (gain.baseline, gain.model, gain.ahead) == (1 / n, 1.0, 1.0)
    assert [gain.low, gain.high] == pytest.approx(expected, abs=1 / n)


def test_a_customers_rows_are_drawn_together() -> None:
    """With all fraud at one of two customers, replicates differ only by how often each is drawn, so few values occur."""
    labels = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)
    scores = np.array([3.0, 1.0, 2.0, 2.5, 1.5, 0.5])
    gain = paired_gain(labels, np.array([0, 0, 0, 1, 1, 1]), scores, -scores, seed=0, replicates=300)
    together = average_precision(labels, -scores)(np.ones(6)) - average_precision(labels, scores)(np.ones(6))
    assert gain.low == pytest.approx(together)
    assert gain.high == 0.0  # the second customer was never drawn: both models are perfect


def test_folds_part_customers_and_share_out_fraud() -> None:
    """No customer is in two folds, and every fold has customers with fraud; too few of those is one sentence."""
    rows = table().train()
    folds = deal_folds(rows, QUICK)
    assert all(len(set(folds[rows.customers == customer])) == 1 for customer in range(rows.customers.max() + 1))
    fraud = [len(set(rows.customers[(folds == fold) & (rows.labels == 1)])) for fold in range(3)]
    assert max(fraud) - min(fraud) <= 1
    with pytest.raises(DataError, match="expected at least 3 customers with fraud = 1"):
        deal_folds(replace(rows, labels=np.zeros_like(rows.labels)), QUICK)


def test_out_of_fold_scores_come_from_models_that_never_saw_the_customer() -> None:
    """Noise as the label: in-sample a model learns it, out of fold it cannot."""
    rows = table(3000).train()
    noise = np.random.default_rng(0).integers(0, 2, len(rows)).astype(np.uint8)
    rows = replace(rows, labels=noise)
    fitted = cross_fit(rows, deal_folds(rows, QUICK), search(rows, deal_folds(rows, QUICK), QUICK))
    assert abs(average_precision(noise, fitted.out_of_fold)(np.ones(len(rows))) - noise.mean()) < 0.05


def test_noise_is_calibrated_away_and_a_good_model_is_taken() -> None:
    """Where the global model is noise, the scale makes next to nothing of it; where it knows the label, the stack is ahead;
    where the own model leaves nothing to gain, the bank keeps it."""
    rows = table(3000).train()
    own = train_own(rows, QUICK)
    rng = np.random.default_rng(5)
    noise = rng.normal(-4, 2, len(rows))
    knows = 4.0 * rows.labels - 4 + rng.normal(0, 1, len(rows))

    def ahead(first: np.ndarray, shared: np.ndarray) -> float:
        return judge([first, shared, shared], rows, own.folds, seed=0).ahead

    assert fit_weights([noise], rows.labels, prior=(1.0,)).weights[0] < 0.1
    assert ahead(own.models.out_of_fold, knows) == 1.0
    assert ahead(8.0 * rows.labels - 4 + rng.uniform(0, 1, len(rows)), noise) <= AHEAD


def test_calibration_gives_the_mean_and_the_slope_back() -> None:
    """Scores that are too low by 2.5 and too steep by a third: the fitted scale and shift undo both, and the mean of the
    probabilities is the share of fraud."""
    rng = np.random.default_rng(8)
    truth = rng.normal(-3, 2, 40_000)
    labels = (rng.random(len(truth)) < 1 / (1 + np.exp(-truth))).astype(np.uint8)
    found = fit_weights([1.5 * truth - 2.5], labels, prior=(1.0,))
    assert (found.weights[0], found.intercept) == (pytest.approx(1 / 1.5, abs=0.02), pytest.approx(2.5 / 1.5, abs=0.1))
    probability = 1 / (1 + np.exp(-found.scores([1.5 * truth - 2.5])))
    assert probability.mean() == pytest.approx(labels.mean(), rel=1e-4)


def test_the_global_model_is_calibrated_to_the_own_rows(finished: tuple[Consortium, str]) -> None:
    """Scores without the row's fold, calibrated: the mean probability is the bank's share of fraud, which it was not."""
    rows, shared = table().train(), fetch(finished[0])
    own = train_own(rows, QUICK)
    made = combine_with_shared(own, rows, shared, bank="bank-0").deployed
    held_out = held_out_scores(shared, rows, own.folds)

    def mean_probability(scores: np.ndarray) -> float:
        return float((1 / (1 + np.exp(-scores))).mean())

    assert mean_probability(made.calibration.scores([held_out])) == pytest.approx(rows.labels.mean(), rel=1e-4)
    assert mean_probability(held_out) != pytest.approx(rows.labels.mean(), rel=0.05)


def test_kept_own_model_scores_like_the_own_model(finished: tuple[Consortium, str]) -> None:
    """A bank that gains nothing deploys its own model: to the last bit, and the report says so."""
    rows, test = table().train(), table().test_part()
    personal = combine_with_shared(train_own(rows, QUICK), rows, fetch(finished[0]), bank="bank-0")
    terms = personal.deployed.terms.model_copy(
        update={"weights": OWN_ALONE.weights, "intercept": 0.0, "keeps_own": True}
    )
    kept = replace(personal, deployed=replace(personal.deployed, terms=terms))
    scorer = Scorer(kept.deployed)
    unclipped = np.clip(scorer.own(test.features), -12, 12)
    assert (scorer.raw(test.features) == unclipped).all()
    report = compare(kept, scorer, test, seed=0)
    assert report.keeps_own
    assert report.deployed.point == report.deployed.low == report.deployed.high == 0


def test_reasons_sum_to_the_raw_score(deployed: Deployed) -> None:
    """Contributions of a row, base included, add up to its raw score, also where a part is clipped."""
    features = table().test_part().features
    scorer = Scorer(deployed)
    assert scorer.contributions(features).sum(axis=1) == pytest.approx(scorer.raw(features), abs=1e-6)
    shared = load(deployed.shared).predict(features, raw_score=True)
    assert scorer.shared_contributions(features).sum(axis=1) == pytest.approx(shared, abs=1e-6)


def test_raw_score_is_the_formula(deployed: Deployed) -> None:
    """The deployed score is the stack's formula over the parts, computed here by hand."""
    features = table().test_part().features

    def mean(texts: tuple[str, ...]) -> np.ndarray:
        return sum(np.asarray(load(text).predict(features, raw_score=True)) for text in texts) / len(texts)

    calibrated = 0.8 * np.clip(mean((deployed.shared,)), -12, 12) + 1.5
    parts = [mean(deployed.own), calibrated, calibrated + mean(deployed.corrected)]
    expected = sum(w * np.clip(part, -12, 12) for w, part in zip((0.5, 0.25, 0.4), parts, strict=True)) + 0.1
    assert Scorer(deployed).raw(features) == pytest.approx(expected, abs=1e-12)


def test_importance_is_the_mean_absolute_contribution(deployed: Deployed) -> None:
    """Features come ordered by what they move in the deployed model."""
    rows = table().test_part()
    importance = explain(Scorer(deployed), rows, seed=0).importance()
    moved = np.abs(Scorer(deployed).contributions(rows.features)[:, :-1]).mean(axis=0)
    assert [models["deployed"] for models in importance.values()] == pytest.approx(sorted(moved, reverse=True))
    assert set(importance) == set(SCHEMA.names)


def test_saved_model_is_the_same_and_a_second_replaces_it(deployed: Deployed, tmp_path: Path) -> None:
    """What is loaded scores as what was saved; another model leaves no file of the first behind."""
    signer, features = generate_signer(), table().test_part().features
    save(tmp_path, deployed, signer)
    read = load_deployed(tmp_path, signer.public_key)
    assert (Scorer(read).raw(features) == Scorer(deployed).raw(features)).all()
    other = replace(
        deployed, own=deployed.own[:1], terms=deployed.terms.model_copy(update={"own": deployed.terms.own[:1]})
    )
    save(tmp_path, other, signer)
    assert len(list(tmp_path.glob("*.txt"))) == 5  # one own, one global, three corrections


def change_weights(folder: Path) -> None:
    statement = json.loads((folder / MODEL_FILE).read_text())
    statement["model"]["weights"][0] = 0.75
    (folder / MODEL_FILE).write_text(json.dumps(statement, sort_keys=True, separators=(",", ":")))


def change_text(folder: Path) -> None:
    text = next(folder.glob("*.txt"))
    text.write_text(text.read_text().replace("leaf_value=", "leaf_value=9", 1))


def remove_text(folder: Path) -> None:
    next(folder.glob("*.txt")).unlink()


def cut_statement(folder: Path) -> None:
    (folder / MODEL_FILE).write_bytes((folder / MODEL_FILE).read_bytes()[:-10])


@pytest.mark.parametrize("change", [change_weights, change_text, remove_text, cut_statement])
def test_a_changed_model_is_not_loaded(deployed: Deployed, tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Weights or trees that were changed, cut or removed are refused before LightGBM sees them."""
    signer = generate_signer()
    save(tmp_path, deployed, signer)
    change(tmp_path)
    with pytest.raises(DataError):
        load_deployed(tmp_path, signer.public_key)


def test_another_banks_model_is_not_loaded(deployed: Deployed, tmp_path: Path) -> None:
    """The statement must bear this bank's own signature."""
    save(tmp_path, deployed, generate_signer())
    with pytest.raises(DataError, match="signature by the key in force"):
        load_deployed(tmp_path, generate_signer().public_key)


def test_the_finished_model_is_the_one_that_the_signed_plan_names(finished: tuple[Consortium, str]) -> None:
    """The evaluation's plan names it, and the bank derives from it the text that the coordinator has."""
    consortium, model_digest = finished
    assert fetch(consortium).digest == model_digest


def test_an_unfinished_or_forged_campaign_has_no_model(tmp_path: Path) -> None:
    """Before the evaluation is planned, under another coordinator's key, or with a manifest missing: refused."""
    consortium = Consortium(tmp_path)
    model_digest = consortium.run(consortium.campaign(), rounds=3)
    with pytest.raises(ProtocolError, match="wait until its training rounds are over"):
        fetch(consortium)
    consortium.plan(model_digest)
    with pytest.raises(ProtocolError, match="signature by the key in force"):
        fetch_shared_model(consortium.store, generate_signer().public_key, "cards", SCHEMA)
    del consortium.store._objects["public/campaigns/cards/manifests/0001-00"]
    with pytest.raises(ProtocolError, match="manifest before it"):
        fetch(consortium)
