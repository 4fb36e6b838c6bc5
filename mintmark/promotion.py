"""The gate between a challenger and the champion's place: one function a question, and the decision they make together.

Each question is answered by a `Check`: what was expected, what was found, whether that will do. Figures are judged at the
end of their interval that speaks against the challenger: what has not been shown does not count. Thresholds are the
consortium's (`mlflow/promotion.toml`); approvals are people's (`mintmark/approval.py`).

    decision = decide(case, thresholds, number=1, previous=GENESIS, now=now)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import permutations

from mintmark.aggregation.report import AggregationReport
from mintmark.agreed import Digest
from mintmark.approval import Question, Verdict
from mintmark.comparison import at_least, at_most, comparability, difference, interval, no_worse
from mintmark.decision import Check, Counted, PromotionDecision, Thresholds
from mintmark.evaluation_record import EvaluationRecord, Figure, ReferenceComparison
from mintmark.plan import Campaign

CHANCE = 0.5  # AUROC of a coin


@dataclass(frozen=True)
class Case:
    """What is judged: the challenger's campaign with all its signed records, and the champion's evaluation if there is one.

    `champion_evaluation` is the digest of the champion's signed evaluation; `spent` is epsilon, at the terms' delta, of all
    that the campaign's plans asked for; `approvals` is what each person said last, to just this question; `reference` is
    the comparison on the coordinator's own rows, None without such rows or without a champion of the same schema.
    """

    question: Question
    campaign: Campaign
    challenger: EvaluationRecord
    champion: EvaluationRecord | None
    champion_evaluation: Digest | None
    reports: tuple[AggregationReport, ...]
    spent: float
    approvals: tuple[Counted, ...]
    reference: ReferenceComparison | None = None


def decide(case: Case, limits: Thresholds, *, number: int, previous: Digest, now: datetime) -> PromotionDecision:
    """Ask all of the gate's questions, also after one failed. `number` and `previous` follow the decision before."""
    return PromotionDecision(
        number=number,
        previous=previous,
        question=case.question,
        schema_digest=case.campaign.schema_digest,
        champion_evaluation=case.champion_evaluation,
        comparability=comparability(case.challenger, case.champion),
        thresholds=limits,
        checks=tuple(ask(case, limits) for ask in GATE),
        approvals=case.approvals,
        decided_at=now,
    )


def decide_rollback(
    question: Question,
    schema_digest: Digest,
    approvals: tuple[Counted, ...],
    limits: Thresholds,
    *,
    number: int,
    previous: Digest,
    reason: str,
    now: datetime,
) -> PromotionDecision:
    """An earlier champion passed the gate once: going back to it asks for the people alone."""
    return PromotionDecision(
        number=number,
        previous=previous,
        question=question,
        schema_digest=schema_digest,
        champion_evaluation=None,
        comparability="An earlier champion comes back: nothing is compared.",
        thresholds=limits,
        checks=(approved_by(approvals, limits),),
        approvals=approvals,
        reason=reason,
        decided_at=now,
    )


def enough_rows(case: Case, limits: Thresholds) -> Check:
    return at_least("held-out rows", case.challenger.pooled.rows, limits.rows)


def enough_frauds(case: Case, limits: Thresholds) -> Check:
    return at_least("held-out frauds", case.challenger.pooled.positives, limits.frauds)


def enough_banks(case: Case, limits: Thresholds) -> Check:
    """The smallest share of the cohort that counted in a round; a round without a report counts nobody."""
    cohort, rounds = len(case.campaign.cohort), case.campaign.rounds + 1
    fewest = min((len(report.accepted) for report in case.reports), default=0)
    share = fewest / cohort if len(case.reports) == rounds else 0.0
    return Check(
        name="banks in every round",
        expected=f"at least {limits.accepted_share:.0%} of {cohort} in each of {rounds} rounds",
        got=f"{fewest} or more in {len(case.reports)} reported rounds",
        passed=share >= limits.accepted_share,
        value=share,
    )


def no_alarm(case: Case, limits: Thresholds) -> Check:
    """An alarm is resolved when as many approving people as the thresholds ask for have looked into it."""
    alarmed = sorted({bank for report in case.reports for bank in report.suspicious})
    yes = [counted.said for counted in case.approvals if counted.said.verdict is Verdict.APPROVE]
    open_ = [bank for bank in alarmed if sum(bank in said.resolved for said in yes) < limits.approvals]
    resolved = f"; resolved: {', '.join(b for b in alarmed if b not in open_)}" if len(alarmed) > len(open_) else ""
    return Check(
        name="suspicion",
        expected="no bank whose alarm is unresolved",
        got=(", ".join(open_) or "none") + resolved,
        passed=not open_,
        value=float(len(open_)),
    )


def private_enough(case: Case, limits: Thresholds) -> Check:
    """What the plans really asked for, against the campaign's terms and the thresholds."""
    terms = case.campaign.privacy
    most = min(limits.epsilon, terms.epsilon or 0.0)
    return Check(
        name="epsilon",
        expected=f"at most {most:g} at a delta of at most {limits.delta:g}",
        got=f"{case.spent:.4g} at delta {terms.delta:g} for every {terms.unit}",
        passed=case.spent <= most and terms.delta <= limits.delta,
        value=case.spent if math.isfinite(case.spent) else None,
    )


def better_than_chance(case: Case, limits: Thresholds) -> Check:
    """AUROC above a half at its low end: asked of a first champion too, which nothing is compared with."""
    name, expected = "better than chance", f"AUROC above {CHANCE:g} at its low end"
    found = interval(case.challenger.pooled.auroc)
    if found is None:
        return Check(name=name, expected=expected, got="not defined", passed=False)
    return Check(name=name, expected=expected, got=str(found), passed=found.low > CHANCE, **found._asdict())


def no_worse_auprc(case: Case, limits: Thresholds) -> Check:
    theirs = case.champion.pooled.auprc if case.champion else None
    return no_worse("AUPRC", case.challenger.pooled.auprc, theirs, limits.auprc_margin)


def no_worse_recall(case: Case, limits: Thresholds) -> Check:
    """At one share of false alarms: evaluations at different ones cannot be compared."""
    new, old = case.challenger, case.champion
    name = f"recall at {new.false_positive_rate:.2%} false alarms"
    if old is not None and old.false_positive_rate != new.false_positive_rate:
        got = f"the champion's at {old.false_positive_rate:.2%}"
        return Check(name=name, expected="both at the same share", got=got, passed=False)
    theirs = old.pooled.recall_at_false_positives if old else None
    return no_worse(name, new.pooled.recall_at_false_positives, theirs, limits.recall_margin)


def no_worse_on_reference(case: Case, limits: Thresholds) -> Check:
    """The difference of AUPRC on the very same rows, those that the coordinator has: not noised, and drawn together."""
    name, compared = "AUPRC on the reference set", case.reference
    expected = f"difference to the champion above -{limits.auprc_margin:g} at its low end"
    if compared is None:
        why = "no champion yet" if case.champion is None else "no reference set that both models can be judged on"
        return Check(name=name, expected=expected, got=why, passed=True)
    gap = interval(compared.difference)
    if gap is None:
        return Check(name=name, expected=expected, got="not defined", passed=False)
    got = f"{gap} on {compared.rows:,} rows, {compared.positives:,} of them frauds, of file {compared.file[:12]}"
    return Check(name=name, expected=expected, got=got, passed=gap.low >= -limits.auprc_margin, **gap._asdict())


def no_bank_harmed(case: Case, limits: Thresholds) -> Check:
    """No bank's AUPRC interval lies wholly below the champion's there by more than the margin."""
    name, expected = "no harm to a bank", f"no interval below the champion's by more than {limits.bank_margin:g}"
    if case.champion is None:
        return Check(name=name, expected=expected, got="no champion yet", passed=True)
    gaps = {}
    for bank, before in case.champion.banks.items():
        new, old = case.challenger.banks.get(bank), interval(before.auprc)
        now = interval(new.auprc) if new else None
        if now and old:
            gaps[bank] = round(now.high - old.low, 9)
    unknown = sorted(set(case.challenger.banks) - set(gaps))
    harmed = sorted(bank for bank, gap in gaps.items() if gap < -limits.bank_margin)
    aside = f"; not comparable: {', '.join(unknown)}" if unknown else ""
    return Check(
        name=name,
        expected=expected,
        got=(f"{', '.join(harmed)} harmed" if harmed else f"none of {len(gaps)} banks") + aside,
        passed=bool(gaps) and not harmed,
        value=min(gaps.values(), default=None),
    )


def calibrated(case: Case, limits: Thresholds) -> Check:
    found = interval(case.challenger.pooled.calibration_error)
    return at_most("calibration error", found, limits.calibration_error)


def calibration_kept(case: Case, limits: Thresholds) -> Check:
    name, most = "calibration drift", limits.calibration_drift
    if case.champion is None:
        return Check(name=name, expected=f"at most {most:g} more", got="no champion yet", passed=True)
    new, old = case.challenger.pooled.calibration_error, case.champion.pooled.calibration_error
    return at_most(name, difference(new, old), most)


def fair_recall(case: Case, limits: Thresholds) -> Check:
    """The widest gap in recall between two groups of one feature, each at the record's share of false alarms, at its
    interval's far end. Groups of too few frauds are named and not judged; groups that the champion was judged on and this
    model is not are a failure."""
    groups = case.challenger.groups
    gone = sorted(set(case.champion.groups) - set(groups)) if case.champion else []
    small = {name for name, found in groups.items() if (found.positives.low or 0.0) < limits.group_frauds}
    recall = {name: found.recall_at_false_positives for name, found in groups.items()}
    check = _widest_gap("recall of customer groups", recall, small, "frauds", limits.recall_gap)
    if not gone:
        return check
    return check.model_copy(update={"got": f"{check.got}; not told any more: {', '.join(gone)}", "passed": False})


def fair_alarms(case: Case, limits: Thresholds) -> Check:
    """The widest gap in false alarms between two groups of one feature at one threshold for all, at its interval's far
    end. Groups of too few rows are named and not judged."""
    groups = case.challenger.groups
    small = {name for name, found in groups.items() if (found.rows.low or 0.0) < limits.group_rows}
    alarms = {name: found.false_alarm_rate for name, found in groups.items()}
    return _widest_gap("false alarms of customer groups", alarms, small, "rows", limits.false_alarm_gap)


def approved(case: Case, limits: Thresholds) -> Check:
    return approved_by(case.approvals, limits)


def approved_by(approvals: tuple[Counted, ...], limits: Thresholds) -> Check:
    """So many different people said yes, and nobody no."""
    yes, no = (
        sorted({counted.said.approver for counted in approvals if counted.said.verdict is verdict})
        for verdict in (Verdict.APPROVE, Verdict.REJECT)
    )
    got = f"{', '.join(yes) or 'nobody'}" + (f"; rejected by {', '.join(no)}" if no else "")
    return Check(
        name="approvals",
        expected=f"{limits.approvals} different people, nobody against",
        got=got,
        passed=len(yes) >= limits.approvals and not no,
        value=float(len(yes)),
    )


GATE = (
    enough_rows,
    enough_frauds,
    enough_banks,
    no_alarm,
    private_enough,
    better_than_chance,
    no_worse_auprc,
    no_worse_recall,
    no_worse_on_reference,
    no_bank_harmed,
    calibrated,
    calibration_kept,
    fair_recall,
    fair_alarms,
    approved,
)


def _widest_gap(name: str, groups: Mapping[str, Figure], small: Collection[str], few: str, most: float) -> Check:
    """Whether no two groups of one feature, of those not in `small`, can be further apart than `most`."""
    judged = {group: found for group, found in groups.items() if group not in small}
    gaps = {
        (one, other): gap
        for one, other in permutations(judged, 2)
        if one.partition("=")[0] == other.partition("=")[0]
        and (gap := difference(judged[one], judged[other])) is not None
        and gap.value >= 0
    }
    unknown = sorted(group for group, found in judged.items() if interval(found) is None)
    aside = f"; too few {few} to judge: {', '.join(sorted(small))}" if small else ""
    aside += f"; not defined: {', '.join(unknown)}" if unknown else ""
    expected = f"gaps of at most {most:g} at the interval's high end"
    if not gaps:
        got = f"no two groups to compare{aside}" if groups else "the evaluation tells of no groups"
        return Check(name=name, expected=expected, got=got, passed=not unknown)
    (one, other), gap = max(gaps.items(), key=lambda item: item[1].high)
    passed = gap.high <= most and not unknown
    return Check(
        name=name, expected=expected, got=f"{gap} between {one} and {other}{aside}", passed=passed, **gap._asdict()
    )
