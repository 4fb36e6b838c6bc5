"""The compiled loops over rows that sum contributions, exact in int64. What is clipped, and why, is in `mechanism.py`.

numba compiles them when first imported and keeps the result on disk. One thread: a bank's job is a fork.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

Cells = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Ints = npt.NDArray[np.int64]


_BLOCK = 512  # rows, so that their values stay in a processor's cache from slot to slot


def _read_only(kind: numba.types.Type, dimensions: int) -> numba.types.Array:
    return numba.types.Array(kind, dimensions, "C", readonly=True)  # takes writable arrays, too


_CELLS = (_read_only(numba.uint8, 2), _read_only(numba.uint16, 2))
_VALUES, _INDICES, _TOTAL = _read_only(numba.int64, 2), _read_only(numba.int64, 1), numba.int64[:, :, ::1]


@numba.njit([numba.void(cells, _VALUES, _TOTAL) for cells in _CELLS], cache=True, nogil=True)
def add_rows(cells_of: Cells, values: Ints, total: Ints) -> None:
    """Add every row's `values` [n, width] to its cell of every slot, `cells_of` [slots, n]."""
    for start in range(0, len(values), _BLOCK):
        stop = min(start + _BLOCK, len(values))
        for slot in range(len(cells_of)):
            for row in range(start, stop):
                cell = cells_of[slot, row]
                for column in range(values.shape[1]):
                    total[slot, cell, column] += values[row, column]


@numba.njit(
    [numba.void(cells, _VALUES, _INDICES, _INDICES, numba.float64, _TOTAL) for cells in _CELLS],
    cache=True,
    nogil=True,
)
def add_units(cells_of: Cells, values: Ints, order: Ints, bounds: Ints, norm: float, total: Ints) -> None:
    """Add every unit's sum to `total`, those longer than `norm` scaled down to it and cut toward zero.

    Unit u has the rows order[bounds[u] : bounds[u + 1]]. Only the cells that its rows meet are looked at.
    """
    slots, cells, width = total.shape
    flat = total.reshape(-1)
    own = np.zeros(slots * cells * width, np.int64)
    met_by = np.full(slots * cells, -1, np.int32)
    met = np.empty(slots * cells, np.int32)
    for unit in range(len(bounds) - 1):
        count = 0
        for slot in range(slots):
            for place in range(bounds[unit], bounds[unit + 1]):
                row = order[place]
                cell = slot * cells + cells_of[slot, row]
                if met_by[cell] == unit:
                    for column in range(width):
                        own[cell * width + column] += values[row, column]
                else:
                    met_by[cell], met[count] = unit, cell
                    count += 1
                    for column in range(width):
                        own[cell * width + column] = values[row, column]
        square = 0.0
        for cell in met[:count]:
            for column in range(width):
                square += float(own[cell * width + column]) ** 2
        scale = min(1.0, norm / max(math.sqrt(square), 1.0))
        for cell in met[:count]:
            for column in range(width):
                flat[cell * width + column] += int(own[cell * width + column] * scale)
