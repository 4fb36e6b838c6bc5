"""Robust aggregation: from one update a bank to one vector that a liar cannot move far."""
