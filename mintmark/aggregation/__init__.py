"""Robust aggregation: from one update a bank to one vector that a liar cannot move far."""

from mintmark.aggregation.mixture import Aggregate
from mintmark.aggregation.rules import aggregate

__all__ = ["Aggregate", "aggregate"]
