"""Wrong variants of the bank's own code, each a small patch of it: what an audit that works must catch.

with MUTANTS["half the noise"]():
    ...  # the bank now draws half the noise it says
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

import numpy as np

from bank_node import local_round
from mintmark.privacy.ledger import Entry, EntryKind, Ledger
from mintmark.privacy.mechanism import BoundedSum, Contributions, Ints, bounded_sum, release

Mutant = Callable[[], AbstractContextManager[object]]


def half_the_noise() -> AbstractContextManager[object]:
    """The noise is drawn with half of the scale that was paid for."""
    return patch.object(
        local_round, "release", lambda total, *, noise_scale: release(total, noise_scale=noise_scale / 2)
    )


def clipped_at(factor: float) -> AbstractContextManager[object]:
    """Customers are clipped to a multiple of the norm that the sum claims."""

    def loose(contributions: Contributions, *, clipping_norm: int, customers: Ints | None = None) -> BoundedSum:
        total = bounded_sum(contributions, clipping_norm=round(factor * clipping_norm), customers=customers)
        return replace(total, sensitivity=clipping_norm)

    return patch.object(local_round, "bounded_sum", loose)


def counted_twice() -> AbstractContextManager[object]:
    """A customer's rows are dealt to two groups, and each is clipped as if it were a customer."""

    def dealt(contributions: Contributions, *, clipping_norm: int, customers: Ints) -> BoundedSum:
        groups = 2 * customers + np.arange(len(customers)) % 2
        return bounded_sum(contributions, clipping_norm=clipping_norm, customers=groups)

    return patch.object(local_round, "bounded_sum", dealt)


def fresh_retries() -> AbstractContextManager[object]:
    """The ledger forgets what was drawn, so every attempt draws anew under the one charge."""
    return patch.object(Ledger, "drawn", lambda self, release_digest: False)


def unnoised_hessians() -> AbstractContextManager[object]:
    """Only gradients are noised; hessians, every other number, leave as they are."""

    def half(total: BoundedSum, *, noise_scale: float) -> Ints:
        left = release(total, noise_scale=noise_scale)
        left[1::2] = total.vector[1::2]
        return left

    return patch.object(local_round, "release", half)


def seeded_noise() -> AbstractContextManager[object]:
    """The noise comes from a generator that whoever reads the code can run again."""

    def seeded(total: BoundedSum, *, noise_scale: float) -> Ints:
        noise = np.random.default_rng(42).normal(0, noise_scale, len(total.vector))
        return total.vector + np.rint(noise).astype(np.int64)

    return patch.object(local_round, "release", seeded)


def not_charged() -> AbstractContextManager[object]:
    """The round leaves and no charge for it is written down."""
    append = Ledger.append

    def free(self: Ledger, entry: Entry) -> None:
        if entry.kind is not EntryKind.CHARGE:
            append(self, entry)

    return patch.object(Ledger, "append", free)


MUTANTS: dict[str, Mutant] = {
    "half the noise": half_the_noise,
    "twice the sensitivity": lambda: clipped_at(2),
    "forgotten clipping": lambda: clipped_at(1e6),
    "four fresh retries": fresh_retries,
    "unnoised hessians": unnoised_hessians,
    "a customer counted twice": counted_twice,
    "seeded noise": seeded_noise,
    "a release not charged": not_charged,
    "rounding that grows a norm": lambda: clipped_at(1 + 1e-7),  # by three lattice steps: no number of draws shows that
}
