"""How often is an honest bank named as suspicious, and how often a liar? Whole campaigns in memory, on little data.

    python -m benchmarks.robustness.alarms [--seeds 101 102] [--attack alie]

Prints, for every size of consortium, how many banks reached the alarm in any of eight rounds at epsilon 4, and how many
were refused, of the honest ones where nobody lies, then of the honest ones and of the liars where the named attack runs.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

from benchmarks.attacks import ATTACKS
from benchmarks.robustness.campaigns import Banks, Liars, campaign_of
from mintmark.aggregation.report import is_suspicious
from mintmark.aggregation.rules import DEFAULT_RULE
from mintmark.models.boosting import GuidedBoosting
from mintmark.models.linear import LogisticRegression
from mintmark.simulation import seeded_gaussian, simulate_rounds
from mintmark.synthetic import simulate

SIZES = ((4, 20_000), (8, 20_000), (8, 100_000), (20, 60_000))  # banks, rows of all together


def count(seed: int, banks: int, rows: int, learner: str, attack: str | None) -> Counter[str]:
    """Of one campaign: "honest" banks and "liars", "honest named" and "liars named", "honest refused"."""
    held = Banks.of(*simulate(seed, banks=banks, rows=rows))
    campaign = campaign_of(held, learner, DEFAULT_RULE, seed)
    lying = Liars(campaign, attack, held, seed) if attack else None
    liars = {campaign.cohort[place] for place in held.liars()} if attack else set()
    named: set[str] = set()
    noise = seeded_gaussian(np.random.default_rng(seed))
    for settled in simulate_rounds(campaign, held.training, noise=noise, attack=lying):
        named |= {bank for bank, suspicion in settled.suspicion.items() if is_suspicious(suspicion)}
        if lying is not None:
            lying.state, lying.doubted = settled.state, settled.doubted
    found = Counter({"honest": banks - len(liars), "liars": len(liars)})
    found["honest named"], found["liars named"] = len(named - liars), len(named & liars)
    found["honest refused"] = len(settled.doubted - liars)
    return found


def main() -> None:
    """Print a table (Markdown)."""
    ask = argparse.ArgumentParser(
        prog="benchmarks.robustness.alarms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--seeds", nargs="+", type=int, default=list(range(101, 107)))
    ask.add_argument("--attack", choices=ATTACKS, default="alie")
    asked = ask.parse_args()
    print("| banks, rows, learner, attack | honest: named | refused | liars: named |\n|---|---|---|---|")
    for learner in (GuidedBoosting.name, LogisticRegression.name):
        for banks, rows in SIZES:
            for attack in (None, asked.attack):
                found: Counter[str] = Counter()
                for seed in asked.seeds:
                    found += count(seed, banks, rows, learner, attack)
                honest, liars = found["honest"], found["liars"]
                print(
                    f"| {banks}, {rows:,}, {learner}, {attack or 'none'} | {found['honest named']} of {honest} "
                    f"| {found['honest refused']} | {found['liars named']} of {liars} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
