r"""The banks' rows, never written out again: blocks of coordinates, inner products, and one pass for a combination.

Most robust rules return $y = \sum_i p_i x_i$ with p from the pairwise distances alone, and so do the steps put before
them (nearest-neighbour mixing, clipping, bucketing): their rows are combinations of the banks' rows and of the zero
vector. A `Mixture` is such a set of rows, held as its coefficients. Its inner products follow from those of the banks,
so that a chain of any length reads the [n, d] updates twice and holds [n, n] numbers.

**The same bytes everywhere.** Linear algebra libraries add in another order on another processor and with other threads.
So inner products are taken of whole numbers: every block of a row is rounded to 21 bits below its largest entry (float64
rows keep 21 more), and sums of such products are exact in whatever order. Everything else adds in numpy's own order.

**Nothing overflows.** Where rows leave the range of numbers whose squares are numbers, they are scaled by the median row's
largest entry, and one that is 2^300 times longer is pulled in to that. Rows are centred at their mean or, where a far row
drags it off, at the row nearest to the others, so that liars cost no digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mintmark.errors import AggregationError

Floats = npt.NDArray[np.float64]
Updates = npt.NDArray[np.floating[Any]]

BLOCK = 2048  # coordinates at once; products of 21-bit numbers add up exactly to this length: 2 * 21 + 11 = 53
_RANGE = 600  # binary orders of magnitude of a squared length, either way, that need no scaling
_PULL = 300  # binary orders of magnitude above the median row


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What a rule made of n banks.

    `vector` [d] is the result, `shares` [n] (>= 0, sum 1) each bank's part in it. `mass` is 1, or less where clipping
    drew rows toward zero: for rules of the form p @ X the vector is mass * shares @ updates. `seen` holds what decided,
    a figure a bank [n] under each name: distances, scores, clipping factors.
    """

    vector: Floats
    shares: Floats
    mass: float = 1.0
    seen: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Rows:
    """Updates [n, d] float32 or float64, read in the order `order` [n]."""

    updates: Updates
    order: npt.NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.order)

    def blocks(self, length: int = BLOCK) -> Iterator[tuple[slice, Updates]]:
        """Blocks [n, <= length] of coordinates, each a copy that the next one overwrites. Raises `AggregationError` for a
        value that is not finite."""
        nothing = np.zeros(length, dtype=self.updates.dtype)
        for at, block in self._copies(length):
            with np.errstate(invalid="ignore"):
                sums = block @ nothing[: block.shape[1]]  # 0 times infinity or NaN is NaN
            if not (sums == 0).all():
                raise AggregationError("expected finite updates, got NaN or infinity")
            yield at, block

    def _copies(self, length: int) -> Iterator[tuple[slice, Updates]]:
        whole = np.empty((len(self), min(length, self.updates.shape[1])), dtype=self.updates.dtype)
        for at in self._slices(length):
            block = whole if at.stop - at.start == whole.shape[1] else whole[:, : at.stop - at.start].copy()
            self.updates[:, at].take(self.order, axis=0, out=block, mode="clip")  # "raise" would copy once more
            yield at, block

    def _slices(self, length: int) -> Iterator[slice]:
        for start in range(0, self.updates.shape[1], length):
            yield slice(start, min(start + length, self.updates.shape[1]))

    def combination(self, coefficients: Floats) -> Floats:
        """coefficients @ updates, in one pass: [n] -> [d]. Raises `AggregationError` when the result is not finite."""
        from mintmark.aggregation.kernels import add_rows  # compiled: loaded where something is aggregated

        vector, used = np.empty(self.updates.shape[1]), np.flatnonzero(coefficients)
        if self.updates.flags.c_contiguous:
            add_rows(self.updates, self.order[used], coefficients[used], vector)
        else:
            for at, block in self._copies(BLOCK):
                add_rows(block, used, coefficients[used], vector[at])
        if not np.isfinite(vector).all():
            raise AggregationError("expected finite updates whose sum stays finite, got NaN or infinity")
        return vector

    @property
    def products(self) -> Floats:
        """Inner products [n + 1, n + 1], over unit^2, of the rows and (last) the zero vector, all less one centre."""
        return self._scaled[0]

    @property
    def unit(self) -> float:
        """What 1 in the square root of `products` is worth: a power of two."""
        return self._scaled[1]

    @property
    def pull(self) -> Floats:
        """Powers of two [n], 1 but for monstrous rows, that these are multiplied by before anything looks at them."""
        return self._scaled[2]

    @cached_property
    def _scaled(self) -> tuple[Floats, float, Floats]:
        ones = np.ones(len(self))
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            products = self._centred_products(ones, ones)
        lengths = np.diag(products)[:-1]
        if (lengths > 2.0**-_RANGE).all() and (lengths < 2.0**_RANGE).all():
            return products, 1.0, ones
        exponents = self._largest_exponents()
        unit = max(int(np.sort(exponents)[(len(self) - 1) // 2]), -1000)
        excess = np.maximum(exponents - unit - _PULL, 0)
        # In two factors: one may leave the range of a float64 where the scaled row does not.
        lift = -unit - excess
        first, second = np.ldexp(1.0, lift // 2), np.ldexp(1.0, lift - lift // 2)
        return self._centred_products(first, second), float(np.ldexp(1.0, unit)), np.ldexp(1.0, -excess)

    def _centred_products(self, first: Floats, second: Floats) -> Floats:
        products = self._products(first, second, None)
        near = np.sort(squared_distances(products)[:-1, :-1], axis=1)[:, len(self) // 2]
        if np.median(near) < 2.0**-10 * np.median(np.diag(products)[:-1]):
            products = self._products(first, second, int(np.argmin(near)))
        return products

    def _products(self, first: Floats, second: Floats, centre: int | None) -> Floats:
        from mintmark.aggregation.kernels import centre_and_round  # compiled: loaded where something is aggregated

        count, length = len(self) + 1, min(BLOCK, self.updates.shape[1])
        fine = self.updates.dtype != np.float32
        total, steps = np.zeros((count, count)), np.empty(count)
        scratch, finer = np.empty(count * length), np.empty(count * length if fine else 0)
        for width, piece, order, start in self._pieces(first, second):
            whole = scratch[: count * width].reshape(count, width)
            below = finer[: whole.size if fine else 0].reshape(count, -1)
            centre_and_round(piece, order, start, -1 if centre is None else centre, whole, below, steps)
            total += _products_of(whole, below, steps)
        return total

    def _pieces(self, first: Floats, second: Floats) -> Iterator[tuple[int, Updates, npt.NDArray[np.intp], int]]:
        """Rows times `first` [n] times `second` [n], `BLOCK` columns at once: how many, where they lie, the rows' places
        there and the first column. Where nothing is to be multiplied or laid out anew, they lie in the updates."""
        scaled = not ((first == 1).all() and (second == 1).all())
        if self.updates.flags.c_contiguous and not scaled:
            for at in self._slices(BLOCK):
                yield at.stop - at.start, self.updates, self.order, at.start
            return
        as_they_come = np.arange(len(self))
        for at, block in self._copies(BLOCK):
            own = block * first[:, None] * second[:, None] if scaled else block
            yield at.stop - at.start, own, as_they_come, 0

    def _largest_exponents(self) -> npt.NDArray[np.int64]:
        """Binary exponents [n] of every row's largest entry, which is below 2^exponent."""
        largest = np.zeros(len(self))
        for _, block in self.blocks():
            np.maximum(largest, np.maximum(block.max(axis=1), -block.min(axis=1)), out=largest)
        return np.where(largest > 0, np.frexp(largest)[1], -1000).astype(np.int64)


def exact_products(matrix: Floats) -> Floats:
    """matrix @ matrix.T, of each row rounded to 42 bits below its largest entry: at most 2048 columns."""
    from mintmark.aggregation.kernels import round_rows

    whole, below, steps = matrix.copy(), np.empty_like(matrix), np.empty(len(matrix))
    round_rows(whole, below, steps)
    return _products_of(whole, below, steps)


def _products_of(whole: Floats, below: Floats, steps: Floats) -> Floats:
    """Inner products [n, n] of what `round_rows` has made, `below` [n, c] or [n, 0]: exact, so the same in any order."""
    from mintmark.aggregation.kernels import BITS

    products = whole @ whole.T
    if below.size:
        cross = whole @ below.T
        products += (cross + cross.T) * 2.0**-BITS + (below @ below.T) * 2.0 ** (-2 * BITS)
    return np.asarray(products * steps[:, None] * steps)


def squared_distances(products: Floats) -> Floats:
    """Squared distances from inner products: [m, m] -> [m, m], exactly zero on the diagonal.

    >>> squared_distances(np.array([[1.0, 2.0], [2.0, 5.0]])).tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    square = np.diag(products)
    distances = np.maximum(square[:, None] + square - 2 * products, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def matmul(left: Floats, right: Floats) -> Floats:
    """A small matrix product that gives the same bytes on every processor: [a, b], [b, c] -> [a, c]."""
    return np.asarray(np.einsum("ab,bc->ac", left, right))


def dot(weights: Floats, rows: Floats) -> Floats:
    """weights @ rows, the same bytes on every processor: [a], [a, b] -> [b]."""
    return np.asarray((weights[:, None] * rows).sum(axis=0))


@dataclass(frozen=True, eq=False)
class Mixture:
    """m rows, row i being sum_k mix[i, k] x_k. `mix` None: the banks' rows themselves. `seen` as in `Aggregate`."""

    source: Rows
    mix: Floats | None = None
    seen: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source) if self.mix is None else len(self.mix)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers in `blocks`."""
        return self.source.updates.dtype if self.mix is None else np.dtype(np.float64)

    @property
    def unit(self) -> float:
        """What 1 is worth in the square root of `products` and `distances`."""
        return self.source.unit

    @cached_property
    def products(self) -> Floats:
        """Inner products [m + 1, m + 1] of the rows and (last) the zero vector, over unit^2, less one centre."""
        if self.mix is None:
            return self.source.products
        with_zero = np.zeros((len(self.mix) + 1, len(self.source) + 1))
        with_zero[:-1, :-1] = self.mix
        with_zero[:, -1] = 1 - with_zero.sum(axis=1)
        return matmul(matmul(with_zero, self.source.products), with_zero.T.copy())

    @cached_property
    def distances(self) -> Floats:
        """Squared distances [m, m] between the rows, over unit^2."""
        return squared_distances(self.products[:-1, :-1])

    @cached_property
    def norms(self) -> Floats:
        """Lengths [m] of the rows."""
        return np.asarray(np.sqrt(squared_distances(self.products)[-1, :-1]) * self.unit)

    def mixed(self, coefficients: Floats, seen: Mapping[str, Floats]) -> Mixture:
        """The mixture whose rows are `coefficients` [m', m] of these."""
        mix = coefficients if self.mix is None else matmul(coefficients, self.mix)
        return Mixture(self.source, mix, {**self.seen, **seen})

    def blocks(self, length: int = BLOCK) -> Iterator[tuple[slice, Updates]]:
        """Blocks [m, <= length] of coordinates."""
        if self.mix is None:
            yield from self.source.blocks(length)
            return
        mix = self.mix * self.source.pull
        for at, block in self.source.blocks(length):
            yield at, np.einsum("mn,nc->mc", mix, block.astype(np.float64))

    def shares_of(self, part: Floats) -> Floats:
        """The banks' coefficients [n] in a combination `part` [m] of these rows."""
        return part if self.mix is None else dot(part, self.mix)

    def result(self, part: Floats, seen: Mapping[str, Floats], *, pull: bool = True) -> Aggregate:
        """The combination `part` [m] (>= 0) of these rows."""
        own = self.shares_of(part)
        vector = self.source.combination(own * self.source.pull if pull else own)
        return self.aggregate(vector, own, seen)

    def aggregate(self, vector: Floats, coefficients: Floats, seen: Mapping[str, Floats]) -> Aggregate:
        """`vector` as what the banks' `coefficients` [n] made."""
        mass = float(coefficients.sum())
        shares = coefficients / mass if mass > 0 else np.full(len(coefficients), 1 / len(coefficients))
        return Aggregate(vector, shares, mass, {**self.seen, **seen})


def mixture_of(updates: Updates | Mixture) -> Mixture:
    """Updates [n, d] as rows to work on; a mixture stays what it is. Raises `AggregationError` for another shape."""
    if isinstance(updates, Mixture):
        return updates
    if updates.ndim != 2 or not len(updates):
        raise AggregationError(f"expected updates [n, d] of at least one bank, got shape {updates.shape}")
    if updates.dtype not in (np.float32, np.float64):
        raise AggregationError(f"expected float32 or float64 updates, got {updates.dtype}")
    return Mixture(Rows(updates, np.arange(len(updates))))


def normalised(weights: Floats | None, count: int) -> Floats:
    """Weights [count] of sum 1; equal ones for None. Raises `AggregationError` unless all are positive and finite."""
    if weights is None:
        return np.full(count, 1 / count)
    if weights.shape != (count,):
        raise AggregationError(f"expected weights [{count}], one a row, got shape {weights.shape}")
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise AggregationError("expected finite and positive weights, got others")
    scaled = weights.astype(np.float64) / float(weights.max())
    return np.asarray(scaled / scaled.sum())
