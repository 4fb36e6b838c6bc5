"""A bank of the one-machine consortium that lies: its worker and everything else are the honest bank's, but what it sends.

    python -m infra.embedded.attacker alie HOME

Only the demonstration starts this, for `mintmark demo --attack`. The child that it gives the worker puts a lie in the
place of `release`, after the bank's honest sums are made and with their noise drawn; nothing in `bank_node` knows of it,
and no setting of a bank reaches it. A liar here sees its own update only: it takes what it has for what the others have.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.attacks import ATTACKS, Scene
from mintmark.privacy.mechanism import BoundedSum, Ints, release

LARGEST = 2.0**62  # lattice steps: infinity, for a wire that carries whole numbers


def lie(attack: str, truth: Ints, noise_scale: float) -> Ints:
    """What a bank that knows nothing but its own noised sums [d] sends instead of them."""
    rows = truth.astype(np.float64)[None]
    scene = Scene(
        updates=rows,
        liars=np.array([0]),
        noise=np.array([noise_scale]),
        rule=lambda updates: np.asarray(updates.mean(axis=0)),
        rng=np.random.default_rng(),
    )
    sent = np.nan_to_num(ATTACKS[attack](scene)[0], nan=LARGEST, posinf=LARGEST, neginf=-LARGEST)
    return np.asarray(np.clip(sent, -LARGEST, LARGEST), dtype=np.int64)


def worker_command(attack: str, home: Path) -> list[str]:
    """What starts the worker of a lying bank."""
    return [sys.executable, "-m", "infra.embedded.attacker", attack, str(home)]


def run_lying_worker(attack: str, home: Path) -> None:
    """The bank's worker, with a child that lies."""
    from bank_node.settings import Home
    from bank_node.worker import run_worker

    opened = Home(home)
    settings = opened.settings
    child = [sys.executable, "-P", "-m", "infra.embedded.attacker", attack, "--home", str(home.resolve())]
    run_worker(opened.path, opened.pool, settings.prefect_api, settings.poll_s, command=child)


def run_lying_child(attack: str, arguments: list[str]) -> int:
    """The bank's child, in a process that releases lies."""
    from bank_node import child, local_round

    def lying_release(total: BoundedSum, *, noise_scale: float) -> Ints:
        return lie(attack, release(total, noise_scale=noise_scale), noise_scale)

    vars(local_round)["release"] = lying_release
    return child.main(arguments)


def main() -> int:
    """`ATTACK HOME` runs the worker, `ATTACK --home HOME` its child."""
    attack, *rest = sys.argv[1:]
    if rest[0] == "--home":
        return run_lying_child(attack, rest)
    run_lying_worker(attack, Path(rest[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
