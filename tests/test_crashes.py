"""Killed by a real SIGKILL at any point of an answer, a bank neither releases unpaid, nor draws anew, nor forgets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mintmark

HOME = Path(mintmark.__file__).parents[1]


def test_killed_before_any_line_that_writes(tmp_path: Path) -> None:
    """Before, between and after all writes of ledger, anchor, outbox and mailbox: no draw and no update before its charge,
    one charge in the end, and all attempts carry the one draw that was kept."""
    program = Path(__file__).with_name("crashes.py")
    environment = {**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        cwd=HOME,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    *found, unharmed = json.loads(done.stdout)
    assert len(found) > 60
    assert all(point["status"] == -signal.SIGKILL for point in found)
    assert unharmed["status"] == 0
    for point in [*found, unharmed]:
        killed, resumed = point["killed"], point["resumed"]
        assert set(killed["charges_at_draws"] + resumed["charges_at_draws"]) <= {1}  # charged before any draw
        assert killed["charges"] == 1 or not killed["sent"]
        assert resumed["charges"] == 1  # neither lost nor paid twice
        assert len(resumed["sent"]) == 2
        assert set(killed["sent"]) <= set(resumed["sent"]) == {resumed["sent"][0]}
    states = [(len(p["killed"]["charges_at_draws"]), p["killed"]["charges"], len(p["killed"]["sent"])) for p in found]
    assert states == sorted(states)
    assert {(0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 1, 1)} == set(states)  # every stage was met
