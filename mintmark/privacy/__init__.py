"""Differential privacy: the mechanism that releases, the accountant that prices, the ledger that remembers."""
