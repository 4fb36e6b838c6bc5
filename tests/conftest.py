"""How the suite is shared out when it runs on several cores (`make test`)."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests that start servers stay in one process, and begin first because they take longest: two consortia at
    once only wait for each other. So do the tests of a file, which share what they have made."""
    items.sort(key=lambda item: item.get_closest_marker("servers") is None)
    for item in items:
        group = "servers" if item.get_closest_marker("servers") else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))
