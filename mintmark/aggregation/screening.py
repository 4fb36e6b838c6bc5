"""Before the rule: updates that cannot be honest are refused, each with its reason and the figure that decided.

`Round` judges every message by itself (signature, round, layout, norm); here are the checks that need the others.
A refusal is a `Rejection`, for people to read; what is only unlikely is not refused but told (`report.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from enum import StrEnum
from functools import partial

import numpy as np
import numpy.typing as npt

from mintmark.aggregation.mixture import Floats, mixture_of
from mintmark.agreed import Agreed

FAR = 10.0  # times as far from the others as banks are from each other
AGAINST = 4.0  # standard deviations: noise alone pushes so far against the others once in 30,000 updates
UNLIKE = 0.1  # standard deviation of what an honest bank pushes, in what a bank of its size is expected to
LOUD, TAIL = 3.0, 5.0  # times what is usual for the size; standard deviations of the noise's squared length
_MOST = 3.0  # standard deviations of noise that the agreement of two updates counts for


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
    AGAINST_THE_OTHERS = "against_the_others"


class Rejection(Agreed):
    """A refused update: whose, why, and the figure that decided, for people."""

    bank: str
    reason: RejectionReason
    detail: str


SCREENED = frozenset(
    {
        RejectionReason.SAME_AS_ANOTHER,
        RejectionReason.FAR_FROM_ALL,
        RejectionReason.NORM_TOO_LARGE,
        RejectionReason.AGAINST_THE_OTHERS,
    }
)


def refused_for_content(rejections: Iterable[Rejection]) -> tuple[str, ...]:
    """The banks whose sums themselves were refused: no honest bank's are, but for an accident."""
    return tuple(rejection.bank for rejection in rejections if rejection.reason in SCREENED)


def screen(
    banks: tuple[str, ...],
    updates: Floats,
    sizes: Floats,
    *,
    noise: float,
    f: int,
    doubted: Collection[str] = (),
) -> tuple[Rejection, ...]:
    r"""Refuse, of `updates` [n, d] of `banks` of `sizes` [n], f of whom may lie: equal ones (noise never repeats, so they
    were copied), ones that are far from all others, ones louder than a bank of that size is, and ones that push against
    the others, for which banks that are `doubted` get no allowance. `noise` is the standard deviation of the noise in every
    coordinate of every update. All but the first need three banks, and more than 2 f.

    >>> far = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [400.0, 0.0]])
    >>> [(r.bank, r.reason.value) for r in screen(("a", "b", "c", "d"), far, np.ones(4), noise=1.0, f=1)]
    [('d', 'far_from_all')]
    """
    rejected: list[Rejection] = []
    checks: list[Callable[..., list[Rejection]]]
    checks = [_far] if not f else [_far, _loud, partial(_against, doubted=doubted)]
    checks = [_copies, *checks] if noise else checks
    for check in checks:
        gone = {rejection.bank for rejection in rejected}
        kept = [place for place, bank in enumerate(banks) if bank not in gone]
        left = max(f - len(gone), 0)
        if check is _copies or len(kept) >= max(3, 2 * left + 1):
            rejected += check(tuple(banks[k] for k in kept), updates[kept], sizes[kept], noise, left)
    return tuple(sorted(rejected, key=lambda rejection: rejection.bank))


def agreeing(products: Floats, noise: float, f: int) -> npt.NDArray[np.intp]:
    """Who agrees most with each other, from inner products [n, n] of updates, to which noise adds `noise`: all but the f
    who one after the other agree least with those left. What two say counts for up to three standard deviations, so that
    liars who say the same gain no more by it than honest banks do.

    >>> agreeing(np.array([[2.0, 1, -1], [1, 2, -1], [-1, -1, 9]]), 1.0, 1).tolist()
    [0, 1]
    """
    pairs = np.clip(products, -_MOST * noise, _MOST * noise) if noise else np.sign(products)
    np.fill_diagonal(pairs, 0.0)
    left = np.arange(len(pairs))
    for _ in range(f):
        left = np.delete(left, np.argmin(pairs[np.ix_(left, left)].sum(axis=1)))
    return left


def _loud(banks: tuple[str, ...], updates: Floats, sizes: Floats, noise: float, f: int) -> list[Rejection]:
    r"""Updates longer than noise and three times the median bank's, told by size, make them: with
    $h = \mathrm{med}_k (\|u_k\|^2 - (d - t) s^2) / n_k^2$ those above $\sqrt{(d + t) s^2} + 3 n_k \sqrt h$, where noise's
    squared length is $d s^2$ but for $t s^2 = 5 \sqrt{2 d} s^2$."""
    norms = np.linalg.norm(updates, axis=1)
    likely, tail = updates.shape[1] * noise**2, TAIL * math.sqrt(2 * updates.shape[1]) * noise**2
    usual = max(float(np.median((np.square(norms) - likely + tail) / np.square(sizes))), 0.0)
    bounds = math.sqrt(likely + tail) + LOUD * sizes * math.sqrt(usual)
    return [
        Rejection(
            bank=bank,
            reason=RejectionReason.NORM_TOO_LARGE,
            detail=f"expected a norm of at most {bound:.3g}, by its size and the others', got {norm:.3g}",
        )
        for bank, norm, bound in zip(banks, norms.tolist(), bounds.tolist(), strict=True)
        if norm > bound
    ]


def _copies(banks: tuple[str, ...], updates: Floats, sizes: Floats, noise: float, f: int) -> list[Rejection]:
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


def _far(banks: tuple[str, ...], updates: Floats, sizes: Floats, noise: float, f: int) -> list[Rejection]:
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


def _against(
    banks: tuple[str, ...], updates: Floats, sizes: Floats, noise: float, f: int, doubted: Collection[str]
) -> list[Rejection]:
    r"""At most f banks whose updates point against the sum y of the n - f others that agree most (`agreeing`).

    $a_k = \langle u_k, y \rangle / \|y\|$ is what bank k pushes in the others' direction. Noise moves it by s, `noise`;
    $e_k = n_k (\|y\|^2 - m d s^2) / (\|y\| \sum_l n_l)$ is expected of a bank of its size, m others having made y. Refused
    where $a_k < -4 \sqrt{s^2 + (0.1 e_k)^2}$: by noise alone once in 30,000 updates; without noise where a bank says the
    opposite of the others with .4 of their strength. A `doubted` bank is refused where $a_k < 0$.
    """
    mixture = mixture_of(updates)
    with_zero = mixture.products * mixture.unit**2
    products = with_zero[:-1, :-1] - with_zero[-1, :-1] - with_zero[:-1, -1:] + with_zero[-1, -1]
    variance = noise**2 * updates.shape[1]
    inside = agreeing(products, variance / math.sqrt(updates.shape[1]), f)
    square = max(float(products[np.ix_(inside, inside)].sum()), 1e-300)
    rate = max(square - len(inside) * variance, 0.0) / math.sqrt(square) / float(sizes[inside].sum())
    refused = []
    for place in sorted(set(range(len(banks))) - set(inside.tolist())):
        pushes = float(products[place, inside].sum()) / math.sqrt(square)
        bound = 0.0 if banks[place] in doubted else -AGAINST * math.hypot(noise, UNLIKE * rate * float(sizes[place]))
        if pushes < bound:
            detail = f"expected it to push by at least {bound:.3g} in the direction of the others, got {pushes:.3g}"
            refused.append(Rejection(bank=banks[place], reason=RejectionReason.AGAINST_THE_OTHERS, detail=detail))
    return refused
