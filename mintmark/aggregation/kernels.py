"""The compiled loops of the rules: a weighted sum of rows, and columns sorted by a network of comparisons.

numba compiles them when first imported and keeps the result on disk. One thread, no fused or reordered arithmetic: the
same bytes on every processor. Which pairs a network compares depends on the number of rows alone, so that one comparison
serves many columns at once (Batcher 1968, "Sorting Networks and Their Applications", odd-even merge sort).
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]

_COLUMNS = 4096  # added up at once: their sums stay in a processor's first cache
_TILE = 256  # columns sorted at once


def _read_only(kind: numba.types.Type, dimensions: int) -> numba.types.Array:
    return numba.types.Array(kind, dimensions, "C", readonly=True)  # takes writable arrays, too


_KINDS = (numba.float32, numba.float64)
_ORDER, _COEFFICIENTS = _read_only(numba.int64, 1), _read_only(numba.float64, 1)


@numba.njit(
    [numba.void(_read_only(kind, 2), _ORDER, _COEFFICIENTS, numba.float64[::1]) for kind in _KINDS],
    cache=True,
    nogil=True,
)
def add_rows(updates: Floats | Single, order: Ints, coefficients: Floats, total: Floats) -> None:
    """total [d] = sum over k, one after the other, of coefficients[k] times row order[k] of `updates` [n, d]."""
    whole = len(order) - len(order) % 4
    for start in range(0, updates.shape[1], _COLUMNS):
        block, part = updates[:, start : start + _COLUMNS], total[start : start + _COLUMNS]
        part[:] = 0.0
        for k in range(0, whole, 4):
            one, two, three, four = block[order[k]], block[order[k + 1]], block[order[k + 2]], block[order[k + 3]]
            a, b, c, d = coefficients[k], coefficients[k + 1], coefficients[k + 2], coefficients[k + 3]
            for column in range(len(part)):
                before = part[column] + a * one[column] + b * two[column]
                part[column] = before + c * three[column] + d * four[column]
        for k in range(whole, len(order)):
            row, coefficient = block[order[k]], coefficients[k]
            for column in range(len(part)):
                part[column] += coefficient * row[column]


@numba.njit(
    [
        numba.void(
            _read_only(kind, 2), _read_only(bits, 2), _read_only(numba.int64, 2), _COEFFICIENTS, numba.float64[::1],
            numba.int64[::1],
        )
        for kind, bits in zip(_KINDS, (numba.int32, numba.int64), strict=True)
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def add_ranked(block: Floats | Single, bits: Ints, network: Ints, weights: Floats, total: Floats, inside: Ints) -> None:
    """total [c] = sum over r of weights[r] times the r-th smallest value of each column of `block` [n, c]; and add to
    `inside` [n] in how many columns each row lies from the first rank with a weight to the last.

    `bits` [n, c] are the same numbers read as whole ones, which processors compare faster: those of negative numbers
    grow as these fall, so all but their sign is turned.
    """
    rows, columns = block.shape
    used = np.flatnonzero(weights)
    low, high = used[0], used[-1]
    turn = np.iinfo(bits.dtype).max
    keys = np.empty((rows, _TILE), bits.dtype)
    values = keys.view(block.dtype)
    for start in range(0, columns, _TILE):
        width = min(_TILE, columns - start)
        for row in range(rows):
            for column in range(width):
                own = bits[row, start + column]
                keys[row, column] = own ^ turn if own < 0 else own
        for pair in range(len(network)):
            upper, lower = keys[network[pair, 0]], keys[network[pair, 1]]
            for column in range(_TILE):
                one, other = upper[column], lower[column]
                upper[column] = one if one < other else other
                lower[column] = other if one < other else one
        part = total[start : start + width]
        part[:] = 0.0
        for rank in range(low, high + 1):
            for column in range(width):
                own = keys[rank, column]
                keys[rank, column] = own ^ turn if own < 0 else own
                part[column] += weights[rank] * values[rank, column]
        least, most = values[low], values[high]
        for row in range(rows):
            count = 0
            for column in range(width):
                value = block[row, start + column]
                count += (value >= least[column]) & (value <= most[column])
            inside[row] += count


@numba.njit(
    [numba.void(_read_only(kind, 2), numba.int64, numba.float64[:, ::1], numba.float64[::1]) for kind in _KINDS],
    cache=True,
    nogil=True,
    fastmath={"nnan", "nsz"},  # several maxima at once; sums keep their order
)
def centre_rows(block: Floats | Single, centre: int, rows: Floats, largest: Floats) -> None:
    """rows [n + 1, c] = those of `block` [n, c], which are finite, and (last) zero, all less row `centre`, or less their
    mean for -1; `largest` [n + 1] becomes each one's largest absolute value."""
    count = len(block)
    middle = rows[count]
    middle[:] = 0.0
    for row in range(count) if centre < 0 else range(centre, centre + 1):
        own = block[row]
        for column in range(len(middle)):
            middle[column] += own[column]
    divisor = count if centre < 0 else 1
    for column in range(len(middle)):
        middle[column] /= divisor
    for row in range(count + 1):
        most, target = 0.0, rows[row]
        if row < count:
            own = block[row]
            for column in range(len(middle)):
                target[column] = own[column] - middle[column]
        else:
            for column in range(len(middle)):
                target[column] = -middle[column]
        for column in range(len(middle)):
            most = max(most, abs(target[column]))
        largest[row] = most


@numba.njit([numba.void(numba.float64[:, ::1], _COEFFICIENTS)], cache=True, nogil=True)
def round_rows(rows: Floats, factors: Floats) -> None:
    """Every row times its factor, rounded to whole numbers, in place."""
    for row in range(len(rows)):
        own, factor = rows[row], factors[row]
        for column in range(len(own)):
            own[column] = np.rint(own[column] * factor)


@cache
def sorting_network(n: int) -> Ints:
    """Pairs [p, 2] of places to compare, smaller value to the first, that sort n values.

    >>> sorting_network(3).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    pairs = []
    size = 1
    while size < n:
        step = size
        while step:
            for first in range(step % size, n - step, 2 * step):
                places = range(first, min(first + step, n - step))
                pairs += [(at, at + step) for at in places if at // (2 * size) == (at + step) // (2 * size)]
            step //= 2
        size *= 2
    network = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    network.flags.writeable = False
    return network
