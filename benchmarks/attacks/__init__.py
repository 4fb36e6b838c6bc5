"""What banks that lie may send: pure functions from what they know to what arrives. For tests, benchmarks and the demo.

    from benchmarks.attacks import ATTACKS, Scene
    lies = ATTACKS["alie"](scene)     # [f, d], instead of scene.updates[scene.liars]

A `Scene` is one round as an all-seeing liar sees it. `ATTACKS` leaves out `flip_labels`, which poisons rows.
"""

from benchmarks.attacks.optimal import OPTIMAL
from benchmarks.attacks.plain import PLAIN, flip_labels
from benchmarks.attacks.scene import Attack, Floats, Scene

ATTACKS: dict[str, Attack] = {**PLAIN, **OPTIMAL}

__all__ = ["ATTACKS", "Attack", "Floats", "Scene", "flip_labels"]
