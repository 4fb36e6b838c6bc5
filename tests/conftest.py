"""How the suite is shared out when it runs on several cores (`make test`).

Not by xdist's own groups: xdist 3.8 writes them where pytest 9.2 no longer looks, and then spreads the tests one by one
without a word (pytest-xdist issue 1386).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parent.parent
CONSORTIA = ("test_browser.py", "test_chaos.py", "test_demo.py")
"""Whole campaigns with a dozen processes each: one after the other, because two at once only wait for each other."""


@cache
def unit(file: Path) -> str:
    """What is played in one process: a file's tests share what they have made, and files that start servers share these
    too (`worker_stage`)."""
    if file.name in CONSORTIA:
        return "consortia"
    return "servers" if "pytest.mark.servers" in file.read_text() else str(file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts servers begins first, because it takes longest."""
    items.sort(key=lambda item: unit(item.path) not in ("consortia", "servers"))


class ByUnit(LoadScopeScheduling):
    """Gives each process whole units."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(ROOT / nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)  # nobody calls it where xdist is switched off
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Units begin in the order of the items, not in that of their numbers of tests."""
    config.option.loadscopereorder = False
    return ByUnit(config, log)
