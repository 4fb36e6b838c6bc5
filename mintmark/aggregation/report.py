r"""After the rule: what each bank did to the result, and suspicion that adds up over rounds.

A robust rule bounds what a round's lies can do; a small bias in the same direction every round still adds up. So each
round leaves evidence for every accepted bank, and evidence is accumulated (a CUSUM: Page 1954, "Continuous Inspection
Schemes"). A bank that is suspicious is *named to people*, who ask it; it is not dropped: honest banks may be unlike
the others.

>>> suspicion_after(4.0, evidence=2.0), is_suspicious(suspicion_after(4.0, evidence=2.0))
(5.5, True)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from mintmark.aggregation.mixture import Floats
from mintmark.aggregation.screening import Rejection, refused_for_content
from mintmark.agreed import Agreed, Digest, Name, SignedRecord

REPORT_TYPE = "application/x-mintmark-aggregation-report"
MAX_REPORT_BYTES = 4 * 1024 * 1024
# With both, evidence that is standard normal raises a false alarm once in 940 rounds (Siegmund 1985, "Sequential Analysis",
# equation 2.59), and for 5 banks of 1000 in a campaign of ten. Honest banks' evidence spreads less (`evidence_of`).
DRIFT = 0.5
ALARM = 5.0
SHORT = 3.0  # standard deviations by which noise may be short
UNLIKE = 0.5  # standard deviation of honest banks' agreement, noise aside

Share = Annotated[float, Field(ge=0, le=1)]


class BankFigures(Agreed):
    """An accepted bank's part in a round. `distance` of its rates from the result is near 1 for most (`distances`);
    `agreement` is 1 when it says as much as the result in the result's direction, below 0 when it says the opposite."""

    bank: Name
    share: Share
    distance: Annotated[float, Field(ge=0)]
    agreement: float
    suspicion: Annotated[float, Field(ge=0)]


class AggregationReport(SignedRecord):
    """One round, for people: who counted and how much, who did not and why, who was late, whom to ask."""

    payload_type = REPORT_TYPE
    most_bytes = MAX_REPORT_BYTES
    plan_digest: Digest
    rule: str
    accepted: tuple[BankFigures, ...]
    rejected: tuple[Rejection, ...]
    late: tuple[Name, ...]

    @property
    def suspicious(self) -> tuple[str, ...]:
        """Banks whose suspicion has reached the alarm."""
        return tuple(figures.bank for figures in self.accepted if is_suspicious(figures.suspicion))


def suspicion_by_round(reports: Sequence[AggregationReport]) -> list[dict[str, float]]:
    """Each bank's suspicion after each of a campaign's rounds, first to last (`suspicion_of`)."""
    rounds: list[dict[str, float]] = [{}]
    for report in reports:
        rounds.append(suspicion_of(rounds[-1], report.accepted, report.rejected))
    return rounds[1:]


def suspicion_of(
    before: Mapping[str, float], accepted: Iterable[BankFigures], rejected: Iterable[Rejection]
) -> dict[str, float]:
    """Each bank's suspicion after one more round: as told of those accepted; higher by the alarm where screening refused
    what the bank sent; and as it was where the bank was not in the round."""
    refused = {bank: before.get(bank, 0.0) + ALARM for bank in refused_for_content(rejected)}
    return {**before, **{figures.bank: figures.suspicion for figures in accepted}, **refused}


def last_suspicion(reports: Sequence[AggregationReport]) -> dict[str, float]:
    """Each bank's suspicion after the last of a campaign's reports."""
    return suspicion_by_round(reports)[-1] if reports else {}


def suspicion_after(before: float, *, evidence: float) -> float:
    r"""What the evidence of one more round makes of a bank's suspicion: $\max(0, S + e - 0.5)$."""
    return max(0.0, before + evidence - DRIFT)


def is_suspicious(suspicion: float) -> bool:
    """Whether people should ask the bank."""
    return suspicion >= ALARM


def figures_of(
    banks: tuple[str, ...],
    rates: Floats,
    rate: Floats,
    shares: Floats,
    deviations: Floats,
    before: dict[str, float],
) -> tuple[BankFigures, ...]:
    """Every bank's figures, from `rates` [n, d] with noise of `deviations` [n], the rule's result `rate` [d], its `shares`
    [n], and the suspicion `before` the round (0 for a bank that is not in it)."""
    distance = distances(rates, rate, shares, deviations)
    aligned = agreements(rates, rate, shares, deviations)
    evidence = evidence_of(distance, aligned, deviations / max(float(np.linalg.norm(rate)), 1e-300))
    evidence = np.maximum(evidence, quietness(rates, deviations))
    return tuple(
        BankFigures(
            bank=bank,
            share=min(1.0, float(shares[k])),
            distance=float(distance[k]),
            agreement=float(aligned[k]),
            suspicion=suspicion_after(before.get(bank, 0.0), evidence=float(evidence[k])),
        )
        for k, bank in enumerate(banks)
    )


def distances(rates: Floats, rate: Floats, shares: Floats, deviations: Floats) -> Floats:
    r"""$\delta_k = \|x_k - y\| / \sqrt{d (v_k + h)}$ [n]: each bank's distance from the result in units of what noise and
    the banks' usual unlikeness make of it: $v_k = (1 - p_k)^2 s_k^2 + \sum_{l \ne k} p_l^2 s_l^2$, the result having noise,
    too, p being the `shares`; h the median of what $\|x_k - y\|^2 / d$ is above $v_k$."""
    squares, variance = np.square(rates - rate).mean(axis=1), np.square(deviations)
    expected = variance * (1 - 2 * shares) + float((np.square(shares) * variance).sum())
    unlike = float(np.median(np.maximum(squares - expected, 0.0)))
    return np.asarray(np.sqrt(squares / np.maximum(expected + unlike, 1e-300)))


def agreements(rates: Floats, rate: Floats, shares: Floats, deviations: Floats) -> Floats:
    r"""$(\langle x_k, y \rangle - d p_k s_k^2) / \|y\|^2$ [n]: whatever harms the model must push against the others, and
    shows here. What is taken off is a bank's own noise, which is in the result, too."""
    own = rates.shape[1] * shares * np.square(deviations)
    return np.asarray(((rates * rate).sum(axis=1) - own) / max(float(np.square(rate).sum()), 1e-300))


def quietness(rates: Floats, deviations: Floats) -> Floats:
    r"""Evidence [n] that a bank sent less than its noise, which is no honest bank's update: by how many standard
    deviations, three aside, $\|x_k\|^2$ is below the $d s_k^2$ of noise alone; from 0 to 5. Signal only adds to it.

    >>> quietness(np.array([[1.0, -1.0], [0.0, 0.0]]).repeat(50, axis=1), np.ones(2)).round(2).tolist()
    [0.0, 4.07]
    """
    d = rates.shape[1]
    variance = np.maximum(np.square(deviations), 1e-300)
    short = np.where(deviations > 0, math.sqrt(d / 2) * (1 - np.square(rates).mean(axis=1) / variance), 0.0)
    return np.clip(short - SHORT, 0.0, ALARM)


def evidence_of(distance: Floats, agreement: Floats, noise: Floats) -> Floats:
    r"""Evidence [n] of one round: how many standard deviations a bank agrees less than the median bank or, if that is
    more, the logarithm of its distance.

    $\max\left((\mathrm{med}\,a - a_k) / \sqrt{s_k^2 + 0.5^2},\ \ln \delta_k\right)$, $s_k$ = `noise` [n], the
    bank's noise over the result's length.

    >>> evidence_of(np.ones(3), np.array([1.0, 1.0, -1.0]), np.zeros(3)).tolist()
    [0.0, 0.0, 4.0]
    """
    against = (np.median(agreement) - agreement) / np.sqrt(np.square(noise) + UNLIKE**2)
    return np.asarray(np.maximum(against, np.log(np.maximum(distance, 1e-300))))
