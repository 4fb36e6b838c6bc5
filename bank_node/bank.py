"""A bank that is ready to answer: what it owns, the store it talks through, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass

from bank_node.policy import Policy, RefusalReason, read_policy
from bank_node.settings import Home
from mintmark.envelope import Signer, load_signer
from mintmark.errors import DataError, MintmarkError
from mintmark.mailbox import ObjectStore
from mintmark.s3 import S3Store
from mintmark.schema import FeatureSchema, parse_schema


class Refused(MintmarkError):  # noqa: N818  (a decision, not a fault)
    """A plan is refused: `reason` may be told to others, the sentence stays here."""

    def __init__(self, reason: RefusalReason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class Bank:
    """What every step of an answer works with."""

    home: Home
    policy: Policy
    schema: FeatureSchema
    signer: Signer
    store: ObjectStore

    @property
    def name(self) -> str:
        return self.home.settings.bank


def open_bank(home: Home) -> Bank:
    """Read policy, schema and key. Raises `Refused` when the policy or the schema is not sound."""
    try:
        policy = read_policy(home.policy)
        schema = parse_schema(home.schema.read_text())
    except (DataError, OSError) as error:
        raise Refused(RefusalReason.NO_POLICY, str(error)) from None
    return Bank(home, policy, schema, load_signer(home.signing_key_uri), S3Store(home.storage()))
