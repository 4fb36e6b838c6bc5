"""Attacks that know rule, roster, noise and everybody's update, and try the rule to find how far they get with it.

Each has a direction and looks for the length that does most harm: how far the outcome is moved against the honest mean,
in units of its length. Shejwalkar and Houmansadr 2021, "Manipulating the Byzantine", for the search.
"""

from __future__ import annotations

import numpy as np

from benchmarks.attacks.scene import Attack, Floats, Scene

LENGTHS = np.array([0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0])


def optimal_inner_product(scene: Scene) -> Floats:
    """The opposite of the others' mean, as long as is best."""
    return _worst(scene, [scene.everybody(-length * scene.mean) for length in LENGTHS])


def optimal_alie(scene: Scene) -> Floats:
    """The others' mean moved against its sign by as many of their standard deviations as is best."""
    step = scene.spread * np.sign(scene.mean)
    return _worst(scene, [scene.everybody(scene.mean - length * step) for length in LENGTHS])


def adaptive(scene: Scene) -> Floats:
    """The best of several directions at their best lengths, hidden in noise like the liars' own.

    Directions: against the mean; against its sign, by the others' spread and by the liars' own noise; against what the
    rule would make of honest banks alone.
    """
    mean, spread = scene.mean, scene.spread
    truth = scene.outcome(scene.own)
    cover = scene.rng.standard_normal(scene.own.shape) * scene.noise[scene.liars][:, None]
    directions = (mean, truth, spread * np.sign(mean), spread * np.sign(truth))
    alike = [scene.everybody(mean - length * step) for step in directions for length in LENGTHS]
    hidden = [mean - length * step + cover for step in directions[:2] for length in LENGTHS]
    return _worst(scene, alike + hidden)


def _worst(scene: Scene, candidates: list[Floats]) -> Floats:
    mean = scene.mean
    harm = [float((mean - scene.outcome(lies)) @ mean) for lies in candidates]
    return candidates[int(np.argmax(harm))]


OPTIMAL: dict[str, Attack] = {
    "optimal_inner_product": optimal_inner_product,
    "optimal_alie": optimal_alie,
    "adaptive": adaptive,
}
