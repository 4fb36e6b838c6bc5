"""docs/extending.md: the learner on the page is complete, and one registration carries it through a whole campaign."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from consortium import SCHEMA, Consortium, payments
from sklearn.metrics import roc_auc_score

from bank_node.enrol import DEFAULT_POLICY
from mintmark import campaign
from mintmark.evaluation import evaluate
from mintmark.models.lightgbm_text import load
from mintmark.models.rows import code_table
from mintmark.table import build_table

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> object:
    """The page's learner, registered by the one line."""
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    module = ModuleType("naive_bayes")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look for it
    exec(compile(source, str(PAGE), "exec"), module.__dict__)
    own = module.NaiveBayes()
    monkeypatch.setitem(campaign.LEARNERS, own.name, own)
    return own


def test_the_page_runs_a_campaign(tmp_path: Path, learner: object) -> None:
    """From the plan to the evaluation, with noise: the model of the page tells fraud, and says the same in both forms."""
    policy = DEFAULT_POLICY.replace("smallest_rows = 1000", "smallest_rows = 10")
    policy = policy.replace('"guided_boosting"', '"guided_boosting", "naive_bayes"')
    consortium = Consortium(tmp_path, sizes=(6000, 4000, 3000), policy=policy)
    model = consortium.run(consortium.campaign(learner="naive_bayes", rounds=3), 4)
    state = campaign.replay(consortium.coordinator.model("cards", model), SCHEMA)
    assert evaluate(state.scores).positives > 0  # how good it is, so few customers' noised answers cannot say
    fresh = build_table(SCHEMA, payments(4000, seed=99))
    score = load(learner.export(state)).predict(fresh.features, raw_score=True)  # type: ignore[attr-defined]
    assert score[fresh.labels == 1].mean() > score[fresh.labels == 0].mean() + 0.5
    assert roc_auc_score(fresh.labels, score) > 0.6
    own = learner.advance(state, code_table(fresh)).score + state.base_score  # type: ignore[attr-defined]
    np.testing.assert_allclose(score, own, atol=1e-9)


def test_shares_of_the_page_sum_to_one(tmp_path: Path, learner: object) -> None:
    """The example spends the budget, no less and no more."""
    consortium = Consortium(tmp_path, sizes=(200, 200, 200))
    terms = consortium.coordinator.model("cards", consortium.campaign(learner="naive_bayes", rounds=5)).campaign
    assert sum(learner.budget_share(terms, number) for number in range(6)) == pytest.approx(1)  # type: ignore[attr-defined]


def test_nobody_runs_it_unless_his_policy_names_it(tmp_path: Path, learner: object) -> None:
    """Registration alone makes no bank answer."""
    consortium = Consortium(tmp_path, sizes=(200, 200, 200))
    plan = consortium.plan(consortium.campaign(learner="naive_bayes"))
    assert consortium.refusal("bank-0", plan) == "learner_not_allowed"
