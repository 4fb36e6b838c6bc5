"""The bank's child for real: a warm process, forks that share nothing, noise that no fork repeats."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from bank_node.child import Child, PlanParameters, child_command, child_environment

PLAN = PlanParameters(plan_key="public/campaigns/cards/plans/0000-00", plan_digest="0" * 64)

DRAWS = """
import os
import numpy as np
from bank_node import local_round
from mintmark.privacy.mechanism import BoundedSum, release

local_round.warm()
release(BoundedSum(np.zeros(4, dtype=np.int64), 1), noise_scale=2.0**20)  # a generator, if there is one, has a state now
for _ in range(2):
    reader, writer = os.pipe()
    if os.fork() == 0:
        drawn = release(BoundedSum(np.zeros(4, dtype=np.int64), 1), noise_scale=2.0**20)
        os.write(writer, repr(drawn.tolist()).encode())
        os._exit(0)
    os.wait()
    print(os.read(reader, 4096).decode())
"""


def test_two_forks_draw_different_noise() -> None:
    """Forks of one warm process, after it has drawn itself, share no generator's state."""
    import subprocess

    run = subprocess.run([sys.executable, "-c", DRAWS], capture_output=True, text=True, check=True, timeout=120)
    first, second = run.stdout.split("\n")[:2]
    assert len(first) > 8
    assert first != second


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_warm_process_answers_many_plans(tmp_path: Path) -> None:
    """Plans sent back to back are all answered, by forks of one process that has no learning stack to load again."""

    async def scenario() -> tuple[list[str], bool]:
        child = await Child.spawn(child_command(tmp_path), child_environment(os.environ))
        try:
            return [(await child.answer(PLAN, 120)).event for _ in range(5)], child.alive
        finally:
            await child.end()

    events, alive = asyncio.run(scenario())
    assert events == ["failed"] * 5  # the folder is empty: each job fails, and none takes the child along
    assert alive
