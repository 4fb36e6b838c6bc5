"""The bank's child for real: a warm process, forks that share nothing, noise that no fork repeats."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from bank_node import child
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


SUMS = """
import os, sys, threading
import numpy as np
from bank_node import local_round
from mintmark.privacy.mechanism import Contributions, bounded_sum

local_round.warm()
loaded = set(sys.modules)
table = Contributions(np.arange(60).reshape(3, 20) % 7, np.linspace(-1, 1, 20)[:, None], 7)
if os.fork() == 0:
    total = bounded_sum(table, clipping_norm=2**26, customers=np.arange(20) // 3).vector
    print(total.tolist(), threading.active_count(), set(sys.modules) - loaded, flush=True)
    os._exit(0)
os.wait()
print(bounded_sum(table, clipping_norm=2**26, customers=np.arange(20) // 3).vector.tolist(), 1, set())
"""


def test_a_fork_computes_what_its_parent_does() -> None:
    """Compiled loops are warm in a fork: nothing more is imported, no thread starts, the sums are the same."""
    import subprocess

    run = subprocess.run([sys.executable, "-c", SUMS], capture_output=True, text=True, check=True, timeout=300)
    fork, parent = run.stdout.splitlines()
    assert fork == parent


@pytest.mark.parametrize("writable", [True, False])
def test_compiled_code_is_kept_where_it_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    """Beside the package, or at the bank when the package is read-only."""
    monkeypatch.setattr(os, "access", lambda *_: writable)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    child._let_numba_write(tmp_path)
    assert os.environ.pop("NUMBA_CACHE_DIR", "beside") == ("beside" if writable else str(tmp_path / "cache" / "numba"))


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
        warm = await Child.spawn(child_command(tmp_path), child_environment(os.environ))
        try:
            return [(await warm.answer(PLAN, 120)).event for _ in range(5)], warm.alive
        finally:
            await warm.end()

    events, alive = asyncio.run(scenario())
    assert events == ["failed"] * 5  # the folder is empty: each job fails, and none takes the child along
    assert alive
