"""Aggregation rules once more, from their papers, as slow loops over plain numbers: the oracle. No weights, no tricks."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from statistics import mean, median

import numpy as np
from scipy.optimize import minimize
from scipy.stats import trim_mean

Rows = list[list[float]]


def distance(a: list[float], b: list[float]) -> float:
    return math.dist(a, b)


def average(rows: Rows) -> list[float]:
    return [mean(column) for column in zip(*rows, strict=True)]


def coordinate_median(rows: Rows, f: int) -> list[float]:
    return [median(column) for column in zip(*rows, strict=True)]


def trimmed_mean(rows: Rows, f: int) -> list[float]:
    return list(trim_mean(rows, (f + 0.5) / len(rows), axis=0))  # scipy cuts int(proportion * n) from each side


def meamed(rows: Rows, f: int) -> list[float]:
    result = []
    for column in zip(*rows, strict=True):
        middle = median(column)
        result.append(mean(sorted(column, key=lambda value: abs(value - middle))[: len(rows) - f]))
    return result


def geometric_median(rows: Rows, f: int) -> list[float]:
    def cost(point: np.ndarray) -> float:
        return sum(distance(list(point), row) for row in rows)

    start = np.array(average(rows))
    found = minimize(cost, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 40_000})
    return list(min([found.x, *map(np.array, rows)], key=cost))


def krum_score(rows: Rows, row: int, f: int) -> float:
    others = sorted(distance(rows[row], rows[k]) ** 2 for k in range(len(rows)) if k != row)
    return sum(others[: len(rows) - f - 2])


def krum(rows: Rows, f: int) -> list[float]:
    return rows[min(range(len(rows)), key=lambda row: krum_score(rows, row, f))]


def multi_krum(rows: Rows, f: int) -> list[float]:
    best = sorted(range(len(rows)), key=lambda row: krum_score(rows, row, f))[: len(rows) - f]
    return average([rows[k] for k in best])


def bulyan(rows: Rows, f: int) -> list[float]:
    left, chosen = list(rows), []
    while len(chosen) < len(rows) - 2 * f:
        scores = []
        for row in left:
            others = sorted(distance(row, other) ** 2 for other in left if other is not row)
            scores.append(sum(others[: len(rows) - f - 2]))
        chosen.append(left.pop(scores.index(min(scores))))
    return meamed(chosen, 2 * f)


def monna(rows: Rows, f: int) -> list[float]:
    def nearest(pivot: list[float]) -> Rows:
        return sorted(rows, key=lambda row: distance(pivot, row))[: len(rows) - f]

    pivot = min(rows, key=lambda row: sum(distance(row, other) ** 2 for other in nearest(row)))
    return average(nearest(pivot))


def mda(rows: Rows, f: int) -> list[float]:
    def size(some: tuple[list[float], ...]) -> tuple[float, float]:
        pairs = [distance(a, b) for a, b in combinations(some, 2)] or [0.0]
        return max(pairs), sum(pair**2 for pair in pairs)

    return average(list(min(combinations(rows, len(rows) - f), key=size)))


def smea(rows: Rows, f: int) -> list[float]:
    def width(some: tuple[list[float], ...]) -> float:
        return float(np.linalg.norm(np.array(some) - np.mean(some, axis=0), 2))

    return average(list(min(combinations(rows, len(rows) - f), key=width)))


def caf(rows: Rows, f: int) -> list[float]:
    points, left = np.array(rows), np.ones(len(rows))
    best, result = math.inf, np.zeros(points.shape[1])
    while True:
        middle = left @ points / left.sum()
        covariance = sum(c * np.outer(x - middle, x - middle) for c, x in zip(left, points, strict=True)) / left.sum()
        values, vectors = np.linalg.eigh(covariance)
        if values[-1] < best:
            best, result = values[-1], middle
        places = ((points - middle) @ vectors[:, -1]) ** 2 * (left > 0)
        left = left * (1 - places / places.max())
        if left.sum() <= len(rows) - 2 * f + 1e-9:
            return list(result)


def centred_clipping(rows: Rows, f: int) -> list[float]:
    def half(point: list[float]) -> float:
        return sorted(distance(point, row) for row in rows)[(len(rows) + 1) // 2 - 1]

    point = min(rows, key=lambda row: (half(row), sum(distance(row, other) ** 2 for other in rows)))
    for _ in range(10):
        radius = half(point)
        shift = [0.0] * len(point)
        for row in rows:
            away = distance(point, row)
            factor = min(1.0, radius / away) if away else 1.0
            shift = [s + factor * (x - p) / len(rows) for s, x, p in zip(shift, row, point, strict=True)]
        point = [p + s for p, s in zip(point, shift, strict=True)]
    return point


def nnm(rows: Rows, f: int) -> Rows:
    return [average(sorted(rows, key=lambda other: distance(row, other))[: len(rows) - f]) for row in rows]


def arc(rows: Rows, f: int) -> Rows:
    lengths = [math.hypot(*row) for row in rows]
    radius = sorted(lengths)[len(rows) - int(2 * f * (len(rows) - f) / len(rows)) - 1]
    return static_clipping(rows, radius)


def static_clipping(rows: Rows, radius: float) -> Rows:
    return [[x * min(1.0, radius / math.hypot(*row)) for x in row] for row in rows]


def bucketing(rows: Rows, size: int) -> Rows:
    def half(row: list[float]) -> float:
        return sorted(distance(row, other) for other in rows)[(len(rows) + 1) // 2 - 1]

    buckets = -(-len(rows) // size)
    dealt = sorted(rows, key=half)
    return [average(dealt[bucket::buckets]) for bucket in range(buckets)]


RULES: dict[str, Callable[[Rows, int], list[float]]] = {
    "weighted_mean": lambda rows, f: average(rows),
    "coordinate_median": coordinate_median,
    "trimmed_mean": trimmed_mean,
    "meamed": meamed,
    "geometric_median": geometric_median,
    "centred_clipping": centred_clipping,
    "caf": caf,
    "krum": krum,
    "multi_krum": multi_krum,
    "bulyan": bulyan,
    "monna": monna,
    "mda": mda,
    "smea": smea,
    "nnm+trimmed_mean": lambda rows, f: trimmed_mean(nnm(rows, f), f),
    "arc+krum": lambda rows, f: krum(arc(rows, f), f),
    "arc+nnm+coordinate_median": lambda rows, f: coordinate_median(nnm(arc(rows, f), f), f),
    "static_clipping:1.5+multi_krum": lambda rows, f: multi_krum(static_clipping(rows, 1.5), f),
}
