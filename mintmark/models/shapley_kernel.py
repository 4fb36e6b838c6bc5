r"""The compiled loop behind `shapley.py`: one pass down and one up through every tree.

With $z$ the product of the cover ratios of a feature's splits on a path, and $o$ 1 if the row passes them all, else 0, the
Shapley value of feature i at a leaf of value v is $v (o_i - z_i) \int_0^1 \prod_{j \ne i} [z_j + (o_j - z_j) t] \, dt$
(Owen's multilinear extension, 1972). The integrand is a polynomial, so n points of Gauss and Legendre integrate it exactly
for paths of up to 2 n different features, and eight to machine precision for longer ones (Wettenstein, Mitchell and Yu,
Quadrature-TreeSHAP, 2026). Going down, a node holds the product over its path at the points; going up, the sum of its
leaves' products times their values, of which every edge takes its share.

There is a pass for four points and one for eight: with their number a constant, a loop over them is a vector instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float64]  # these three have two dimensions
Pairs = npt.NDArray[np.int32]
Sets = npt.NDArray[np.uint8]

FEW_POINTS, MOST_POINTS = 4, 8
LEFT_WHEN_MISSING, ZERO_WHEN_MISSING, WORDS = 1, 2, 4  # what a split does, as bits

_ZERO = 1e-35  # LightGBM takes numbers this near to zero for zero (its kZeroThreshold)
_INTS, _PAIRS, _FLOATS, _BYTES, _ROWS, _SETS = (
    numba.types.Array(kind, dimensions, "C", readonly=True)
    for kind, dimensions in (
        (numba.int32, 1), (numba.int32, 2), (numba.float64, 1), (numba.uint8, 1), (numba.float64, 2), (numba.uint8, 2)
    )
)  # fmt: skip
_COMPILED = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
_at = np.uintp  # unsigned: no test for indices that count from the end


@numba.njit(inline="always", **_COMPILED)
def _goes_left(x: float, threshold: float, kind: int, words: Sets, row: int) -> bool:
    """Whether a value takes the left branch, as LightGBM decides it; the codes in that row of `words` go left."""
    if kind & (WORDS | ZERO_WHEN_MISSING):
        if kind & WORDS:
            return bool(-1.0 < x < words.shape[1] and words[row, _at(int(x))] != 0)
        return bool((0.0 if np.isnan(x) else x) <= threshold)
    return bool((x <= threshold) | (np.isnan(x) & (kind & LEFT_WHEN_MISSING != 0)))


def _tree_pass(points: int) -> Callable[..., None]:
    """The pass through one tree of one row, at so many points: down and up its splits, each with both branches at once."""

    @numba.njit(**_COMPILED)
    def tree_pass(
        x: Floats, first: int, splits: int, branches: Pairs, above: Ints, split: Ints, threshold: Floats, kind: Bytes,
        words_at: Ints, words: Sets, share: Rows, value: Rows, where: Floats, weight: Floats,
        product: Rows, inverse: Rows, below: Rows, passed: Floats, gain: Floats, total: Floats,
    ) -> None:  # fmt: skip
        for number in range(splits):
            here, at = _at(number + 1), _at(first + number)
            over, left, right = _at(above[at]), _at(branches[at, 0]), _at(branches[at, 1])
            goes_left = _goes_left(x[_at(split[at])], threshold[at], kind[at], words, _at(words_at[at]))
            passed[left] = passed[over] if goes_left else 0.0
            passed[right] = passed[over] - passed[left]
            left_share, right_share = share[at, 0], share[at, 1]
            left_gain, right_gain = passed[left] - left_share, passed[right] - right_share
            gain[left], gain[right] = left_gain, right_gain
            left_value, right_value = value[at, 0], value[at, 1]
            for q in range(points):
                others = product[here, _at(q)] * inverse[over, _at(q)]
                left_factor = left_share + left_gain * where[_at(q)]
                right_factor = right_share + right_gain * where[_at(q)]
                inverse[left, _at(q)] = 1.0 / left_factor
                inverse[right, _at(q)] = 1.0 / right_factor
                product[left, _at(q)] = others * left_factor
                product[right, _at(q)] = others * right_factor
                below[left, _at(q)] = left_value * weight[_at(q)] * others * left_factor
                below[right, _at(q)] = right_value * weight[_at(q)] * others * right_factor
        for number in range(splits - 1, -1, -1):
            here, at = _at(number + 1), _at(first + number)
            over, left, right = _at(above[at]), _at(branches[at, 0]), _at(branches[at, 1])
            of_left, of_right, again = 0.0, 0.0, 0.0
            for q in range(points):
                from_left, from_right = below[left, _at(q)], below[right, _at(q)]
                of_left += inverse[left, _at(q)] * from_left
                of_right += inverse[right, _at(q)] * from_right
                again += inverse[over, _at(q)] * (from_left + from_right)
                below[here, _at(q)] = from_left + from_right
            total[_at(split[at])] += of_left * gain[left] + of_right * gain[right] - again * gain[over]

    return cast("Callable[..., None]", tree_pass)


_few, _most = _tree_pass(FEW_POINTS), _tree_pass(MOST_POINTS)


@numba.njit(
    [numba.void(_ROWS, _INTS, _BYTES, _PAIRS, _INTS, _INTS, _FLOATS, _BYTES, _INTS, _SETS, _ROWS, _ROWS, _ROWS, _ROWS,
                numba.float64[:, ::1])],
    **_COMPILED,
)  # fmt: skip
def add_contributions(
    features: Rows, starts: Ints, long: Bytes, branches: Pairs, above: Ints, split: Ints, threshold: Floats, kind: Bytes,
    words_at: Ints, words: Sets, share: Rows, value: Rows, points: Rows, weights: Rows, total: Rows,
) -> None:  # fmt: skip
    """Add to `total` [n, F + 1] what each feature contributes to each row of `features` [n, F]; the base is left out.

    Splits [N] come tree after tree from `starts` [T + 1], parents before children. In a tree of m splits, place 1 + i is
    split i, place 1 + m + j leaf j, and place 0 stands for none. Of a split: the places of its two `branches` [N, 2];
    `above`, the place nearest up its path that the same feature leads into; `split`, the feature it splits on, with
    `threshold`, `kind` and, for words, its row in `words`; of each branch `share` [N, 2], the cover that reaches it through
    the splits of this feature, and `value` [N, 2], 0 where it is no leaf. Tree t is integrated at eight points where
    `long[t]` is 1, else at four; `points` and `weights` [2, 8] hold the four first.
    """
    most = 0
    for tree in range(len(starts) - 1):
        most = max(most, starts[tree + 1] - starts[tree])
    places = 2 * most + 2
    # Place 0: of factor 1, passed, and of no gain, so that no step has to ask whether there is one.
    narrow, wide = np.ones((3, places, FEW_POINTS)), np.ones((3, places, MOST_POINTS))
    passed, gain, x = np.ones(places), np.zeros(places), np.empty(features.shape[1])
    for row in range(len(features)):
        for column in range(len(x)):
            number = features[_at(row), _at(column)]
            x[_at(column)] = 0.0 if abs(number) <= _ZERO else number
        own = total[_at(row)]
        for tree in range(len(starts) - 1):
            first, splits = starts[tree], starts[tree + 1] - starts[tree]
            if long[tree]:
                _most(
                    x, first, splits, branches, above, split, threshold, kind, words_at, words, share, value, points[1],
                    weights[1], wide[0], wide[1], wide[2], passed, gain, own,
                )  # fmt: skip
            else:
                _few(
                    x, first, splits, branches, above, split, threshold, kind, words_at, words, share, value, points[0],
                    weights[0], narrow[0], narrow[1], narrow[2], passed, gain, own,
                )  # fmt: skip
