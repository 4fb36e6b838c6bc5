"""Before the rule: updates that cannot be honest are refused, each with its reason and the figure that decided.

`Round` judges every message by itself (signature, round, layout, norm); here are the checks that need the others.
A refusal is a `Rejection`, for people to read; what is only unlikely is not refused but told (`report.py`).
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from mintmark.aggregation.mixture import Floats, mixture_of
from mintmark.plan import Agreed

FAR = 10.0  # times as far from the others as banks are from each other


class RejectionReason(StrEnum):
    """Why an update does not count."""

    NOT_A_MEMBER = "not_a_member"
    DUPLICATE = "duplicate"
    TOO_LARGE = "too_large"
    NOT_AUTHENTIC = "not_authentic"
    WRONG_ROUND = "wrong_round"
    NOT_OPENABLE = "not_openable"
    WRONG_LENGTH = "wrong_length"
    OUT_OF_RANGE = "out_of_range"
    NORM_TOO_LARGE = "norm_too_large"
    SAME_AS_ANOTHER = "same_as_another"
    FAR_FROM_ALL = "far_from_all"


class Rejection(Agreed):
    """A refused update: whose, why, and the figure that decided, for people."""

    bank: str
    reason: RejectionReason
    detail: str


def screen(banks: tuple[str, ...], updates: Floats, sizes: Floats, *, noise: float, f: int) -> tuple[Rejection, ...]:
    r"""Refuse, of `updates` [n, d] of `banks` of `sizes` [n], f of whom may lie: equal ones (noise never repeats, so they
    were copied), and ones that are far from all others.

    How far two banks are apart is told in units of what `noise`, the standard deviation in every coordinate of every
    update, makes of them: $\|u_i/n_i - u_j/n_j\| / \sqrt{d (s_i^2 + s_j^2)}$, $s_i$ = noise / n_i (without noise, that
    of n_i draws). A bank is far when its distance to the f + 1 nearest others, of whom one is honest, exceeds ten times the
    median bank's. Needs three banks, and more than 2 f.

    >>> far = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [400.0, 0.0]])
    >>> [(r.bank, r.reason.value) for r in screen(("a", "b", "c", "d"), far, np.ones(4), noise=1.0, f=1)]
    [('d', 'far_from_all')]
    """
    rejected = [] if not noise else _copies(banks, updates)
    gone = {rejection.bank for rejection in rejected}
    kept = [place for place, bank in enumerate(banks) if bank not in gone]
    if len(kept) >= 3 and len(kept) > 2 * f:
        names = tuple(banks[place] for place in kept)
        rejected += _far(names, updates[kept], sizes[kept], noise=noise, f=f)
    return tuple(sorted(rejected, key=lambda rejection: rejection.bank))


def _copies(banks: tuple[str, ...], updates: Floats) -> list[Rejection]:
    same: dict[bytes, list[str]] = {}
    for bank, update in zip(banks, updates, strict=True):
        same.setdefault(update.tobytes(), []).append(bank)
    return [
        Rejection(
            bank=bank, reason=RejectionReason.SAME_AS_ANOTHER, detail=f"expected 1 of these sums, got {len(group)}"
        )
        for group in same.values()
        if len(group) > 1
        for bank in group
    ]


def _far(banks: tuple[str, ...], updates: Floats, sizes: Floats, *, noise: float, f: int) -> list[Rejection]:
    mixture = mixture_of(updates / sizes[:, None])
    variance = np.square(noise / sizes) if noise else 1 / sizes
    expected = np.sqrt(updates.shape[1] * (variance[:, None] + variance))
    apart = np.sort(np.sqrt(mixture.distances) * mixture.unit / expected, axis=1)[:, min(f + 1, len(banks) - 1)]
    bound = FAR * max(float(np.median(apart)), 1.0 if noise else 0.0)
    return [
        Rejection(
            bank=bank,
            reason=RejectionReason.FAR_FROM_ALL,
            detail=f"expected a distance of at most {bound:.3g} to the {f + 1} nearest others, got {figure:.3g}",
        )
        for bank, figure in zip(banks, apart.tolist(), strict=True)
        if figure > bound
    ]
