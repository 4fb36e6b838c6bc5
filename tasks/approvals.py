"""People's signed approvals in the mailbox: what each says to a question is put there once, and read back verified."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from mintmark import mailbox
from mintmark.approval import MAX_APPROVAL_BYTES, Approval, Approvers, Question, Verdict
from mintmark.canonical import digest
from mintmark.decision import Counted
from mintmark.envelope import Signer
from mintmark.errors import ProtocolError
from mintmark.mailbox import ObjectStore

_ENTRY = re.compile(r"([0-9]{6})-([a-z0-9][a-z0-9-]{0,39})")


def say(
    store: ObjectStore,
    approvers: Approvers,
    signer: Signer,
    question: Question,
    verdict: Verdict,
    reason: str,
    now: datetime,
    resolved: tuple[str, ...] = (),
) -> Counted:
    """Put what the key's holder says into the mailbox; saying the same again adds nothing, saying otherwise counts instead.

    Raises `ProtocolError` when the key is nobody's of `approvers`.
    """
    name = approvers.name_of(signer.public_key)
    said = Approval(
        question=question, approver=name, verdict=verdict, reason=reason, resolved=tuple(sorted(resolved)), at=now
    )
    before = {counted.said.approver: counted for counted in counted_approvals(store, approvers, question)}.get(name)
    if before is not None and before.said == said.model_copy(update={"at": before.said.at}):
        return before
    message = said.signed(signer)
    prefix = mailbox.approval_prefix(question.campaign, question.replaces)
    mailbox.put_same(store, f"{prefix}{len(store.list(prefix)):06d}-{name}", message)
    return Counted(said=said, key=signer.public_key.hex(), message=digest(message))


def counted_approvals(store: ObjectStore, approvers: Approvers, question: Question) -> tuple[Counted, ...]:
    """What each approver said last to just this question, by name. What somebody else signed counts for nothing."""
    last = {}
    for name, message in _messages(store, question):
        try:
            key = approvers.key_of(name)
            said = Approval.read(message, key)
        except ProtocolError:
            continue
        if said.approver == name and said.question == question:
            last[name] = Counted(said=said, key=key.hex(), message=digest(message))
    return tuple(last[name] for name in sorted(last))


def _messages(store: ObjectStore, question: Question) -> Iterator[tuple[str, bytes]]:
    """Whose messages lie there, in the order in which they came."""
    prefix = mailbox.approval_prefix(question.campaign, question.replaces)
    for key in store.list(prefix):
        if match := _ENTRY.fullmatch(key.removeprefix(prefix)):
            yield match[2], mailbox.get_required(store, key, max_bytes=MAX_APPROVAL_BYTES)
