"""The compiled loops over rows: coding on the public grid, and falling through trees. Everything else is numpy.

Rows pass in blocks that stay in a processor's cache. A tree is a table from (node, code) to the next level's node, so
that numbers, categories and missing values take the same step without a branch (`routing.py` makes the tables). numba
compiles at the first import, some CPU-seconds, and keeps the result on disk. One thread: a bank's job is a fork.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Columns = npt.NDArray[np.uint16]

ZERO = float(np.float32(1e-35))
"""LightGBM takes numbers this near to zero for zero (its kZeroThreshold); so does the coding."""

_BLOCK = 512  # rows
_COMPILED = {"cache": True, "nogil": True}


def _read_only(kind: numba.types.Type, dimensions: int) -> numba.types.Array:
    return numba.types.Array(kind, dimensions, "C", readonly=True)  # takes writable arrays, too


_CODES, _VALUES = _read_only(numba.uint8, 2), _read_only(numba.float64, 2)
_FEATURE, _FOLLOWING = _read_only(numba.uint16, 3), _read_only(numba.uint8, 4)


@numba.njit([numba.void(_VALUES, _VALUES, numba.int64[::1], numba.uint8[:, ::1])], **_COMPILED)
def code_rows(features: Floats, edges: Floats, categories: Ints, codes: Bytes) -> None:
    """Write the codes [F, n] of `features` [n, F]: 0 is missing, else 1 + the number of edges below the value.

    `edges` [F, 256] ascend, then are +inf. `categories` [F] is the length of a category's list, 0 for numbers: a
    category's value is cut to a whole number as LightGBM does, 1 + it is its code, and outside the list it is missing.
    """
    values, below = np.empty(_BLOCK), np.empty(_BLOCK, np.int64)
    for start in range(0, len(features), _BLOCK):
        count = min(_BLOCK, len(features) - start)
        for column in range(len(edges)):
            known, grid = categories[column], edges[column]
            for row in range(count):
                x = features[start + row, column]
                values[row], below[row] = x if abs(x) > ZERO else 0.0, 0
            if not known:
                step = 128
                while step:
                    for row in range(count):
                        below[row] += step if grid[below[row] + step - 1] < values[row] else 0
                    step >>= 1
            for row in range(count):
                x = features[start + row, column]
                if known:
                    codes[column, start + row] = 1 + int(x) if -1.0 < x < known else 0
                else:
                    codes[column, start + row] = 0 if np.isnan(x) else 1 + below[row]


@numba.njit(**_COMPILED)
def _fall(block: Bytes, count: int, feature: Columns, following: Bytes, node: Bytes) -> None:
    """Let the block's rows fall through one tree, level by level; `node` then holds their leaves."""
    node[:count] = 0
    for level in range(len(feature)):
        column, table = feature[level], following[level]
        for place in range(count):
            row, at = np.uintp(place), node[np.uintp(place)]  # unsigned: no test for indices that count from the end
            node[row] = table[at, block[column[at], row]]


@numba.njit([numba.void(_CODES, _FEATURE, _FOLLOWING, numba.uint8[:, ::1])], **_COMPILED)
def find_leaves(codes: Bytes, feature: Columns, following: Bytes, leaves: Bytes) -> None:
    """Write each row's leaf in each of T trees: [T, n]. `feature` [T, L, W], `following` [T, L, W, 256]."""
    block, node = np.empty((len(codes), _BLOCK), np.uint8), np.empty(_BLOCK, np.uint8)
    for start in range(0, codes.shape[1], _BLOCK):
        count = min(_BLOCK, codes.shape[1] - start)
        block[:, :count] = codes[:, start : start + count]
        for tree in range(len(feature)):
            _fall(block, count, feature[tree], following[tree], node)
            leaves[tree, start : start + count] = node[:count]


@numba.njit([numba.void(_CODES, _FEATURE, _FOLLOWING, _VALUES, numba.float64[::1])], **_COMPILED)
def add_scores(codes: Bytes, feature: Columns, following: Bytes, values: Floats, score: Floats) -> None:
    """Add each row's leaf values [T, 256] to its score [n], tree after tree: in whatever portions, the same bits."""
    block, node = np.empty((len(codes), _BLOCK), np.uint8), np.empty(_BLOCK, np.uint8)
    for start in range(0, codes.shape[1], _BLOCK):
        count = min(_BLOCK, codes.shape[1] - start)
        block[:, :count] = codes[:, start : start + count]
        for tree in range(len(feature)):
            _fall(block, count, feature[tree], following[tree], node)
            for row in range(count):
                score[start + row] += values[tree, node[row]]


@numba.njit([numba.void(_CODES, _VALUES, numba.float64[::1])], **_COMPILED)
def add_values(leaves: Bytes, values: Floats, score: Floats) -> None:
    """What `add_scores` does, for rows whose leaves [T, n] are known."""
    for start in range(0, leaves.shape[1], _BLOCK):
        stop = min(start + _BLOCK, leaves.shape[1])
        for tree in range(len(leaves)):
            for row in range(start, stop):
                score[row] += values[tree, leaves[tree, row]]
