"""Membership inference on finished campaigns: was this customer in the bank's data?

Many campaigns are run at one bank of a few hundred customers, each with a coin for every candidate: in, or out. The
attacker knows the candidates' rows and sees all that is published: the model, and each round's sums. Three attacks:

    model       how well the released model fits the candidate's rows, against shadow campaigns with and without them
    sums        the published sums projected onto the candidate's own contribution, against the same shadow campaigns
    sums, rest  the same, and the attacker knows everybody else's rows: the most that is possible

One candidate is an outlier with forty payments, all frauds, like nobody else's; the others are customers as they come.
Results: a table, var/benchmarks/membership.json and membership.png.

    python -m benchmarks.membership [--repetitions 600] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtr, ndtri
from scipy.stats import rankdata

from mintmark.campaign import learner_of, noise_for, shape_of
from mintmark.models import lightgbm_text
from mintmark.models.learner import NoisySum
from mintmark.models.rows import code_table
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit
from mintmark.privacy.accountant import total_mu
from mintmark.privacy.mechanism import LATTICE, BoundedSum, Contributions, bounded_sum, release
from mintmark.synthetic import SCHEMA, simulate
from mintmark.table import Table, build_table

Floats = npt.NDArray[np.float64]

EPSILONS = (None, 4.0, 1.0)
DELTA = 1e-6
ATTACKS = ("model", "sums", "sums, rest")
CANDIDATES = 24
OUTLIER_ROWS = 40
LEARNED_FROM = ("amount", "distance_km", "device_age_days", "payments_1h")
OUTLIER, OTHERS = slice(-1, None), slice(None, -1)
CONFIDENCE = 0.99
FEWEST_CAMPAIGNS = 5  # all candidates of a campaign share its noise: rates under so many campaigns' are not drawn
RATES = (0.0, 0.1, 0.4)  # of false alarms, at which thresholds are set beforehand


@dataclass(frozen=True, eq=False)
class Trials:
    """`inside` [R, K] coins; `scores` [3, R, K], the attacks' scores, larger for those inside; the outlier comes last.
    The first half of the campaigns calibrates attacks and thresholds, the second is attacked."""

    inside: npt.NDArray[np.bool_]
    scores: Floats

    @property
    def half(self) -> int:
        return len(self.inside) // 2

    def attacked(self, attack: int, who: slice) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Coins and scores of some candidates, all campaigns of the second half together."""
        return self.inside[self.half :, who].ravel(), self.scores[attack, self.half :, who].ravel()


def customers(seed: int) -> tuple[Table, list[int]]:
    """A bank's rows, with an outlier, and the candidates' codes, the outlier last."""
    schema = replace(SCHEMA, features=tuple(f for f in SCHEMA.features if f.name in LEARNED_FROM), time="")
    columns = simulate(seed, banks=2, rows=12_000)[1]["bank-a"]
    extreme = {"amount": 20_000.0, "distance_km": 20_000.0, "device_age_days": 1.0, "payments_1h": 20.0}
    test = np.arange(OUTLIER_ROWS) % 4 == 0
    outlier = extreme | {schema.label: 1, schema.customer: 10**9, schema.test: test}
    names = (*schema.names, schema.label, schema.customer, schema.test)
    table = build_table(
        schema, {name: np.append(columns[name], np.broadcast_to(outlier[name], OUTLIER_ROWS)) for name in names}
    )
    last = int(table.customers.max())  # the outlier's number is the largest
    present = np.intersect1d(table.customers[table.test], table.customers[~table.test])
    chosen = np.random.default_rng(seed).choice(present[present < last], CANDIDATES, replace=False)
    return table, [*chosen.tolist(), last]


def terms(table: Table, epsilon: float | None) -> Campaign:
    return Campaign(
        name="membership",
        seed=1,
        learner="guided_boosting",
        schema_digest=table.schema.digest(),
        rounds=3,
        privacy=PrivacyTerms(epsilon=epsilon, delta=DELTA, unit=PrivacyUnit.CUSTOMER, clip=0.5),
        aggregation=AggregationTerms(rule="weighted_mean", banks=1),
        cohort=("bank-a",),
        quorum=1,
    )


def attack_campaign(
    campaign: Campaign, table: Table, candidates: list[int], inside: npt.NDArray[np.bool_]
) -> list[list[float]]:
    """One campaign on everybody but the candidates outside; each attack's scores of the candidates, [3][K]."""
    outside = [one for one, kept in zip(candidates, inside, strict=True) if not kept]
    learner = learner_of(campaign)
    state = learner.start(campaign, table.schema)
    train, test = code_table(table.train()), code_table(table.test_part())
    sums, rest = np.zeros(len(candidates)), np.zeros(len(candidates))
    for number in range(campaign.rounds + 1):
        query = learner.query(state)
        noise, norm = noise_for(campaign, number, query)
        train = learner.advance(state, train)
        original = table.customers[table.test if number == campaign.rounds else ~table.test]
        given = learner.contributions(state, query, test if number == campaign.rounds else train)
        total = _sum(given, original, ~np.isin(original, outside), norm)
        published = release(total, noise_scale=noise) if noise else total.vector
        drawn = (published - total.vector).astype(float)
        weight = 1 / max(noise, 1.0) ** 2
        for place, one in enumerate(candidates):
            own = _sum(given, original, original == one, norm).vector.astype(float)
            sums[place] += weight * (published @ own)
            rest[place] += weight * ((drawn + (inside[place] - 0.5) * own) @ own)
        values = published.reshape(shape_of(query)) / LATTICE
        state = learner.settle(state, query, NoisySum(values, noise / LATTICE))
    fit = _log_likelihood(learner.export(state), table)
    model = [fit[(table.customers == one) & ~table.test].mean() for one in candidates]
    return [model, sums.tolist(), rest.tolist()]


def _sum(given: Contributions, groups: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_], norm: int) -> BoundedSum:
    part = Contributions(given.cells_of[:, kept], given.values[kept], given.cells)
    return bounded_sum(part, clipping_norm=norm, customers=groups[kept])


def _log_likelihood(model: str, table: Table) -> Floats:
    score = np.asarray(lightgbm_text.load(model).predict(table.features, raw_score=True), dtype=np.float64)
    likelihood: Floats = -np.logaddexp(0, np.where(table.labels == 1, -score, score))
    return likelihood


def run(epsilon: float | None, repetitions: int, seed: int) -> Trials:
    """Campaigns with fresh coins; the two attacks that need shadows are calibrated on the first half."""
    table, candidates = customers(seed)
    coins = np.random.default_rng([seed, 7]).random((repetitions, len(candidates))) < 0.5
    campaign = terms(table, epsilon)
    raw = np.array([attack_campaign(campaign, table, candidates, inside) for inside in coins]).transpose(1, 0, 2)
    shadowed = [_likelihood_ratio(raw[attack], coins, repetitions // 2) for attack in (0, 1)]
    return Trials(coins, np.stack([*shadowed, raw[2]]))


def _likelihood_ratio(raw: Floats, inside: npt.NDArray[np.bool_], half: int) -> Floats:
    """Log-likelihood ratio of two Gaussians a candidate, fitted to the first half (Carlini et al. 2022, LiRA): [R, K]."""
    fitted = []
    for kept in (inside[:half], ~inside[:half]):
        shadow = np.where(kept, raw[:half], np.nan)
        mean, spread = np.nanmean(shadow, axis=0), np.nanstd(shadow, axis=0)
        spread = np.maximum(spread, 1e-9 * (1 + np.abs(mean)))
        fitted.append(-0.5 * ((raw - mean) / spread) ** 2 - np.log(spread))
    ratio: Floats = fitted[0] - fitted[1]
    return ratio


def roc(inside: npt.NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """False and true positive rates, from the strictest threshold to the loosest."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # ties fall together
    hits = inside[order]
    return np.cumsum(~hits)[last] / max((~hits).sum(), 1), np.cumsum(hits)[last] / max(hits.sum(), 1)


def summary(trials: Trials, attack: int, epsilon: float | None) -> dict[str, Any]:
    """Figures of one attack on the outlier and on all others together."""
    coins, scores = trials.attacked(attack, OTHERS)
    shown = shown_epsilon(trials, attack)
    return {
        "outlier_auc": round(_auc(*trials.attacked(attack, OUTLIER)), 3),
        "outlier_shown_epsilon": round(shown, 2),
        "within_epsilon": epsilon is None or shown <= epsilon,
        "others_auc": round(_auc(coins, scores), 3),
        "others_tpr_at_fpr_5_percent": round(float(np.interp(0.05, *roc(coins, scores))), 4),
    }


def shown_epsilon(trials: Trials, attack: int) -> float:
    """The largest log((TPR - delta) / FPR) that the outlier's trials prove with CONFIDENCE (Clopper and Pearson).

    Thresholds are set for RATES of false alarms on the first half, and counted on the second. Each trial is a campaign
    of its own, so trials are independent.
    """
    before = trials.scores[attack, : trials.half, -1][~trials.inside[: trials.half, -1]]
    inside, scores = trials.attacked(attack, OUTLIER)
    risk, best = (1 - CONFIDENCE) / (2 * len(RATES)), 0.0
    hits, alarms = scores[inside], scores[~inside]
    for threshold in np.quantile(before, 1 - np.array(RATES)):
        caught, wrong = int((hits > threshold).sum()), int((alarms > threshold).sum())
        low = betaincinv(caught, len(hits) - caught + 1, risk) if caught else 0.0
        high = betaincinv(wrong + 1, len(alarms) - wrong, 1 - risk) if wrong < len(alarms) else 1.0
        best = max(best, math.log(max(low - DELTA, 1e-12) / high))
    return best


def _auc(inside: npt.NDArray[np.bool_], scores: Floats) -> float:
    ranks, hits = rankdata(scores), int(inside.sum())
    return float((ranks[inside].sum() - hits * (hits + 1) / 2) / (hits * (len(inside) - hits)))


def plot(found: dict[float | None, Trials], path: Path) -> None:
    """One panel an epsilon: attacks on log-log axes, and what epsilon allows."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(11, 3.9), sharey=True, layout="constrained")
    rate = np.geomspace(1e-3, 1, 200)
    for panel, (epsilon, trials) in zip(panels, found.items(), strict=True):
        for attack, name in enumerate(ATTACKS):
            for style, who, part in (("-", "outlier", OUTLIER), (":", "others", OTHERS)):
                false, true = roc(*trials.attacked(attack, part))
                seen = false >= FEWEST_CAMPAIGNS / (len(trials.inside) - trials.half)
                panel.plot(false[seen], true[seen], style, color=f"C{attack}", linewidth=1.4, label=f"{name}: {who}")
        panel.plot(rate, rate, color="0.6", linewidth=0.8)
        if epsilon is not None:
            gaussian = ndtr(ndtri(rate) + total_mu(epsilon, DELTA))
            panel.plot(rate, gaussian, "k--", linewidth=0.9, label="limit of the noise used")
            panel.fill_between(
                rate, np.minimum(math.exp(epsilon) * rate + DELTA, 1), 1, color="0.85", label="ruled out by epsilon"
            )
        panel.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1.05), xlabel="false positive rate")
        panel.set_title("no noise" if epsilon is None else f"epsilon {epsilon:g}")
    panels[0].set_ylabel("true positive rate")
    panels[-1].legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    found = {epsilon: run(epsilon, arguments.repetitions, arguments.seed) for epsilon in EPSILONS}
    results = [
        {"epsilon": epsilon, "attack": name, **summary(trials, attack, epsilon)}
        for epsilon, trials in found.items()
        for attack, name in enumerate(ATTACKS)
    ]
    print("epsilon  attack      outlier: AUC  shown epsilon   others: AUC  TPR at FPR 5 %")
    for row in results:
        print(
            f"{row['epsilon'] or 'none':<8} {row['attack']:<11} {row['outlier_auc']:12.3f}"
            f" {row['outlier_shown_epsilon']:14.2f} {row['others_auc']:13.3f} {row['others_tpr_at_fpr_5_percent']:15.3f}"
        )
    target = Path("var/benchmarks")
    target.mkdir(parents=True, exist_ok=True)
    plot(found, target / "membership.png")
    record = {"delta": DELTA, "confidence": CONFIDENCE, "repetitions": arguments.repetitions, "results": results}
    (target / "membership.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
