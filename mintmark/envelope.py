"""Signed and sealed bytes: who said it, that nobody changed it, and that only its addressee reads it (protocol, step 7).

Signatures are Ed25519 over the payload's type and the payload (the pre-authentication encoding of DSSE), so bytes signed
as one kind never pass as another. Sealing is HPKE (RFC 9180: X25519, HKDF-SHA256, ChaCha20-Poly1305), which does not
say who sealed: an update is signed *after* it is sealed. A `Signer` is chosen by key URI, so that an HSM or a KMS is
configuration; `file:` is built in.

>>> signer = generate_signer()
>>> message = sign(signer, "application/x-mintmark-example", b"hello")
>>> verify(message, "application/x-mintmark-example", signer.public_key, max_bytes=1000)
b'hello'
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from mintmark.errors import ProtocolError

MAGIC = b"MINTMARK1\n"
KEY_BYTES = 32
SIGNATURE_BYTES = 64
SEALING_OVERHEAD = 48  # bytes that sealing adds
_FRAME = struct.Struct("<HQ")  # length of the type, length of the payload
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


class Signer(Protocol):
    """Something that signs with a key it need not show."""

    @property
    def public_key(self) -> bytes:
        """32 bytes, Ed25519."""
        ...

    def sign(self, data: bytes) -> bytes:
        """64 bytes over `data`."""
        ...


@dataclass(frozen=True, eq=False)
class Ed25519Signer:
    """A signer whose key is in this process."""

    _private: Ed25519PrivateKey

    @property
    def public_key(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        return self._private.sign(data)


@dataclass(frozen=True, eq=False)
class SealingKey:
    """The key that opens what was sealed to `public_key` (32 bytes, X25519)."""

    _private: X25519PrivateKey

    @property
    def public_key(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    def open(self, sealed: bytes, *, info: bytes) -> bytes:
        """The plaintext. Raises `ProtocolError` when it was sealed to another key, for another `info`, or changed."""
        try:
            return _SUITE.decrypt(sealed, self._private, info=info)
        except (InvalidTag, ValueError):
            raise ProtocolError("sealed bytes: expected bytes sealed to this key for this round, got others") from None


def seal(public_key: bytes, data: bytes, *, info: bytes) -> bytes:
    """Seal `data` so that only the holder of the private key reads it; `info` binds it to its purpose.

    Raises `ProtocolError` when `public_key` is not a usable X25519 key.
    """
    try:
        return _SUITE.encrypt(data, X25519PublicKey.from_public_bytes(public_key), info=info)
    except ValueError:
        raise ProtocolError("sealing key: expected an X25519 public key, got bytes that seal nothing") from None


def sign(signer: Signer, payload_type: str, payload: bytes) -> bytes:
    """A signed message: frame, type, payload, signature."""
    body = _FRAME.pack(len(payload_type.encode()), len(payload)) + payload_type.encode() + payload
    return MAGIC + body + signer.sign(MAGIC + body)


def verify(message: bytes, payload_type: str, public_key: bytes, *, max_bytes: int) -> bytes:
    """The payload of a message of this type signed by this key: verified before anything of it is looked at.

    Raises:
        ProtocolError: too long, another type, another length than its frame says, or not signed by this key.
    """
    if len(message) > max_bytes:
        raise ProtocolError(f"signed message: expected at most {max_bytes} bytes, got {len(message)}")
    head = len(MAGIC) + _FRAME.size
    if len(message) < head + SIGNATURE_BYTES or not message.startswith(MAGIC):
        raise ProtocolError("signed message: expected Mintmark's frame, got other bytes")
    signed, signature = message[:-SIGNATURE_BYTES], message[-SIGNATURE_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed)
    except InvalidSignature:
        raise ProtocolError("signed message: expected a signature by the key in force, got another") from None
    type_length, payload_length = _FRAME.unpack_from(message, len(MAGIC))
    if len(signed) != head + type_length + payload_length:
        raise ProtocolError("signed message: its length differs from what its frame says")
    found = signed[head : head + type_length]
    if found != payload_type.encode():
        raise ProtocolError(f"signed message: expected type {payload_type}, got another")
    return signed[head + type_length :]


def fingerprint(public_key: bytes) -> str:
    """A key short enough to read aloud: the first 20 hexadecimal digits of its SHA-256, in groups of four.

    >>> fingerprint(bytes(32))
    '6668 7aad f862 bd77 6c8f'
    """
    text = hashlib.sha256(public_key).hexdigest()[:20]
    return " ".join(text[at : at + 4] for at in range(0, 20, 4))


def generate_signer() -> Ed25519Signer:
    return Ed25519Signer(Ed25519PrivateKey.generate())


def generate_sealing_key() -> SealingKey:
    return SealingKey(X25519PrivateKey.generate())


def save_signer(signer: Ed25519Signer, path: Path) -> None:
    """Write the private key, readable by its owner only. Never overwrites."""
    _write_private(path, signer._private.private_bytes_raw())


def save_sealing_key(key: SealingKey, path: Path) -> None:
    """Write the private key, readable by its owner only. Never overwrites."""
    _write_private(path, key._private.private_bytes_raw())


def load_signer(uri: str) -> Signer:
    """The signer a key URI names: `file:PATH`. Raises `ProtocolError` for other schemes and unreadable keys."""
    return Ed25519Signer(Ed25519PrivateKey.from_private_bytes(_read_private(uri)))


def load_sealing_key(uri: str) -> SealingKey:
    """The sealing key a key URI names: `file:PATH`. Raises `ProtocolError` as `load_signer` does."""
    return SealingKey(X25519PrivateKey.from_private_bytes(_read_private(uri)))


def _write_private(path: Path, raw: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(raw)


def _read_private(uri: str) -> bytes:
    scheme, _, where = uri.partition(":")
    if scheme != "file":
        raise ProtocolError(f"key URI: expected file:PATH, got the scheme {scheme!r}")
    path = Path(where)
    try:
        mode = path.stat().st_mode & 0o077
        raw = path.read_bytes()
    except OSError as error:
        raise ProtocolError(f"key {path.name}: expected a readable file, got {type(error).__name__}") from None
    if mode:
        raise ProtocolError(f"key {path.name}: expected a file only its owner can read (chmod 600), got one others can")
    if len(raw) != KEY_BYTES:
        raise ProtocolError(f"key {path.name}: expected {KEY_BYTES} bytes, got {len(raw)}")
    return raw
