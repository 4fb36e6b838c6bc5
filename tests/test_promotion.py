"""The gate: each question by itself, at its threshold, and what an approval is worth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from records import LIMITS, NOBODY, NOW, People, evaluation, figure, figures, question

from mintmark.aggregation.report import ALARM, AggregationReport, BankFigures
from mintmark.approval import Action, Approvers, Verdict
from mintmark.comparison import comparability, difference
from mintmark.decision import Check, PromotionDecision, Thresholds
from mintmark.envelope import generate_signer
from mintmark.errors import DataError, ProtocolError
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit
from mintmark.privacy.ledger import GENESIS
from mintmark.promotion import Case, decide, decide_rollback
from mintmark.settings import read_toml
from tasks.shipped import shipped

PEOPLE = People()
BANKS = ("bank-0", "bank-1", "bank-2")


def report(*, banks: tuple[str, ...] = BANKS, suspicion: float = 0.0) -> AggregationReport:
    """A round in which the last of `banks` has that suspicion."""
    accepted = tuple(
        BankFigures(bank=bank, share=0.3, distance=1.0, agreement=1.0, suspicion=suspicion * (bank == banks[-1]))
        for bank in banks
    )
    return AggregationReport(plan_digest="c" * 64, rule="weighted_mean", accepted=accepted, rejected=(), late=())


def campaign(epsilon: float | None = 4.0) -> Campaign:
    return Campaign(
        name="cards",
        seed=1,
        learner="guided_boosting",
        schema_digest="f" * 64,
        rounds=3,
        privacy=PrivacyTerms(epsilon=epsilon, delta=1e-6, unit=PrivacyUnit.CUSTOMER),
        aggregation=AggregationTerms(rule="weighted_mean", banks=3),
        cohort=BANKS,
        quorum=3,
    )


GOOD = Case(
    question=question(replaces=1),
    campaign=campaign(),
    challenger=evaluation(auprc=0.50),
    champion=evaluation("older", "b" * 64, auprc=0.48),
    champion_evaluation="9" * 64,
    reports=(report(),) * 4,
    spent=3.9,
    approvals=PEOPLE.say(question(replaces=1), "ada", "ben"),
)


def asked(case: Case, limits: Thresholds = LIMITS) -> PromotionDecision:
    return decide(case, limits, number=1, previous=GENESIS, now=NOW)


def failed(**changes: object) -> tuple[str, ...]:
    """What fails when these parts of a good case are others."""
    return asked(dataclasses.replace(GOOD, **changes)).failed  # type: ignore[arg-type]


def test_a_good_challenger_becomes_the_next_champion() -> None:
    """Every question passed: the number after the champion's; read back from signed bytes it is the same value."""
    decision, signer = asked(GOOD), generate_signer()
    assert decision.passed
    assert decision.champion == 2
    assert PromotionDecision.read(decision.signed(signer), signer.public_key) == decision
    with pytest.raises(ProtocolError):
        PromotionDecision.read(decision.signed(generate_signer()), signer.public_key)


def test_the_first_champion_has_nothing_to_beat() -> None:
    """Without a champion, comparisons pass and say so; everything else is asked all the same."""
    first = dataclasses.replace(
        GOOD, champion=None, champion_evaluation=None, approvals=PEOPLE.say(question(), "ada", "cy")
    )
    decision = asked(first)
    assert decision.passed
    assert "no champion yet" in " ".join(check.got for check in decision.checks)
    assert not asked(dataclasses.replace(first, spent=4.1)).passed


# The champion's AUPRC is .48 +- .02, the margin .05: the difference's low end is x - .48 - .02 sqrt(2).
@pytest.mark.parametrize(("auprc", "passes"), [(0.459, True), (0.458, False), (0.30, False)])
def test_auprc_is_judged_at_the_low_end_of_the_difference(auprc: float, passes: bool) -> None:
    """What counts is not the difference but what the two intervals leave of it."""
    pooled = figures(auprc)
    assert ("AUPRC" in failed(challenger=evaluation(pooled=pooled, auprc=0.5))) is not passes


def test_difference_covers_the_truth_as_often_as_it_says() -> None:
    """Of 4000 pairs of independent normal estimates with 95 % intervals, 95 % have the true difference in theirs."""
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(4000):
        x, y = 0.5 + 0.03 * rng.standard_normal(), 0.4 + 0.01 * rng.standard_normal()
        gap = difference(figure(x, 1.96 * 0.03), figure(y, 1.96 * 0.01))
        assert gap is not None
        inside += gap.low <= 0.1 <= gap.high
    assert 0.94 <= inside / 4000 <= 0.96


def test_difference_of_lopsided_intervals() -> None:
    """The low end takes the first's lower arm and the second's upper arm: 3-4-5 by hand."""
    one = figure(0.6).model_copy(update={"low": 0.57, "high": 0.7})
    other = figure(0.5).model_copy(update={"low": 0.1, "high": 0.54})
    gap = difference(one, other)
    assert gap is not None
    assert (gap.value, gap.low) == pytest.approx((0.1, 0.05))
    assert gap.high == pytest.approx(0.1 + np.hypot(0.1, 0.4))


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"challenger": evaluation(pooled=figures(frauds=119))}, "held-out frauds"),
        ({"challenger": evaluation(pooled=figures(frauds=50))}, "held-out rows"),
        ({"challenger": evaluation(pooled=figures(recall=0.5))}, "recall at 0.50% false alarms"),
        ({"challenger": evaluation(pooled=figures(calibration=0.0195))}, "calibration error"),
        ({"challenger": evaluation(pooled=figures(calibration=0.0145))}, "calibration drift"),
        ({"challenger": evaluation(pooled=figures(half=0.41))}, "better than chance"),
        ({"spent": 4.01}, "epsilon"),
        ({"spent": float("inf")}, "epsilon"),
        ({"campaign": campaign(epsilon=None), "spent": 0.5}, "epsilon"),
        ({"campaign": campaign(epsilon=3.0)}, "epsilon"),
        ({"reports": (report(),) * 3}, "banks in every round"),
        ({"reports": (report(), report(), report(), report(banks=BANKS[:2]))}, "banks in every round"),
        ({"reports": ()}, "banks in every round"),
        ({"approvals": ()}, "approvals"),
        ({"approvals": PEOPLE.say(question(replaces=1), "ada")}, "approvals"),
        ({"approvals": PEOPLE.say(question(replaces=1), "ada") * 2}, "approvals"),
    ],
)
def test_each_shortcoming_refuses(changes: dict[str, object], fails: str) -> None:
    """One thing wrong, and the decision names it."""
    assert fails in failed(**changes)


def test_a_figure_that_is_not_defined_refuses() -> None:
    """Fail closed: what could not be measured was not shown."""
    unknown = figures().model_copy(update={"auprc": NOBODY, "rows": NOBODY, "calibration_error": NOBODY})
    assert {"AUPRC", "held-out rows", "calibration error", "calibration drift"} <= set(
        failed(challenger=evaluation(pooled=unknown))
    )


def test_another_share_of_false_alarms_is_not_compared() -> None:
    """Recalls at different false alarm rates are different questions."""
    other = GOOD.challenger.model_copy(update={"false_positive_rate": 0.01})
    assert failed(challenger=other) == ("recall at 1.00% false alarms",)


def test_no_bank_is_sacrificed() -> None:
    """A bank whose whole interval fell below the champion's by more than the margin refuses; overlapping ones do not."""
    before = {bank: figures(0.6, half=0.05) for bank in BANKS}
    champion = evaluation("older", "b" * 64, auprc=0.48, banks=before)

    def banks(last: float) -> dict[str, bool]:
        found = evaluation(banks={**before, "bank-2": figures(last, half=0.05)})
        return dict.fromkeys(failed(challenger=found, champion=champion), True)

    assert not banks(0.49)  # .54 against .55: within the margin of .02
    decision = asked(
        dataclasses.replace(
            GOOD, challenger=evaluation(banks={**before, "bank-2": figures(0.47, half=0.05)}), champion=champion
        )
    )
    (check,) = [check for check in decision.checks if not check.passed]
    assert (check.name, check.value) == ("no harm to a bank", pytest.approx(-0.03))
    assert "bank-2" in check.got
    assert "no harm to a bank" in failed(challenger=evaluation(banks={"new": figures()}), champion=champion)


def test_groups_are_compared_within_a_feature() -> None:
    """The widest gap of recall counts at its far end; other features' groups are no comparison; tiny groups are named."""
    groups = {"age=young": figures(recall=0.40), "age=old": figures(recall=0.62), "sex=f": figures(recall=0.05)}
    check = _check(groups)
    assert check.passed
    assert (check.value, check.high) == (pytest.approx(0.22), pytest.approx(0.22 + 0.02 * 2**0.5))
    groups["age=old"] = figures(recall=0.64)
    assert not _check(groups).passed
    groups["age=young"] = figures(recall=0.40, frauds=60)
    assert _check(groups).passed
    assert "age=young" in _check(groups).got


# The threshold is .005, and both arms are .001: the gap's high end is the gap + .001 sqrt(2).
@pytest.mark.parametrize(("alarms", "passes"), [(0.0085, True), (0.0087, False), (0.0015, True), (0.0013, False)])
def test_no_group_is_bothered_more_than_another(alarms: float, passes: bool) -> None:
    """False alarms at the one threshold: the gap between two groups of a feature counts at its far end, either way."""
    groups = {"age=young": figures(alarms=alarms), "age=old": figures(alarms=0.005), "sex=f": figures(alarms=0.5)}
    check = _check(groups, "false alarms of customer groups")
    assert check.passed is passes
    assert check.high == pytest.approx(abs(alarms - 0.005) + 0.001 * 2**0.5)


def test_small_groups_are_named_and_what_is_not_defined_refuses() -> None:
    """Too few rows: not judged, and said so. Enough rows without a rate: fail closed."""
    groups = {"age=young": figures(alarms=0.2, frauds=15), "age=old": figures()}
    check = _check(groups, "false alarms of customer groups")
    assert check.passed
    assert "too few rows to judge: age=young" in check.got
    groups["age=young"] = figures().model_copy(update={"false_alarm_rate": NOBODY})
    check = _check(groups, "false alarms of customer groups")
    assert not check.passed
    assert "not defined: age=young" in check.got


def test_groups_that_were_judged_once_are_judged_again() -> None:
    """A challenger whose evaluation leaves out a group that the champion's told of is refused."""
    champion = evaluation("older", "b" * 64, auprc=0.48, groups={"age=old": figures(), "age=young": figures()})
    assert failed(champion=champion) == ("recall of customer groups",)
    assert not failed(champion=champion, challenger=evaluation(groups=champion.groups))


def _check(groups: dict[str, object], name: str = "recall of customer groups") -> Check:
    decision = asked(dataclasses.replace(GOOD, challenger=evaluation(groups=groups)))  # type: ignore[arg-type]
    return next(check for check in decision.checks if check.name == name)


def test_an_alarm_is_resolved_by_as_many_people_as_approve() -> None:
    """An alarm in any round refuses until two approving people say they have looked into that bank."""
    reports = (report(suspicion=ALARM), report(), report(), report())
    asked_of = question(replaces=1)
    assert failed(reports=reports) == ("suspicion",)
    one = PEOPLE.say(asked_of, "ada", resolved=("bank-2",))
    assert failed(reports=reports, approvals=one + PEOPLE.say(asked_of, "ben")) == ("suspicion",)
    assert not failed(reports=reports, approvals=one + PEOPLE.say(asked_of, "ben", resolved=("bank-2",)))


def test_one_no_is_enough() -> None:
    """Three people approve, one of them changed to no: refused."""
    said = PEOPLE.say(question(replaces=1), "ada", "ben") + PEOPLE.say(
        question(replaces=1), "cy", verdict=Verdict.REJECT
    )
    assert failed(approvals=said) == ("approvals",)


def test_what_can_be_said_of_different_weeks() -> None:
    """The decision says whether the two were judged on the same weeks."""
    assert "same weeks" in comparability(GOOD.challenger, GOOD.champion)
    other = evaluation(weeks=("2026-w09", "2026-w10"))
    assert "1 of them the same" in comparability(GOOD.challenger, other)
    assert "not told" in comparability(GOOD.challenger, evaluation(weeks=()))


def test_a_rollback_asks_for_people_alone() -> None:
    """No figures are compared; two people are needed all the same."""
    asked_of = question(replaces=4, action=Action.ROLLBACK)
    for names, passes in ((("ada", "cy"), True), (("ada",), False)):
        decision = decide_rollback(
            asked_of, "f" * 64, PEOPLE.say(asked_of, *names), LIMITS,
            number=9, previous="1" * 64, reason="drift", now=NOW,
        )  # fmt: skip
        assert decision.passed is passes
        assert decision.champion == (5 if passes else None)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("approvals = 2", "approvals = 1"),
        lambda text: text.replace("frauds = 100\n", "", 1),
        lambda text: text.replace("epsilon = 4.0", "epsilon = inf"),
        lambda text: text.replace("recall_gap", "recal_gap"),
        lambda text: text + "\n[[[",
        lambda text: "",
    ],
)
def test_thresholds_fail_closed(spoil, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """One person, a missing or misspelt line, no number, no TOML, an empty or missing file: no thresholds at all."""
    (tmp_path / "promotion.toml").write_text(spoil(shipped("promotion.toml").read_text()))
    with pytest.raises(DataError):
        read_toml(tmp_path / "promotion.toml", Thresholds)
    with pytest.raises(DataError):
        read_toml(tmp_path / "missing.toml", Thresholds)


def test_nobody_stands_in_the_list_twice() -> None:
    """Two names with one key, or one name with two keys, are not two people."""
    ada, ben, _ = PEOPLE.list.approver
    for pair in ((ada, ben.model_copy(update={"key": ada.key})), (ada, ben.model_copy(update={"name": "ada"}))):
        with pytest.raises(ValueError, match="once"):
            Approvers(approver=pair)
