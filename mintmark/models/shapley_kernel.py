r"""The compiled loop behind `shapley.py`: one pass down and one up through every tree.

With $z$ the product of the cover ratios of a feature's splits on a path, and $o$ 1 if the row passes them all, else 0, the
Shapley value of feature i at a leaf of value v is $v (o_i - z_i) \int_0^1 \prod_{j \ne i} [z_j + (o_j - z_j) t] \, dt$
(Owen's multilinear extension, 1972). The integrand is a polynomial, so n points of Gauss and Legendre integrate it exactly
for paths of up to 2 n different features, and eight to machine precision for longer ones (Wettenstein, Mitchell and Yu,
Quadrature-TreeSHAP, 2026). Going down, a node holds the product over its path at the points; going up, the sum of its
leaves' products times their values, of which every edge takes its share.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]

MOST_POINTS = 8
LEFT_WHEN_MISSING, ZERO_WHEN_MISSING, WORDS = 1, 2, 4  # what a split does, as bits

_ZERO = 1e-35  # LightGBM takes numbers this near to zero for zero (its kZeroThreshold)
_INTS, _FLOATS, _BYTES, _ROWS, _SETS = (
    numba.types.Array(kind, dimensions, "C", readonly=True)
    for kind, dimensions in (
        (numba.int32, 1), (numba.float64, 1), (numba.uint8, 1), (numba.float64, 2), (numba.uint8, 2)
    )
)  # fmt: skip
_COMPILED = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
_at = np.uintp  # unsigned: no test for indices that count from the end


@numba.njit(inline="always", **_COMPILED)
def _goes_left(x: float, threshold: float, kind: int, words: Bytes) -> bool:
    """Whether a value takes the left branch, as LightGBM decides it."""
    if kind & WORDS:
        return -1.0 < x < len(words) and words[_at(int(x))] != 0
    if np.isnan(x):
        if not kind & ZERO_WHEN_MISSING:
            return kind & LEFT_WHEN_MISSING != 0
        x = 0.0
    return (x if abs(x) > _ZERO else 0.0) <= threshold


@numba.njit(**_COMPILED)
def _up(
    first: int, count: int, order: int, parent: Ints, above: Ints, split: Ints, share: Floats,
    passed: Floats, inverse: Floats, below: Floats, total: Floats,
) -> None:  # fmt: skip
    """From the leaves to the root: add up `below`, and give every edge its share. A leaf has had its own already."""
    for back in range(count - 1):
        node = _at(count - 1 - back)
        at = _at(first + node)
        up, taken = _at(_at(parent[at]) - first), 0.0
        if split[at] >= 0:
            for q in range(order):
                taken += inverse[node, _at(q)] * below[node, _at(q)]
            taken *= passed[node] - share[at]
        if above[at] >= 0:
            over, twice = _at(_at(above[at]) - first), 0.0
            for q in range(order):
                twice += inverse[over, _at(q)] * below[node, _at(q)]
            taken -= twice * (passed[over] - share[_at(above[at])])
        for q in range(order):
            below[up, _at(q)] += below[node, _at(q)]
        total[_at(split[_at(first + up)])] += taken


@numba.njit(
    [numba.void(_ROWS, _INTS, _INTS, _INTS, _INTS, _INTS, _FLOATS, _BYTES, _INTS, _SETS, _FLOATS, _FLOATS, _ROWS, _ROWS,
                numba.float64[:, ::1])],
    **_COMPILED,
)  # fmt: skip
def add_contributions(
    features: Floats, starts: Ints, orders: Ints, parent: Ints, above: Ints, split: Ints, threshold: Floats, kind: Bytes,
    words_at: Ints, words: Bytes, share: Floats, value: Floats, points: Floats, weights: Floats, total: Floats,
) -> None:  # fmt: skip
    """Add to `total` [n, F + 1] what each feature contributes to each row of `features` [n, F]; the base is left out.

    Nodes [N] are in preorder, tree after tree from `starts` [T + 1]; a left child follows its parent. Of node k: `parent`
    (-1 at a root); `above`, the nearest node up its path that the same feature leads into (-1: none); `split`, the feature
    it splits on (-1: a leaf of `value`), with `threshold`, `kind` and, for words, its row in `words`; `share`, the cover
    that reaches it through the splits of the feature that leads into it. Tree t is integrated at `orders[t]` points, which
    `points` and `weights` [9, 8] hold by their number.
    """
    most = 0
    for tree in range(len(starts) - 1):
        most = max(most, starts[tree + 1] - starts[tree])
    product, inverse = np.empty((most, MOST_POINTS)), np.empty((most, MOST_POINTS))
    below, passed, left = np.empty((most, MOST_POINTS)), np.empty(most), np.empty(most, np.bool_)
    for row in range(len(features)):
        for tree in range(len(starts) - 1):
            first, count, order = starts[tree], starts[tree + 1] - starts[tree], orders[tree]
            where, weight = points[_at(order)], weights[_at(order)]
            for number in range(count):
                node, at = _at(number), _at(first + number)
                if number == 0:
                    for q in range(order):
                        product[node, _at(q)] = 1.0
                else:
                    up = _at(_at(parent[at]) - first)
                    passes = 1.0 if left[up] == (up == _at(number - 1)) else 0.0
                    for q in range(order):
                        product[node, _at(q)] = product[up, _at(q)]
                    if above[at] >= 0:
                        over = _at(_at(above[at]) - first)
                        passes *= passed[over]
                        for q in range(order):
                            product[node, _at(q)] *= inverse[over, _at(q)]
                    passed[node], gain = passes, passes - share[at]
                    if split[at] >= 0:
                        for q in range(order):
                            factor = share[at] + gain * where[_at(q)]
                            product[node, _at(q)] *= factor
                            inverse[node, _at(q)] = 1.0 / factor
                    else:
                        taken = 0.0
                        for q in range(order):
                            part = value[at] * weight[_at(q)] * product[node, _at(q)]
                            taken += part
                            below[node, _at(q)] = part * (share[at] + gain * where[_at(q)])
                        total[_at(row), _at(split[_at(first + up)])] += taken * gain
                if split[at] >= 0:
                    x = features[_at(row), _at(split[at])]
                    left[node] = _goes_left(x, threshold[at], kind[at], words[_at(words_at[at])])
                    for q in range(order):
                        below[node, _at(q)] = 0.0
            _up(first, count, order, parent, above, split, share, passed, inverse, below, total[_at(row)])
