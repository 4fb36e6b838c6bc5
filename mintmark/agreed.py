"""Values that cross a boundary: canonical JSON that checks itself when read, and the records among them that are signed.

>>> from mintmark.envelope import generate_signer
>>> class Greeting(SignedRecord):
...     payload_type = "application/x-mintmark-greeting"
...     most_bytes = 1_000
...     bank: Name
>>> signer = generate_signer()
>>> Greeting.read(Greeting(bank="bank-a").signed(signer), signer.public_key)
Greeting(bank='bank-a')
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mintmark.canonical import canonical_json, digest, read_canonical
from mintmark.envelope import Signer, sign, verify
from mintmark.errors import AggregationError, ProtocolError

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Agreed(BaseModel):
    """Base of what crosses a boundary as canonical JSON: frozen, strict, nothing extra."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def canonical_bytes(self) -> bytes:
        """The bytes that are signed."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> str:
        """SHA-256 of the canonical form, 64 hexadecimal digits."""
        return digest(self.canonical_bytes())

    @classmethod
    def from_bytes(cls, data: bytes, *, max_bytes: int) -> Self:
        """Read canonical bytes as strictly as the value checks itself. Raises `ProtocolError`."""
        what = cls.__name__
        read_canonical(data, what=what, max_bytes=max_bytes)
        try:
            value = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ProtocolError(f"{what}: field {where or '(all)'}: {first['msg']}") from None
        except AggregationError as error:
            raise ProtocolError(f"{what}: {error}") from None
        if value.canonical_bytes() != data:
            raise ProtocolError(f"{what}: expected the canonical form, got another spelling of it")
        return value


class SignedRecord(Agreed):
    """Base of what somebody vouches for. `payload_type` is signed with the payload, so that no record passes for another
    kind's; nothing longer than `most_bytes` is looked at."""

    payload_type: ClassVar[str]
    most_bytes: ClassVar[int]

    def signed(self, signer: Signer) -> bytes:
        """The message that holds the record and its signature (`mintmark.envelope`)."""
        return sign(signer, self.payload_type, self.canonical_bytes())

    @classmethod
    def read(cls, message: bytes, key: bytes) -> Self:
        """The record of a message. Raises `ProtocolError` when it is malformed or was not signed with `key`'s half."""
        return cls.from_bytes(
            verify(message, cls.payload_type, key, max_bytes=cls.most_bytes), max_bytes=cls.most_bytes
        )
