"""Attacks that do not look at the rule."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np

from benchmarks.attacks.scene import Attack, Floats, Scene
from mintmark.table import Table


def sign_flip(scene: Scene) -> Floats:
    """The opposite of the truth."""
    return -scene.own


def scaling(scene: Scene) -> Floats:
    """Ten times the opposite of the truth."""
    return -10 * scene.own


def inner_product(scene: Scene) -> Floats:
    """The opposite of the others' mean, half as long. Xie et al. 2020, "Fall of Empires"."""
    return scene.everybody(-0.5 * scene.mean)


def alie(scene: Scene) -> Floats:
    """ "A little is enough": the others' mean, moved against its sign by as many of their standard deviations as still
    leave a majority with more extreme values. Baruch et al. 2019, Algorithm 3."""
    return scene.everybody(scene.mean - alie_factor(scene) * scene.spread * np.sign(scene.mean))


def alie_factor(scene: Scene) -> float:
    """The number of standard deviations, by the quantile of the banks that must be won over; at least .3."""
    n, f = len(scene.updates), len(scene.liars)
    if n == f:
        return 1.0
    won = n // 2 + 1 - f
    return max(0.3, NormalDist().inv_cdf(min(max((n - f - won) / (n - f), 1e-6), 1 - 1e-6)))


def mimic(scene: Scene) -> Floats:
    """All repeat the honest bank that is farthest from the others' mean. Karimireddy et al. 2022."""
    away = np.linalg.norm(scene.honest - scene.mean, axis=1)
    return scene.everybody(scene.honest[int(np.argmax(away))])


def gaussian(scene: Scene) -> Floats:
    """Noise ten times as wide as what honest banks differ by."""
    return np.asarray(scene.rng.standard_normal(scene.own.shape) * 10 * scene.spread)


def infinity(scene: Scene) -> Floats:
    """Infinity, or the largest number that the wire carries."""
    return np.full(scene.own.shape, np.inf)


def nan(scene: Scene) -> Floats:
    """No number in one coordinate, the truth in the others."""
    lies = scene.own.copy()
    lies[:, 0] = np.nan
    return lies


def size_lie(scene: Scene) -> Floats:
    """The opposite of the truth, as large as if the bank had a hundred times its rows."""
    return -100 * scene.own


def flip_labels(table: Table) -> Table:
    """Rows whose fraud is honest and whose honest payments are fraud: what a bank sends of them follows the protocol."""
    return replace(table, labels=(1 - table.labels).astype(table.labels.dtype))


PLAIN: dict[str, Attack] = {
    "sign_flip": sign_flip,
    "scaling": scaling,
    "inner_product": inner_product,
    "alie": alie,
    "mimic": mimic,
    "gaussian": gaussian,
    "infinity": infinity,
    "nan": nan,
    "size_lie": size_lie,
}
