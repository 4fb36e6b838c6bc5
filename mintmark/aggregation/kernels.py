"""The compiled loops of the rules: a weighted sum of rows, and columns sorted by a network of comparisons.

numba compiles them when first imported and keeps the result on disk. One thread, no fused or reordered arithmetic: the
same bytes on every processor. Which pairs a network compares depends on the number of rows alone, so that one comparison
serves many columns at once (Batcher 1968, "Sorting Networks and Their Applications", odd-even merge sort).
"""

from __future__ import annotations

import math
from functools import cache

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]

BITS = 21  # of the whole numbers whose products are added up
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
    whole = len(order) - len(order) % 8
    for start in range(0, updates.shape[1], _COLUMNS):
        stop = min(start + _COLUMNS, updates.shape[1])
        part = total[start:stop]
        part[:] = 0.0
        for k in range(0, whole, 8):  # eight at once: their sum is read and written once
            p, q, r, s = coefficients[k], coefficients[k + 1], coefficients[k + 2], coefficients[k + 3]
            t, u, v, w = coefficients[k + 4], coefficients[k + 5], coefficients[k + 6], coefficients[k + 7]
            a, b = updates[order[k], start:stop], updates[order[k + 1], start:stop]
            c, d = updates[order[k + 2], start:stop], updates[order[k + 3], start:stop]
            e, f = updates[order[k + 4], start:stop], updates[order[k + 5], start:stop]
            g, h = updates[order[k + 6], start:stop], updates[order[k + 7], start:stop]
            for i in range(len(part)):
                half = part[i] + p * a[i] + q * b[i] + r * c[i] + s * d[i]
                part[i] = half + t * e[i] + u * f[i] + v * g[i] + w * h[i]
        for k in range(whole, len(order)):
            row, coefficient = updates[order[k], start:stop], coefficients[k]
            for i in range(len(part)):
                part[i] += coefficient * row[i]


@numba.njit(
    [
        numba.void(_read_only(bits, 2), numba.int64, numba.int64, _read_only(numba.int64, 2), bits[:, ::1])
        for bits in (numba.int32, numba.int64)
    ],
    cache=True,
    nogil=True,
)
def _sort_tile(bits: Ints, start: int, width: int, network: Ints, keys: Ints) -> None:
    """keys [n, _TILE] = `width` columns of `bits` [n, c] from `start` on, each sorted as the numbers that bits stand for.

    Read as whole ones, processors compare them faster: those of negative numbers grow as these fall, so all but their sign
    is turned.
    """
    turn = np.iinfo(bits.dtype).max
    for row in range(len(bits)):
        for column in range(width):
            own = bits[row, start + column]
            keys[row, column] = own ^ turn if own < 0 else own
    for pair in range(len(network)):
        upper, lower = keys[network[pair, 0]], keys[network[pair, 1]]
        for column in range(_TILE):
            one, other = upper[column], lower[column]
            upper[column] = one if one < other else other
            lower[column] = other if one < other else one
    for row in range(len(bits)):
        for column in range(width):
            own = keys[row, column]
            keys[row, column] = own ^ turn if own < 0 else own


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
    """total [c] = sum over r of weights[r] times the r-th smallest value of each column of `block` [n, c], whose bits are
    `bits`; and add to `inside` [n] in how many columns each row lies from the first rank with a weight to the last."""
    rows, columns = block.shape
    used = np.flatnonzero(weights)
    low, high = used[0], used[-1]
    keys = np.zeros((rows, _TILE), bits.dtype)
    values = keys.view(block.dtype)
    for start in range(0, columns, _TILE):
        width = min(_TILE, columns - start)
        _sort_tile(bits, start, width, network, keys)
        part = total[start : start + width]
        part[:] = 0.0
        for rank in range(low, high + 1):
            for column in range(width):
                part[column] += weights[rank] * values[rank, column]
        least, most = values[low], values[high]
        for row in range(rows):
            count = 0
            for column in range(width):
                value = block[row, start + column]
                count += (value >= least[column]) & (value <= most[column])
            inside[row] += count


@numba.njit(
    [
        numba.void(
            _read_only(kind, 2), _read_only(bits, 2), _read_only(numba.int64, 2), numba.int64, numba.float64[::1],
            numba.int64[::1],
        )
        for kind, bits in zip(_KINDS, (numba.int32, numba.int64), strict=True)
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def add_nearest(block: Floats | Single, bits: Ints, network: Ints, keep: int, total: Floats, inside: Ints) -> None:
    """total [c] = mean of the `keep` values of each column of `block` [n, c], whose bits are `bits`, that are nearest to
    their median (of two as near, the smaller); and add to `inside` [n] in how many columns each row lies among them."""
    rows, columns = block.shape
    keys = np.zeros((rows, _TILE), bits.dtype)
    values = keys.view(block.dtype)
    least, most = np.empty(_TILE), np.empty(_TILE)
    for start in range(0, columns, _TILE):
        width = min(_TILE, columns - start)
        _sort_tile(bits, start, width, network, keys)
        for column in range(width):
            one, other = np.float64(values[(rows - 1) // 2, column]), np.float64(values[rows // 2, column])
            median, low, high, kept = 0.5 * one + 0.5 * other, 0, rows - 1, 0.0
            while high - low >= keep:
                if median - values[low, column] > values[high, column] - median:
                    low += 1
                else:
                    high -= 1
            for rank in range(low, high + 1):
                kept += np.float64(values[rank, column]) / keep
            total[start + column], least[column], most[column] = kept, values[low, column], values[high, column]
        for row in range(rows):
            count = 0
            for column in range(width):
                value = block[row, start + column]
                count += (value >= least[column]) & (value <= most[column])
            inside[row] += count


@numba.njit([numba.int64(numba.float64[::1])], cache=True, nogil=True)
def _exponent(row: Floats) -> np.int64:
    """The least e with all of `row` below 2^e, but -1022 for what is no normal number. Read as whole numbers, of which a
    processor compares several at once: a positive float's bits grow with it."""
    bits, most, sign = row.view(np.int64), np.int64(0), np.int64(0x7FFFFFFFFFFFFFFF)
    for column in range(len(bits)):
        most = max(most, bits[column] & sign)
    return (most >> 52) - np.int64(1022)


@numba.njit([numba.float64(numba.float64[::1], numba.float64[::1])], cache=True, nogil=True)
def _round_row(row: Floats, low: Floats) -> float:
    """Make `row` whole numbers of `BITS` bits and `low`, if it is not empty, that many more below them; returns what 1 in
    `row` was worth, a power of two."""
    exponent = max(_exponent(row), -900) - BITS
    factor, finer = math.ldexp(1.0, -exponent), 2.0**BITS
    if len(low):
        for column in range(len(row)):
            exact = row[column] * factor
            row[column] = np.rint(exact)
            low[column] = np.rint((exact - row[column]) * finer)
    else:
        for column in range(len(row)):
            row[column] = np.rint(row[column] * factor)
    return math.ldexp(1.0, exponent)


@numba.njit(
    [
        numba.void(
            _read_only(kind, 2), _ORDER, numba.int64, numba.int64, numba.float64[:, ::1], numba.float64[:, ::1],
            numba.float64[::1],
        )
        for kind in _KINDS
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def centre_and_round(
    updates: Floats | Single, order: Ints, start: int, centre: int, rows: Floats, low: Floats, steps: Floats
) -> None:
    """rows [n + 1, c] = rows `order` [n] of `updates` from column `start` on and (last) zero, all less the `centre`-th, or
    less their mean for -1; then rounded, with `low` [n + 1, c] or [n + 1, 0], and `steps` [n + 1], as in `round_rows`."""
    count = len(order)
    middle = rows[count]
    stop = start + len(middle)
    middle[:] = 0.0
    for row in range(count) if centre < 0 else range(centre, centre + 1):
        own = updates[order[row], start:stop]
        for column in range(len(middle)):
            middle[column] += own[column]
    divisor = count if centre < 0 else 1
    for column in range(len(middle)):
        middle[column] /= divisor
    for row in range(count):
        own, target = updates[order[row], start:stop], rows[row]
        for column in range(len(middle)):
            target[column] = own[column] - middle[column]
        steps[row] = _round_row(target, low[row])
    for column in range(len(middle)):
        middle[column] = -middle[column]
    steps[count] = _round_row(middle, low[count])


@numba.njit([numba.void(numba.float64[:, ::1], numba.float64[:, ::1], numba.float64[::1])], cache=True, nogil=True)
def round_rows(rows: Floats, low: Floats, steps: Floats) -> None:
    """Make `rows` [n, c] whole numbers of at most 2^BITS, in place; `low` [n, c] (or [n, 0]: not wanted) becomes what they
    lost, 2^BITS times as large and rounded; `steps` [n] what 1 in each row was worth."""
    for row in range(len(rows)):
        steps[row] = _round_row(rows[row], low[row])


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
