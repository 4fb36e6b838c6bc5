"""What travels: sums on the wire, a bank's update, and the model; and what of it is refused."""

from __future__ import annotations

import json
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mintmark.canonical import canonical_json
from mintmark.envelope import generate_sealing_key, generate_signer, sign
from mintmark.errors import ProtocolError
from mintmark.messages import (
    MAX_COORDINATES,
    UPDATE_TYPE,
    ModelArtifact,
    UpdateStatement,
    decode_sums,
    encode_sums,
    encode_update,
    max_update_bytes,
    open_update_frame,
    update_info,
    wire_shift,
)
from mintmark.models.learner import NoisySum
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit

SIGNER, SEALING = generate_signer(), generate_sealing_key()
STATEMENT = UpdateStatement(bank="bank-a", plan_digest="a" * 64, release_digest="b" * 64)
CAMPAIGN = Campaign(
    name="cards",
    seed=7,
    learner="guided_boosting",
    schema_digest="c" * 64,
    rounds=4,
    privacy=PrivacyTerms(epsilon=4.0, delta=1e-6, unit=PrivacyUnit.CUSTOMER, clip=0.5),
    aggregation=AggregationTerms(rule="trimmed_mean", banks=3, byzantine=1, trim=0.34),
    cohort=("bank-a", "bank-b", "bank-c"),
    quorum=3,
)
HISTORY = (
    NoisySum(np.arange(6.0).reshape(3, 2, 1), 2.5),
    NoisySum(np.array([[[1e300, -0.0], [5e-324, -7.5]]]), 0.0),
)
ARTIFACT = ModelArtifact(CAMPAIGN, HISTORY)
ENCODED = ARTIFACT.encode()
MAGIC = b"MINTMODEL1\n"
scales = st.floats(0.0, 58.0).map(lambda power: 2.0**power)
int64s = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=150, deadline=None)
@given(scales, st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=5))
def test_the_wire_rounds_far_below_the_noise(noise_scale: float, multiples: list[int]) -> None:
    """Sums come back within half a wire step, which is at most a 128th of the noise's standard deviation."""
    sums = np.array([int(multiple * noise_scale / 2**17) + 12345 for multiple in multiples], np.int64)
    decoded = decode_sums(encode_sums(sums, noise_scale), noise_scale, len(sums))
    half_step = 2 ** wire_shift(noise_scale) / 2
    for sent, got in zip(sums.tolist(), decoded.tolist(), strict=True):
        assert abs(sent - got) <= half_step
        assert sent == got or half_step <= noise_scale / 128


@settings(max_examples=60, deadline=None)
@given(st.lists(int64s, max_size=5))
def test_without_noise_sums_are_exact(sums: list[int]) -> None:
    """In a simulation without noise every bit travels."""
    assert decode_sums(encode_sums(np.array(sums, np.int64), 0.0), 0.0, len(sums)).tolist() == sums


@settings(max_examples=100, deadline=None)
@given(st.floats(7.0, 32.0).map(lambda power: 2.0**power), int64s)
def test_sums_out_of_range_saturate(noise_scale: float, value: int) -> None:
    """What 32 bits cannot hold becomes the end of the range on its own side, never the other end."""
    step = 2 ** wire_shift(noise_scale)
    (got,) = decode_sums(encode_sums(np.array([value], np.int64), noise_scale), noise_scale, 1).tolist()
    expected = min(max(value, -(2**31) * step), (2**31 - 1) * step)
    assert abs(got - expected) <= step / 2


@pytest.mark.parametrize("noise_scale", [0.0, 2.0**28])
def test_sums_of_another_length_are_refused(noise_scale: float) -> None:
    """The length is the plan's, to the byte."""
    data = encode_sums(np.arange(5), noise_scale)
    for wrong in (b"", data[:-1], data + b"\0", data[: len(data) // 5], data * 2):
        with pytest.raises(ProtocolError, match=f"expected {len(data)} bytes for 5 sums, got {len(wrong)}"):
            decode_sums(wrong, noise_scale, 5)


def test_an_update_is_opened_by_the_coordinator_only() -> None:
    """The statement is read with the bank's key, the sums with the coordinator's, bound to just this statement."""
    sums = encode_sums(np.arange(40), 0.0)
    message = encode_update(sums, STATEMENT, SIGNER, SEALING.public_key)
    assert len(message) <= max_update_bytes(40)
    statement, sealed = open_update_frame(message, SIGNER.public_key, 40)
    assert statement == STATEMENT
    assert SEALING.open(sealed, info=update_info(statement)) == sums
    for other in ({"bank": "bank-b"}, {"plan_digest": "0" * 64}, {"release_digest": "0" * 64}):
        with pytest.raises(ProtocolError):
            SEALING.open(sealed, info=update_info(STATEMENT.model_copy(update=other)))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_update_is_refused(data: st.DataObject) -> None:
    """Flipped, cut or lengthened, an update is no update of this bank."""
    message = encode_update(encode_sums(np.arange(4), 0.0), STATEMENT, SIGNER, SEALING.public_key)
    flipped = bytearray(message)
    flipped[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    cut = message[: data.draw(st.integers(0, len(message) - 1))]
    for changed in (bytes(flipped), cut, message + b"\0"):
        with pytest.raises(ProtocolError):
            open_update_frame(changed, SIGNER.public_key, 4)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=300))))
def test_a_signed_update_of_other_content_is_refused(content: bytes | tuple[int, bytes]) -> None:
    """A bank that signs garbage, or a length that lies, is refused; nothing else is raised."""
    payload = content if isinstance(content, bytes) else struct.pack("<I", content[0]) + content[1]
    with pytest.raises(ProtocolError):
        open_update_frame(sign(SIGNER, UPDATE_TYPE, payload), SIGNER.public_key, 4)


def test_an_update_too_long_for_its_round_is_refused() -> None:
    """More bytes than the round's updates can have are refused unread."""
    message = sign(SIGNER, UPDATE_TYPE, bytes(max_update_bytes(4)))
    with pytest.raises(ProtocolError, match="at most"):
        open_update_frame(message, SIGNER.public_key, 4)


def assert_same(one: ModelArtifact, other: ModelArtifact) -> None:
    """Equal campaigns, and equal sums to the bit."""
    assert one.campaign == other.campaign
    assert [(s.noise, s.values.shape, s.values.tobytes()) for s in one.history] == [
        (s.noise, s.values.shape, s.values.tobytes()) for s in other.history
    ]


def test_a_model_is_read_back() -> None:
    """A model comes back to the bit, with or without settled rounds, and its digest names its bytes."""
    assert_same(ModelArtifact.decode(ENCODED), ARTIFACT)
    assert_same(ModelArtifact.decode(ModelArtifact(CAMPAIGN).encode()), ModelArtifact(CAMPAIGN))
    assert ModelArtifact.decode(ENCODED).digest() == ARTIFACT.digest()
    assert replace(ARTIFACT, history=HISTORY[:1]).digest() != ARTIFACT.digest()


def assert_decodes_or_refuses(data: bytes) -> None:
    """Other bytes either are what their own contents encode to, or raise `ProtocolError`: nothing else is raised."""
    try:
        model = ModelArtifact.decode(data)
    except ProtocolError:
        return
    assert model.encode() == data


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_model_is_refused_or_another_model(data: st.DataObject) -> None:
    """Bits flipped, bytes put in, cut out or overwritten: a clean error, or another model that says so."""
    mutated = bytearray(ENCODED)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1)) if mutated else 0
        match data.draw(st.integers(0, 3)):
            case 0 if mutated:
                mutated[at] ^= 1 << data.draw(st.integers(0, 7))
            case 1:
                mutated[at:at] = data.draw(st.binary(max_size=8))
            case 2:
                del mutated[at : at + data.draw(st.integers(1, 30))]
            case _:
                mutated[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    assert_decodes_or_refuses(bytes(mutated))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_no_model(data: bytes, framed: bool) -> None:
    """Bytes that nobody wrote are refused, also behind the right magic."""
    with pytest.raises(ProtocolError, match="model"):
        ModelArtifact.decode(MAGIC + data if framed else data)


def test_a_cut_model_is_refused() -> None:
    """A model cut at any length, or lengthened, is refused."""
    for length in range(len(ENCODED)):
        with pytest.raises(ProtocolError):
            ModelArtifact.decode(ENCODED[:length])
    with pytest.raises(ProtocolError):
        ModelArtifact.decode(ENCODED + b"\0")


def with_header(header: object, rounds: bytes = b"") -> bytes:
    """A model file with this header, and these bytes after it."""
    text = canonical_json(header)
    return MAGIC + struct.pack("<I", len(text)) + text + rounds


ROUND = struct.pack("<IIId", 1, 1, 1, 0.0) + struct.pack("<d", 1.0)
CAMPAIGN_JSON = CAMPAIGN.model_dump(mode="json")


def changed_campaign(**changes: object) -> dict[str, object]:
    """The campaign's JSON with other terms of aggregation."""
    return CAMPAIGN_JSON | {"aggregation": CAMPAIGN_JSON["aggregation"] | changes}


@pytest.mark.parametrize(
    "data",
    [
        with_header({"campaign": CAMPAIGN_JSON, "rounds": 0, "more": 1}),
        with_header({"campaign": CAMPAIGN_JSON, "rounds": True}, ROUND),
        with_header({"campaign": CAMPAIGN_JSON, "rounds": 1.0}, ROUND),
        with_header({"campaign": CAMPAIGN_JSON, "rounds": "1"}, ROUND),
        with_header({"campaign": CAMPAIGN_JSON, "rounds": -1}),
        with_header({"campaign": CAMPAIGN_JSON, "rounds": 1}, ROUND + ROUND),
        with_header({"campaign": CAMPAIGN_JSON, "rounds": 2}, ROUND),
        with_header({"campaign": CAMPAIGN_JSON, "rounds": 6}, ROUND * 6),  # one more than its campaign has
        with_header({"campaign": CAMPAIGN_JSON}),
        with_header({"rounds": 0}),
        with_header({"campaign": None, "rounds": 0}),
        with_header({"campaign": [CAMPAIGN_JSON], "rounds": 0}),
        with_header({"campaign": changed_campaign(byzantine=2), "rounds": 0}),  # infeasible
        with_header({"campaign": changed_campaign(rule="mode"), "rounds": 0}),
        with_header([]),
        with_header("model"),
        with_header(7),
        MAGIC + struct.pack("<I", 40) + b"[" * 40,
        MAGIC + struct.pack("<I", 200_000) + b"[" * 200_000,
        MAGIC + struct.pack("<I", 2**32 - 1) + json.dumps({"campaign": CAMPAIGN_JSON, "rounds": 0}).encode(),
    ],
)
def test_headers_that_do_not_fit_are_refused(data: bytes) -> None:
    """Unknown, missing, wrong or infeasible contents of a header raise `ProtocolError`."""
    with pytest.raises(ProtocolError):
        ModelArtifact.decode(data)


@pytest.mark.parametrize(
    ("shape", "noise", "value"),
    [
        ((0, 1, 1), 0.0, 1.0),
        ((1, 1, 2), 0.0, 1.0),
        ((2**32 - 1,) * 3, 0.0, 1.0),
        ((1, 1, MAX_COORDINATES), 0.0, 1.0),
        ((1, 1, MAX_COORDINATES + 1), 0.0, 1.0),
        ((1, 1, 1), -1.0, 1.0),
        ((1, 1, 1), float("nan"), 1.0),
        ((1, 1, 1), float("inf"), 1.0),
        ((1, 1, 1), 0.0, float("nan")),
        ((1, 1, 1), 0.0, float("-inf")),
    ],
)
def test_rounds_that_do_not_fit_are_refused_in_little_memory(
    shape: tuple[int, int, int], noise: float, value: float
) -> None:
    """A shape that promises more than there is, or a number that is none, is refused without memory being taken for it."""
    data = with_header(
        {"campaign": CAMPAIGN_JSON, "rounds": 1}, struct.pack("<IIId", *shape, noise) + struct.pack("<d", value)
    )
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="model"):
            ModelArtifact.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_model_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than a model may have are refused unread."""
    monkeypatch.setattr("mintmark.messages.MAX_ARTIFACT_BYTES", len(ENCODED) - 1)
    with pytest.raises(ProtocolError, match=f"at most {len(ENCODED) - 1} bytes"):
        ModelArtifact.decode(ENCODED)
