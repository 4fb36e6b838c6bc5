r"""What is said about a model's scores: AUPRC, ROC-AUC, and what is caught at a bearable number of false alarms.

Rows of one score are tied: they are flagged together or not at all. Intervals come from drawing customers with
replacement, because a customer's rows are alike; two models are compared on the same draws.

>>> labels, scores = np.array([1, 0, 1, 0]), np.array([4.0, 3.0, 2.0, 1.0])
>>> figures(labels, scores, np.array([10.0, 1.0, 30.0, 1.0]), false_alarms=0.5)["value"]
1.0
>>> figures(labels, scores, np.array([10.0, 1.0, 30.0, 1.0]), false_alarms=0.4)["value"]
0.25
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bank_node.personal.gain import average_precision
from mintmark.evaluation import evaluate

FALSE_ALARMS = 0.005  # of the honest rows: what people can look at
DRAWS = 300

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer]


def figures(labels: Labels, scores: Floats, value: Floats, false_alarms: float = FALSE_ALARMS) -> dict[str, float]:
    """`auprc`, `auroc`, and `recall` and `value` (share of the frauds' `value` [n]) when at most a share `false_alarms`
    of the honest rows is flagged."""
    _, tied = np.unique(scores, return_inverse=True)
    counts = np.zeros((2, tied.max() + 1))
    np.add.at(counts, (labels, tied), 1)
    report = evaluate(counts)
    flagged = int((report.false_positive_rate <= false_alarms).sum())  # thresholds, the strictest first
    lost = np.bincount(tied, weights=value * labels)[::-1]
    return {
        "auprc": report.auprc,
        "auroc": report.auroc,
        "recall": float(report.recall[flagged - 1]) if flagged else 0.0,
        "value": float(lost[:flagged].sum() / max(lost.sum(), 1e-9)),
    }


def resampled_auprc(
    labels: Labels, scores: Floats, customers: npt.NDArray[np.int64], draws: int = DRAWS, seed: int = 0
) -> Floats:
    """AUPRC [draws] when customers are drawn with replacement. The same `customers` and `seed` give the same draws."""
    generator = np.random.default_rng(seed)
    judge, count = average_precision(labels, scores), int(customers.max()) + 1
    drawn = (np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(draws))
    return np.array([judge(weights.astype(np.float64)[customers]) for weights in drawn])


def interval(draws: Floats) -> tuple[float, float]:
    """The middle 95 % of `draws`."""
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)
