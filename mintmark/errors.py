"""What can go wrong on the other side of a boundary: one root, few leaves.

A mistake of our own code stays a builtin error (`ValueError`, `TypeError`); these are for what a file, a server,
a coordinator or another bank did. The message says what was expected, what came, and what to do next, and never
holds a value taken from a transaction.
"""

from __future__ import annotations


class MintmarkError(Exception):
    """Root of the domain's errors. `str(error)` is one sentence fit for a terminal."""


class ProtocolError(MintmarkError):
    """A message is malformed, forged, replayed or out of order."""


class PrivacyError(MintmarkError):
    """A release would exceed what the bank allows, or its cost cannot be computed."""


class AggregationError(MintmarkError):
    """The updates cannot be aggregated: too few, infeasible terms, wrong shapes."""


class QuorumError(AggregationError):
    """Too few banks answered a round, or too small ones. Another attempt may end otherwise."""


class StorageError(MintmarkError):
    """The object store failed, or does not keep the promises the protocol needs."""


class ConflictError(StorageError):
    """A write-once key holds other bytes: trying again changes nothing."""


class TooLargeError(StorageError):
    """An object is longer than its reader allows: whoever wrote it breaks the protocol, the store is well."""


class DataError(MintmarkError):
    """A table or schema is not what was agreed."""
