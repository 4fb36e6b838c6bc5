"""Who may approve a model, and what each of them said: signed with a person's own key.

An approval counts for exactly one question: this action, this model, this evaluation, in place of this champion. Asked
anything else (a new evaluation, another champion in between) a person is asked again. The list of approvers is the
coordinator's (`approvers.toml`); a name in it without its key's signature counts for nothing.

>>> from datetime import UTC, datetime
>>> from mintmark.envelope import generate_signer
>>> ada = generate_signer()
>>> approvers = Approvers(approver=(Approver(name="ada", key=ada.public_key.hex()),))
>>> question = Question(action=Action.PROMOTE, campaign="cards", model="a" * 64, evaluation="b" * 64, replaces=0)
>>> said = Approval(question=question, approver="ada", verdict=Verdict.APPROVE, reason="better at every bank",
...                 at=datetime(2026, 3, 2, tzinfo=UTC))
>>> Approval.read(said.signed(ada), approvers.key_of("ada")).reason
'better at every bank'
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mintmark.agreed import Agreed, Digest, Name, SignedRecord
from mintmark.envelope import fingerprint
from mintmark.errors import ProtocolError
from mintmark.roster import PublicKey

APPROVAL_TYPE = "application/x-mintmark-approval"
MAX_APPROVAL_BYTES = 16 * 1024


class Action(StrEnum):
    """What a decision does: a challenger becomes champion, or an earlier champion comes back."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"


class Verdict(StrEnum):
    """What one person says."""

    APPROVE = "approve"
    REJECT = "reject"


def _one_line(text: object) -> object:
    if isinstance(text, str) and not text.isprintable():
        raise ValueError("expected one line of printable characters")
    return text


Reason = Annotated[str, BeforeValidator(_one_line), Field(min_length=1, max_length=500)]


class Question(Agreed):
    """What people decide on. `evaluation` is the SHA-256 of the signed evaluation; `replaces` the number of the champion
    in force, 0 when there is none: an answer can never be used a second time."""

    action: Action
    campaign: Name
    model: Digest
    evaluation: Digest
    replaces: Annotated[int, Field(ge=0, lt=10**6)]


class Approval(SignedRecord):
    """One person's answer. `resolved` names banks whose alarm in the aggregation reports the person has looked into."""

    payload_type = APPROVAL_TYPE
    most_bytes = MAX_APPROVAL_BYTES
    question: Question
    approver: Name
    verdict: Verdict
    reason: Reason
    resolved: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
    at: AwareDatetime


class Approver(BaseModel):
    """A person who may approve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    key: PublicKey


class Approvers(BaseModel):
    """The contents of `approvers.toml`. One person cannot stand in it twice: every name and every key once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    approver: Annotated[tuple[Approver, ...], Field(max_length=100)] = ()

    @model_validator(mode="after")
    def _different_people(self) -> Self:
        names, keys = {one.name for one in self.approver}, {one.key for one in self.approver}
        if not len(names) == len(keys) == len(self.approver):
            raise ValueError("expected every name and every key once")
        return self

    def key_of(self, name: str) -> bytes:
        """The person's public key. Raises `ProtocolError` for somebody who may not approve."""
        for one in self.approver:
            if one.name == name:
                return bytes.fromhex(one.key)
        raise ProtocolError(f"expected an approver of approvers.toml, got {name[:40]!r}; a new one: mintmark approver")

    def name_of(self, key: bytes) -> str:
        """Whose public key it is. Raises `ProtocolError` for a key that is nobody's."""
        for one in self.approver:
            if one.key == key.hex():
                return one.name
        raise ProtocolError(
            f"approvers.toml: expected the key {fingerprint(key)}, got only others; put its lines there"
        )
