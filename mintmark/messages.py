"""What travels: a bank's private update, and the published history that is the model.

Layouts are fixed and lengths exact: nothing is compressed, nothing is pickled, nothing says how large it wants to be
read. Numbers are little-endian. Signing and sealing are `envelope.py`.

    PrivateUpdate      sums on the wire: the noised lattice sums, rounded to a step far below the noise (32 bits each)
    UpdateStatement    what the bank signs beside the sealed sums: which round, which plan, whose, what budget is left
    ModelArtifact      the campaign and its settled aggregates; model, trees and next question follow from it
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mintmark.agreed import Agreed, Digest, Name
from mintmark.canonical import canonical_json, digest, read_canonical
from mintmark.envelope import SEALING_OVERHEAD, SIGNATURE_BYTES, Signer, seal, sign, verify
from mintmark.errors import ProtocolError
from mintmark.models.learner import NoisySum
from mintmark.plan import Campaign

UPDATE_TYPE = "application/x-mintmark-update"
MAX_STATEMENT_BYTES = 4096
MAX_ARTIFACT_BYTES = 64 * 1024 * 1024
MAX_COORDINATES = 4_000_000
_WIRE_BITS_BELOW_NOISE = 6  # the wire's step is the noise's standard deviation / 64, or finer
_LENGTH = struct.Struct("<I")
_MODEL_MAGIC = b"MINTMODEL1\n"
_SUM_HEAD = struct.Struct("<IIId")  # slots, cells, width, noise

Ints = npt.NDArray[np.int64]


class BudgetStatement(Agreed):
    """What a bank says it has left, in epsilon at its own `delta`, once this update is charged: of what it allows this
    campaign, and of what it allows a calendar year. Its word, not proven; it depends on plans only, never on rows."""

    campaign_left: Annotated[float, Field(ge=0, le=1000)]
    year_left: Annotated[float, Field(ge=0, le=1000)]
    delta: Annotated[float, Field(gt=0, lt=1)]


class UpdateStatement(Agreed):
    """What an update is the answer to. `release_digest` names the question, whatever the attempt. `budget` is there only
    where the bank's policy tells it (docs/adr/0014); without it the bytes are those of a statement that knows no budget."""

    bank: Name
    plan_digest: Digest
    release_digest: Digest
    budget: BudgetStatement | None = None

    def canonical_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json", exclude_none=True))


def wire_shift(noise_scale: float) -> int:
    """How many low bits of a noised sum are dropped on the wire: noise hides them, and they tell nothing.

    >>> wire_shift(2.0**28), wire_shift(0.0)
    (22, 0)
    """
    return max(0, int(np.floor(np.log2(noise_scale))) - _WIRE_BITS_BELOW_NOISE) if noise_scale else 0


def encode_sums(noised: Ints, noise_scale: float) -> bytes:
    """Noised lattice sums [d] as int32 of `wire_shift` steps (int64 without noise); out of range saturates."""
    if not noise_scale:
        return noised.astype("<i8").tobytes()
    shift = wire_shift(noise_scale)
    half = 1 << shift >> 1
    rounded = (np.minimum(noised, 2**63 - 1 - half) + half) >> shift
    return bytes(np.clip(rounded, -(2**31), 2**31 - 1).astype("<i4").tobytes())


def largest_sum(noise_scale: float) -> int:
    """The largest sum that the wire carries, in lattice steps: infinity, or what else is too large, arrives as this."""
    return (2**31 - 1) << wire_shift(noise_scale)


def decode_sums(data: bytes, noise_scale: float, coordinates: int) -> Ints:
    """The lattice sums [coordinates] int64. Raises `ProtocolError` when the length differs from the plan's."""
    kind = "<i4" if noise_scale else "<i8"
    expected = coordinates * np.dtype(kind).itemsize
    if len(data) != expected:
        raise ProtocolError(f"update: expected {expected} bytes for {coordinates} sums, got {len(data)}")
    return np.frombuffer(data, kind).astype(np.int64) << wire_shift(noise_scale)


def update_info(statement: UpdateStatement) -> bytes:
    """What the sealing is bound to."""
    return b"mintmark/update/1\n" + statement.canonical_bytes()


def encode_update(sums: bytes, statement: UpdateStatement, signer: Signer, sealing_key: bytes) -> bytes:
    """Seal the sums to the coordinator, then sign statement and sealed bytes together."""
    head = statement.canonical_bytes()
    sealed = seal(sealing_key, sums, info=update_info(statement))
    return sign(signer, UPDATE_TYPE, _LENGTH.pack(len(head)) + head + sealed)


def open_update_frame(message: bytes, signing_key: bytes, coordinates: int) -> tuple[UpdateStatement, bytes]:
    """Verify a bank's message and return its statement and the still sealed sums. Raises `ProtocolError`."""
    payload = verify(message, UPDATE_TYPE, signing_key, max_bytes=max_update_bytes(coordinates))
    if len(payload) < _LENGTH.size:
        raise ProtocolError("update: expected a statement, got too few bytes")
    (length,) = _LENGTH.unpack_from(payload)
    head, sealed = payload[_LENGTH.size : _LENGTH.size + length], payload[_LENGTH.size + length :]
    return UpdateStatement.from_bytes(head, max_bytes=MAX_STATEMENT_BYTES), sealed


def max_update_bytes(coordinates: int) -> int:
    """The largest message that an update of this many sums can be."""
    return 8 * coordinates + SEALING_OVERHEAD + SIGNATURE_BYTES + MAX_STATEMENT_BYTES + 256


@dataclass(frozen=True, eq=False)
class ModelArtifact:
    """A campaign and the aggregates of its settled rounds, oldest first; its digest names the model."""

    campaign: Campaign
    history: tuple[NoisySum, ...] = ()

    def encode(self) -> bytes:
        """Magic, campaign (length and canonical JSON), then for each round its shape, noise and float64 values."""
        head = canonical_json({"campaign": self.campaign.model_dump(mode="json"), "rounds": len(self.history)})
        parts = [_MODEL_MAGIC, _LENGTH.pack(len(head)), head]
        for settled in self.history:
            parts += [_SUM_HEAD.pack(*settled.values.shape, settled.noise), settled.values.astype("<f8").tobytes()]
        return b"".join(parts)

    def digest(self) -> str:
        return digest(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises `ProtocolError` for any length, shape or number that is not exactly what `encode` writes."""
        if len(data) > MAX_ARTIFACT_BYTES or not data.startswith(_MODEL_MAGIC):
            raise ProtocolError(
                f"model: expected Mintmark's layout of at most {MAX_ARTIFACT_BYTES} bytes, got other bytes"
            )
        try:
            (length,) = _LENGTH.unpack_from(data, len(_MODEL_MAGIC))
            at = len(_MODEL_MAGIC) + _LENGTH.size
            head = read_canonical(data[at : at + length], what="model", max_bytes=MAX_ARTIFACT_BYTES)
            campaign = Campaign.from_bytes(canonical_json(head["campaign"]), max_bytes=MAX_ARTIFACT_BYTES)
            at, history = at + length, []
            for _ in range(_bounded_count(head["rounds"], campaign)):
                slots, cells, width, noise = _SUM_HEAD.unpack_from(data, at)
                at += _SUM_HEAD.size
                count = slots * cells * width
                if not 0 < count <= MAX_COORDINATES or not np.isfinite(noise) or noise < 0:
                    raise ProtocolError("model: a round's shape or noise is out of range")
                values = np.frombuffer(data, "<f8", count, at).reshape(slots, cells, width)
                if not np.isfinite(values).all():
                    raise ProtocolError("model: expected finite sums, got others")
                at += values.nbytes
                history.append(NoisySum(values, noise))
        except (KeyError, TypeError, ValueError, struct.error):
            raise ProtocolError("model: expected the layout of its header, got other bytes") from None
        artifact = cls(campaign, tuple(history))
        if artifact.encode() != data:
            raise ProtocolError(
                f"model: expected the {at} bytes that its contents are written as, got {len(data)} others"
            )
        return artifact


def _bounded_count(rounds: object, campaign: Campaign) -> int:
    if not isinstance(rounds, int) or not 0 <= rounds <= campaign.rounds + 1:
        raise ProtocolError("model: more rounds than its campaign has")
    return rounds
