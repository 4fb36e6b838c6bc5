"""Signing and sealing: what is accepted is what was said, and nothing else is."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from mintmark.envelope import (
    KEY_BYTES,
    MAGIC,
    SEALING_OVERHEAD,
    SIGNATURE_BYTES,
    Ed25519Signer,
    generate_sealing_key,
    generate_signer,
    load_sealing_key,
    load_signer,
    save_sealing_key,
    save_signer,
    seal,
    sign,
    verify,
)
from mintmark.errors import ProtocolError

SIGNER, SEALING = generate_signer(), generate_sealing_key()
TYPE = "application/x-mintmark-test"
LIMIT = 10_000
MESSAGE = sign(SIGNER, TYPE, b"so be it")
payloads = st.binary(max_size=300)


def assert_refused(message: bytes, *, payload_type: str = TYPE, key: bytes = SIGNER.public_key) -> None:
    """Verification raises `ProtocolError` and nothing else."""
    with pytest.raises(ProtocolError, match="signed message"):
        verify(message, payload_type, key, max_bytes=LIMIT)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), payloads)
def test_signed_is_verified(payload_type: str, payload: bytes) -> None:
    """Any payload of any type comes back as it was, under its own type and key, and the signature is plain Ed25519."""
    message = sign(SIGNER, payload_type, payload)
    assert verify(message, payload_type, SIGNER.public_key, max_bytes=len(message)) == payload
    key = Ed25519PublicKey.from_public_bytes(SIGNER.public_key)
    key.verify(message[-SIGNATURE_BYTES:], message[:-SIGNATURE_BYTES])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 8 * len(MESSAGE) - 1))
def test_a_flipped_bit_is_refused(bit: int) -> None:
    """One bit changed anywhere, in frame, type, payload or signature, and the message is none."""
    changed = bytearray(MESSAGE)
    changed[bit // 8] ^= 1 << bit % 8
    assert_refused(bytes(changed))


def test_a_shortened_message_is_refused() -> None:
    """A message cut at any length, the empty one included, is refused."""
    for length in range(len(MESSAGE)):
        assert_refused(MESSAGE[:length])


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=100), st.integers(0, len(MESSAGE)))
def test_a_longer_message_is_refused(extra: bytes, at: int) -> None:
    """Bytes put in anywhere make it another message."""
    assert_refused(MESSAGE[:at] + extra + MESSAGE[at:])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_refused(data: bytes, framed: bool) -> None:
    """Anything that nobody signed is refused, also behind Mintmark's own magic."""
    assert_refused(MAGIC + data if framed else data)


def test_another_key_is_refused() -> None:
    """A message of another signer, or under a key that is no point of the curve, is refused."""
    assert_refused(sign(generate_signer(), TYPE, b"so be it"))
    for key in (bytes(KEY_BYTES), b"\xff" * KEY_BYTES, b"\x02" + bytes(KEY_BYTES - 1)):
        assert_refused(MESSAGE, key=key)


@pytest.mark.parametrize("other", ["", TYPE + "x", TYPE[:-1], TYPE.upper()])
def test_another_type_is_refused(other: str) -> None:
    """Bytes signed as one kind do not pass as another."""
    with pytest.raises(ProtocolError, match="expected type"):
        verify(MESSAGE, other, SIGNER.public_key, max_bytes=LIMIT)


def test_type_and_payload_do_not_flow_into_each_other() -> None:
    """The same letters divided elsewhere between type and payload are other messages."""
    assert sign(SIGNER, "ab", b"c") != sign(SIGNER, "a", b"bc")
    with pytest.raises(ProtocolError, match="expected type"):
        verify(sign(SIGNER, "ab", b"c"), "a", SIGNER.public_key, max_bytes=LIMIT)


@pytest.mark.parametrize(("type_length", "payload_length"), [(2, 4), (3, 3), (0, 0), (2, 2**63), (65535, 3)])
def test_a_frame_that_lies_is_refused(type_length: int, payload_length: int) -> None:
    """Even when the right key signed it, a frame whose lengths are not the message's is refused."""
    body = MAGIC + struct.pack("<HQ", type_length, payload_length) + b"ab" + b"xyz"
    with pytest.raises(ProtocolError, match="frame says"):
        verify(body + SIGNER.sign(body), "ab", SIGNER.public_key, max_bytes=LIMIT)


def test_too_long_is_refused_before_anything_else() -> None:
    """One byte over the limit is refused, whoever signed it."""
    verify(MESSAGE, TYPE, SIGNER.public_key, max_bytes=len(MESSAGE))
    with pytest.raises(ProtocolError, match=f"at most {len(MESSAGE) - 1} bytes, got {len(MESSAGE)}"):
        verify(MESSAGE, TYPE, SIGNER.public_key, max_bytes=len(MESSAGE) - 1)


@settings(max_examples=60, deadline=None)
@given(payloads, st.binary(max_size=40))
def test_sealed_is_opened_by_its_addressee(data: bytes, info: bytes) -> None:
    """What is sealed comes back with its key and purpose, is as long as stated, and is never sealed alike twice."""
    sealed = seal(SEALING.public_key, data, info=info)
    assert SEALING.open(sealed, info=info) == data
    assert len(sealed) == len(data) + SEALING_OVERHEAD
    assert sealed != seal(SEALING.public_key, data, info=info)


def test_sealing_is_bound_to_key_and_purpose() -> None:
    """Another key, or the same key for another purpose, opens nothing."""
    sealed = seal(SEALING.public_key, b"sums", info=b"round 1")
    for key, info in ((generate_sealing_key(), b"round 1"), (SEALING, b"round 2"), (SEALING, b"")):
        with pytest.raises(ProtocolError, match="sealed to this key"):
            key.open(sealed, info=info)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_sealed_bytes_are_refused(data: st.DataObject) -> None:
    """Sealed bytes that were flipped, cut, lengthened or made up raise `ProtocolError` and nothing else."""
    sealed = seal(SEALING.public_key, b"sums of leaves", info=b"round 1")
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    flipped = bytearray(sealed)
    flipped[bit // 8] ^= 1 << bit % 8
    cut = sealed[: data.draw(st.integers(0, len(sealed) - 1))]
    for changed in (bytes(flipped), cut, sealed + data.draw(st.binary(min_size=1, max_size=9)), data.draw(payloads)):
        with pytest.raises(ProtocolError, match="sealed bytes"):
            SEALING.open(changed, info=b"round 1")


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), b"short", b""])
def test_keys_that_seal_nothing_are_refused(key: bytes) -> None:
    """A key of small order, whose secret everybody knows, or of another length is refused as the other side's fault."""
    with pytest.raises(ProtocolError, match="X25519 public key"):
        seal(key, b"sums", info=b"")


def test_keys_are_saved_and_loaded(tmp_path: Path) -> None:
    """A key file holds the key, is its owner's alone, is never overwritten, and says nothing in a representation."""
    save_signer(SIGNER, tmp_path / "signing.key")
    save_sealing_key(SEALING, tmp_path / "sealing.key")
    assert load_signer(f"file:{tmp_path}/signing.key").public_key == SIGNER.public_key
    assert load_sealing_key(f"file:{tmp_path}/sealing.key").public_key == SEALING.public_key
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        save_signer(generate_signer(), tmp_path / "signing.key")
    raw = (tmp_path / "signing.key").read_bytes()
    assert raw.hex() not in repr(SIGNER)
    assert repr(raw)[2:-1] not in repr(SIGNER)


def test_a_loaded_signer_signs(tmp_path: Path) -> None:
    """What a loaded key signs verifies under the public key that was enrolled."""
    save_signer(SIGNER, tmp_path / "signing.key")
    loaded = load_signer(f"file:{tmp_path}/signing.key")
    assert isinstance(loaded, Ed25519Signer)
    assert verify(sign(loaded, TYPE, b"x"), TYPE, SIGNER.public_key, max_bytes=LIMIT) == b"x"


def test_unfit_keys_are_refused(tmp_path: Path) -> None:
    """Other schemes, missing files, other lengths and files that others can read are refused with what to do."""
    path = tmp_path / "a.key"
    for uri in ("kms:alias/bank", str(path), ""):
        with pytest.raises(ProtocolError, match="expected file:PATH"):
            load_signer(uri)
    with pytest.raises(ProtocolError, match=r"a\.key: expected a readable file"):
        load_signer(f"file:{path}")
    path.write_bytes(bytes(31))
    path.chmod(0o600)
    with pytest.raises(ProtocolError, match="expected 32 bytes, got 31"):
        load_sealing_key(f"file:{path}")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ProtocolError, match="chmod 600"):
            load_signer(f"file:{path}")
