"""How the suite is shared out when it runs on several cores (`make test`)."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a file stay in one process, because they share what they have made. Those that start servers form a group
    of their own, and begin first because they take longest."""
    items.sort(key=lambda item: item.get_closest_marker("servers") is None)
    for item in items:
        kind = "servers" if item.get_closest_marker("servers") else "alone"
        item.add_marker(pytest.mark.xdist_group(f"{item.path.name}-{kind}"))
