r"""A model on rows that the coordinator has: exact figures, and two models compared on the very same rows.

Such rows are public or synthetic, never a customer's: nothing here is noised or charged. Intervals are those of the sample
alone, by a Poisson bootstrap of rows (every row counts Poisson(1) times). In a comparison both models' rows are drawn
together, so that what is hard for both moves both (a paired bootstrap; Efron and Tibshirani 1993, chapter 8).

>>> labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
>>> round(judge(labels, scores, "0" * 64, np.random.default_rng(1)).auprc.value, 4)
0.8333
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mintmark.evaluation import FALSE_POSITIVE_RATE, EvaluationReport, evaluate, figure_of
from mintmark.evaluation_record import ReferenceComparison, ReferenceFigures

DRAWS = 300

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer]


def judge(labels: Labels, scores: Floats, file: str, rng: np.random.Generator) -> ReferenceFigures:
    """A model's figures on rows [n] of both classes; `file` is the SHA-256 of the file that they are from. Average
    precision and the area under the curve are scikit-learn's; recall is at the loosest threshold with at most
    `FALSE_POSITIVE_RATE` of the honest rows above it."""
    counts = _by_score(labels, scores)
    exact = evaluate(counts)
    drawn = [evaluate(rng.poisson(counts).astype(np.float64)) for _ in range(DRAWS)]
    return ReferenceFigures(
        file=file,
        rows=len(labels),
        positives=int(labels.sum()),
        auprc=figure_of(exact.auprc, np.array([one.auprc for one in drawn])),
        auroc=figure_of(exact.auroc, np.array([one.auroc for one in drawn])),
        recall_at_false_positives=figure_of(_recall(exact), np.array([_recall(one) for one in drawn])),
    )


def compare(
    labels: Labels, challenger: Floats, champion: Floats, file: str, rng: np.random.Generator
) -> ReferenceComparison:
    """Both models' average precision on rows [n], and the challenger's less the champion's."""
    (one, own), (other, theirs) = (_cells(scores) for scores in (challenger, champion))
    draws = np.empty((DRAWS, 2))
    for draw in draws:
        weights = rng.poisson(1.0, len(labels)).astype(np.float64)
        draw[:] = [evaluate(_weighed(labels, at, m, weights)).auprc for at, m in ((one, own), (other, theirs))]
    ones = np.ones(len(labels))
    first, second = (evaluate(_weighed(labels, at, m, ones)).auprc for at, m in ((one, own), (other, theirs)))
    return ReferenceComparison(
        file=file,
        rows=len(labels),
        positives=int(labels.sum()),
        challenger=figure_of(first, draws[:, 0]),
        champion=figure_of(second, draws[:, 1]),
        difference=figure_of(first - second, draws[:, 0] - draws[:, 1]),
    )


def _cells(scores: Floats) -> tuple[npt.NDArray[np.int64], int]:
    """Each row's cell [n], one for every different score, and how many there are."""
    found, cells = np.unique(scores, return_inverse=True)
    return cells.astype(np.int64), len(found)


def _weighed(labels: Labels, cells: npt.NDArray[np.int64], count: int, weights: Floats) -> Floats:
    """The weights by class and cell: [2, m]."""
    return np.stack([np.bincount(cells, weights * (labels == side), minlength=count) for side in (0, 1)])


def _by_score(labels: Labels, scores: Floats) -> Floats:
    cells, count = _cells(scores)
    return _weighed(labels, cells, count, np.ones(len(labels)))


def _recall(report: EvaluationReport) -> float:
    if not report.positives > 0:
        return float("nan")
    allowed = np.flatnonzero(report.false_positive_rate <= FALSE_POSITIVE_RATE)
    return float(report.recall[allowed[-1]]) if len(allowed) else 0.0
