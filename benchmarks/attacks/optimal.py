"""Attacks that know rule, roster, noise and everybody's update, and try the rule to find how far they get with it.

Each has a direction and looks for the length that does most harm: how far the outcome is moved against the honest mean,
in units of its length. Shejwalkar and Houmansadr 2021, "Manipulating the Byzantine", for the search.
"""

from __future__ import annotations

import numpy as np

from benchmarks.attacks.scene import Attack, Floats, Scene

LENGTHS = np.array([0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0])

LEANS = np.array([1.0, 2.0, 4.0, 6.0, 9.0, 13.0, 18.0, 26.0, 36.0])  # standard deviations of a liar's own noise


def optimal_inner_product(scene: Scene) -> Floats:
    """The opposite of the others' mean, as long as is best."""
    return _worst(scene, [scene.everybody(-length * scene.mean) for length in LENGTHS])


def optimal_alie(scene: Scene) -> Floats:
    """The others' mean moved against its sign by as many of their standard deviations as is best."""
    step = scene.spread * np.sign(scene.mean)
    return _worst(scene, [scene.everybody(scene.mean - length * step) for length in LENGTHS])


def adaptive(scene: Scene) -> Floats:
    """The best of several directions at their best lengths, as they are and hidden in noise like the liars' own.

    Directions: against the mean; against its sign, by the others' spread; against what the rule would make of honest banks
    alone, and its sign. Hidden, a lie has the liars' own noise and leans by some of its standard deviations, as many for a
    small bank as for a large one.
    """
    mean, spread = scene.mean, scene.spread
    truth = scene.outcome(scene.own)
    directions = (mean, truth, spread * np.sign(mean), spread * np.sign(truth))
    alike = [scene.everybody(mean - length * step) for step in directions for length in LENGTHS]
    own_noise = scene.noise[scene.liars][:, None]
    cover = scene.rng.standard_normal(scene.own.shape) * own_noise
    ways = [step / max(float(np.linalg.norm(step)), 1e-300) for step in (mean, truth, np.sign(mean))]
    hidden = [cover - lean * own_noise * way for way in ways for lean in LEANS]
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
