r"""From rows to a noised sum: clip every unit, sum exactly, add discrete Gaussian noise (protocol, step 6).

Everything is a whole number of lattice steps (`LATTICE` steps are 1.0). Real contributions are rounded toward zero, so
a norm never grows; sums are exact in int64; the noise is OpenDP's discrete Gaussian over the integers. There is no
floating-point noise and no generator that can be seeded. Who pays for a release is in `ledger.py`, its price in
`accountant.py`.

    total = bounded_sum(contributions, clipping_norm=..., customers=None)   # exact, secret
    release(total, noise_scale=...)                                         # noised, may leave
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.errors import PrivacyError

LATTICE = 2**26  # steps in 1.0: fine enough that the lattice costs nothing (accountant.py), small enough for int64 sums
_EXACT = 2**53  # whole numbers are exact in float64 below this: norms are taken there
_INSIDE = 1 - 1e-9  # what is too long shrinks to just inside the norm: a float norm is off by far less
_MAX_CELLS = 2**16

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Contributions:
    """What n rows add to a grid of `slots` x `cells` x `width` numbers.

    Row i adds `values[i]` ([n, width] float64, L2 norm at most 1) to the cell `cells_of[s, i]` ([slots, n], below
    `cells`) of every slot s; a row's whole contribution has a norm of at most sqrt(slots).

    Raises `ValueError` when shapes do not fit, a slot has more than 65536 cells, or a cell is outside the grid: it would
    land in another customer's sums.
    """

    cells_of: npt.NDArray[np.integer]
    values: npt.NDArray[np.float64]
    cells: int

    def __post_init__(self) -> None:
        if self.cells_of.ndim != 2 or self.values.ndim != 2 or self.cells_of.shape[1] != len(self.values):
            raise ValueError(
                f"expected cells_of [slots, n], values [n, width], got {self.cells_of.shape}, {self.values.shape}"
            )
        if self.cells > _MAX_CELLS:
            raise ValueError(f"expected cells of at most {_MAX_CELLS} in number, got {self.cells}")
        if self.cells_of.size and not 0 <= self.cells_of.min() <= self.cells_of.max() < self.cells:
            raise ValueError(f"expected cells 0 to {self.cells - 1}, got others")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slots, cells, width): the sum's shape."""
        return len(self.cells_of), self.cells, self.values.shape[1]


@dataclass(frozen=True, eq=False)
class BoundedSum:
    """An exact sum and how far one unit can move it: made by `bounded_sum`, spent by `release`.

    `vector` [d] int64 is secret. `sensitivity` is in lattice steps: adding or removing one unit changes `vector` by at
    most that much in L2 norm. Proof: the vector is the sum over units of integer vectors u with ||u|| <= sensitivity
    (`bounded_sum` clips each, and rounding toward zero only shrinks them); adding or removing a unit adds or removes
    one such u and changes no other, because a row's contribution depends on the row and published values only.
    """

    vector: Ints
    sensitivity: int


def row_norm(slots: int) -> int:
    """The most that one row can contribute in L2 norm, in lattice steps: sqrt(slots), rounded up."""
    return math.isqrt(slots * LATTICE**2 - 1) + 1


def bounded_sum(
    contributions: Contributions, *, clipping_norm: int, customers: npt.NDArray[np.int64] | None = None
) -> BoundedSum:
    """Sum contributions with every unit's L2 norm clipped to `clipping_norm` lattice steps.

    `customers` [n] groups the rows into units (any integers); None makes every row a unit of its own.

    Raises:
        PrivacyError: a row's values exceed norm 1, are not finite, or the sum would not be exact.
    """
    values = _lattice_values(contributions.values)
    if clipping_norm < 1:
        raise PrivacyError(f"expected a clipping norm of at least 1 lattice step, got {clipping_norm}")
    kind: type[np.integer] = np.uint8 if contributions.cells <= 256 else np.uint16
    cells_of = np.ascontiguousarray(contributions.cells_of, dtype=kind)
    total = np.zeros(contributions.shape, dtype=np.int64)
    if customers is None:
        _sum_by_row(cells_of, values, clipping_norm, total)
    else:
        _sum_by_customer(cells_of, values, clipping_norm, customers, total)
    return BoundedSum(total.reshape(-1), clipping_norm)


def release(total: BoundedSum, *, noise_scale: float) -> Ints:
    """`total.vector` plus discrete Gaussian noise of standard deviation `noise_scale` lattice steps: [d] int64.

    The noise is drawn by OpenDP from the operating system's randomness; nothing here takes a seed.

    Raises:
        PrivacyError: `noise_scale` is not positive and finite.
    """
    if not (math.isfinite(noise_scale) and noise_scale > 0):
        raise PrivacyError(f"expected a positive noise scale, got {noise_scale}")
    # Only where noise is drawn, and not by opendp.prelude: that loads scikit-learn too, three CPU-seconds more.
    from opendp.domains import atom_domain, vector_domain
    from opendp.measurements import make_gaussian
    from opendp.metrics import l2_distance
    from opendp.mod import enable_features

    enable_features("contrib")
    domain = vector_domain(atom_domain(T="i64"), size=len(total.vector))
    gaussian = make_gaussian(domain, l2_distance(T="f64"), scale=noise_scale)
    return np.asarray(gaussian(total.vector.tolist()), dtype=np.int64)


def _lattice_values(values: npt.NDArray[np.float64]) -> Ints:
    """Round toward zero to whole lattice steps: [n, width]."""
    if not (np.einsum("iw,iw->i", values, values) <= 1 + 1e-9).all():  # nor is it for what is no number
        raise PrivacyError("expected contributions of norm at most 1, got larger ones or no numbers")
    if len(values) * LATTICE >= _EXACT:
        raise PrivacyError("expected fewer rows: the sum would leave the range in which it is exact")
    return (values * LATTICE).astype(np.int64)


def _sum_by_row(cells_of: npt.NDArray[np.integer], values: Ints, clipping_norm: int, total: Ints) -> None:
    """Clip each row, then add the rows up."""
    from mintmark.privacy import kernels

    # Every slot of a row holds the same integer vector, so its norm is sqrt(slots) * ||values||, compared in integers.
    slots, squares = len(total), np.einsum("iw,iw->i", values, values)
    if (long := squares > min(clipping_norm**2 // slots, np.iinfo(np.int64).max)).any():
        scale = clipping_norm * _INSIDE / np.sqrt(slots * squares[long].astype(np.float64))
        values[long] = (values[long] * scale[:, None]).astype(np.int64)  # cuts toward zero
    kernels.add_rows(cells_of, values, total)


def _sum_by_customer(
    cells_of: npt.NDArray[np.integer],
    values: Ints,
    clipping_norm: int,
    customers: npt.NDArray[np.int64],
    total: Ints,
) -> None:
    """Clip each customer's summed contribution over all slots, then add the customers up.

    A customer whose rows' norms together stay within the norm needs no clipping, whatever cells they meet: most do, and
    their rows are added as they are. The others are summed each on its own first.
    """
    from mintmark.privacy import kernels

    together = bool((customers[1:] >= customers[:-1]).all())
    order = np.arange(len(customers)) if together else np.argsort(customers, kind="stable")
    starts = np.flatnonzero(np.diff(customers[order], prepend=customers[order[:1]] - 1))
    norms = np.sqrt(len(total) * np.einsum("iw,iw->i", values, values).astype(np.float64))
    lengths = np.diff(starts, append=len(order))
    long = np.add.reduceat(norms[order], starts) * (1 + 1e-9) > clipping_norm * _INSIDE if len(starts) else starts > 0
    alone = np.repeat(long, lengths)  # in the order of `order`
    bounds = np.append(0, np.cumsum(lengths[long]))
    kernels.add_units(cells_of, values, order[alone], bounds, clipping_norm * _INSIDE, total)
    values[order[alone]] = 0
    kernels.add_rows(cells_of, values, total)
