"""The protocol at the coordinator, attacked through the simulator: what is wrong is rejected with its reason."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from consortium import SCHEMA, Consortium

from mintmark import mailbox
from mintmark.campaign import replay
from mintmark.envelope import generate_signer, sign
from mintmark.errors import ProtocolError, QuorumError
from mintmark.mailbox import update_key
from mintmark.messages import UpdateStatement, encode_sums, encode_update, open_update_frame, update_info
from mintmark.models.boosting import FEWEST_TREES
from mintmark.plan import RoundPlan
from mintmark.round import Manifest, RejectionReason
from tasks.evaluation import evaluate_scores

COORDINATES = len(SCHEMA.features) * 33 * 2  # round 0: 32 bins of a number and one for missing values, two sums in each


def forge(
    consortium: Consortium,
    name: str,
    plan: RoundPlan,
    *,
    sums: np.ndarray | None = None,
    signer: object = None,
    statement: UpdateStatement | None = None,
    sealing_key: bytes | None = None,
    data: bytes | None = None,
) -> bytes:
    """An update of `name` made by hand: honest but for what is given."""
    drawn = np.random.default_rng(list(name.encode())).standard_normal(COORDINATES) * plan.noise_scale
    vector = drawn.astype(np.int64) if sums is None else sums
    said = statement or UpdateStatement(bank=name, plan_digest=plan.digest(), release_digest=plan.release_digest())
    key = sealing_key or bytes.fromhex(consortium.roster.sealing_key)
    encoded = encode_sums(vector, plan.noise_scale) if data is None else data
    return encode_update(encoded, said, signer or consortium.banks[name].signer, key)  # type: ignore[arg-type]


def post(consortium: Consortium, name: str, plan: RoundPlan, message: bytes) -> None:
    consortium.store.put_once(update_key(name, plan.campaign.name, plan.round, plan.attempt), message)


def manifest(consortium: Consortium, plan: RoundPlan) -> Manifest:
    key = mailbox.manifest_key(plan.campaign.name, plan.round, plan.attempt)
    message = consortium.store.get(key, max_bytes=10**6)
    assert message is not None
    return Manifest.read(message, consortium.coordinator.signer.public_key)


def settled_with(consortium: Consortium, message_of_bank_0: bytes, plan: RoundPlan) -> Manifest:
    """Everybody else answers honestly; returns the round's record."""
    post(consortium, "bank-0", plan, message_of_bank_0)
    for name in consortium.banks:
        if name != "bank-0":
            consortium.answer(name, plan)
    consortium.settle(plan)
    return manifest(consortium, plan)


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path, sizes=(400, 300, 300, 200))


def test_whole_campaign(consortium: Consortium) -> None:
    """Every bank in every round, one update each, the ledger at the campaign's epsilon, all trees and an evaluation."""
    model = consortium.run(consortium.campaign(rounds=3), 4)
    state = replay(consortium.coordinator.model("cards", model), SCHEMA)
    additive = 2 * len(SCHEMA.features)  # two rounds of them, one of trees: none where the noise hides what they gain
    assert len(state.trees) in (additive, additive + FEWEST_TREES)
    assert 0 <= (evaluate_scores(consortium.coordinator, "cards", model).pooled.auprc.value or 0) <= 1
    for name in consortium.banks:
        assert len(consortium.store.list(f"from/{name}/")) == 4
        with consortium.ledger(name) as ledger:
            assert 3.99 < ledger.epsilon(delta=1e-6) <= 4.0


def test_updates_of_a_round_have_one_size(consortium: Consortium) -> None:
    """Nothing about a bank shows in the length of what it sends."""
    plan = consortium.plan(consortium.campaign())
    for name in consortium.banks:
        consortium.answer(name, plan)
    assert len({len(consortium.store.get(key, max_bytes=10**6) or b"") for key in consortium.store.list("from/")}) == 1


def _cases(consortium: Consortium, plan: RoundPlan) -> dict[str, tuple[bytes, RejectionReason]]:
    other = UpdateStatement(bank="bank-1", plan_digest=plan.digest(), release_digest=plan.release_digest())
    replayed = UpdateStatement(bank="bank-0", plan_digest="0" * 64, release_digest=plan.release_digest())
    huge = np.full(COORDINATES, 2**20 * int(plan.noise_scale))
    honest = forge(consortium, "bank-0", plan)
    return {
        "garbage": (b"\x80\x04cos\nsystem\n", RejectionReason.NOT_AUTHENTIC),
        "empty": (b"", RejectionReason.NOT_AUTHENTIC),
        "another key": (forge(consortium, "bank-0", plan, signer=generate_signer()), RejectionReason.NOT_AUTHENTIC),
        "another bank's key": (
            forge(consortium, "bank-0", plan, signer=consortium.banks["bank-1"].signer),
            RejectionReason.NOT_AUTHENTIC,
        ),
        "another type": (
            sign(consortium.banks["bank-0"].signer, "application/x-mintmark-plan", b"x" * 99),
            RejectionReason.NOT_AUTHENTIC,
        ),
        "one bit": (honest[:-90] + bytes([honest[-90] ^ 1]) + honest[-89:], RejectionReason.NOT_AUTHENTIC),
        "another bank's name": (forge(consortium, "bank-0", plan, statement=other), RejectionReason.WRONG_ROUND),
        "replayed plan": (forge(consortium, "bank-0", plan, statement=replayed), RejectionReason.WRONG_ROUND),
        "sealed to another": (
            forge(consortium, "bank-0", plan, sealing_key=b"\x09" * 32),
            RejectionReason.NOT_OPENABLE,
        ),
        "too short": (forge(consortium, "bank-0", plan, data=b"\0" * 4), RejectionReason.WRONG_LENGTH),
        "too many sums": (
            forge(consortium, "bank-0", plan, data=b"\0" * (4 * COORDINATES + 4)),
            RejectionReason.WRONG_LENGTH,
        ),
        "huge sums": (forge(consortium, "bank-0", plan, sums=huge), RejectionReason.NORM_TOO_LARGE),
        "infinity": (
            forge(consortium, "bank-0", plan, sums=np.full(COORDINATES, 2**62)),
            RejectionReason.OUT_OF_RANGE,
        ),
        "oversize": (b"\0" * (1024 * COORDINATES), RejectionReason.TOO_LARGE),
    }


@pytest.mark.parametrize(
    "attack",
    [
        "garbage", "empty", "another key", "another bank's key", "another type", "one bit", "another bank's name",
        "replayed plan", "sealed to another", "too short", "too many sums", "huge sums", "infinity",
        "oversize",
    ],
)  # fmt: skip
def test_bad_update_is_rejected_and_the_round_goes_on(consortium: Consortium, attack: str) -> None:
    """Whatever is wrong with one bank's update: the reason is in the manifest, and the others' result is unmoved."""
    plan = consortium.plan(consortium.campaign())
    message, reason = _cases(consortium, plan)[attack]
    record = settled_with(consortium, message, plan)
    assert [(rejection.bank, rejection.reason) for rejection in record.rejected] == [("bank-0", reason)]
    assert [update.bank for update in record.accepted] == ["bank-1", "bank-2", "bank-3"]
    assert record.late == ()


def test_rejection_leaves_the_result_of_the_others(tmp_path: Path) -> None:
    """A rejected update counts as none: the next model is byte for byte that of a round without this bank."""
    digests = []
    for number, message in enumerate((b"garbage", None)):
        consortium = Consortium(tmp_path / str(number), sizes=(400, 300, 300, 200))
        plan = consortium.plan(consortium.campaign())
        if message:
            post(consortium, "bank-0", plan, message)
        for name in ("bank-1", "bank-2", "bank-3"):
            post(consortium, name, plan, forge(consortium, name, plan))
        digests.append(consortium.settle(plan))
    assert digests[0] == digests[1]


def test_late_banks_are_named_and_welcome_again(consortium: Consortium) -> None:
    """Who does not answer in time is named late, and takes part in the next round."""
    plan = consortium.plan(consortium.campaign())
    for name in ("bank-0", "bank-1", "bank-2"):
        consortium.answer(name, plan)
    model = consortium.settle(plan)
    assert manifest(consortium, plan).late == ("bank-3",)
    following = consortium.plan(model)
    for name in consortium.banks:
        consortium.answer(name, following)
    consortium.settle(following)
    assert manifest(consortium, following).late == ()


def test_no_quorum_fails_and_names_who_is_missing(consortium: Consortium) -> None:
    """Below the quorum there is no model; error and record say who was not there and who was refused."""
    plan = consortium.plan(consortium.campaign(quorum=3))
    consortium.answer("bank-1", plan)
    post(consortium, "bank-0", plan, b"garbage")
    models = consortium.store.list("public/campaigns/cards/models/")
    for _ in range(2):  # run again it ends alike, whoever has answered by then
        with pytest.raises(QuorumError, match=r"quorum of 3 updates, got 1.*bank-2, bank-3.*bank-0 \(not_authentic\)"):
            consortium.settle(plan)
        consortium.answer("bank-2", plan)
        consortium.answer("bank-3", plan)
    record = manifest(consortium, plan)
    assert (record.settled, record.late) == (False, ("bank-2", "bank-3"))
    assert consortium.store.list("public/campaigns/cards/models/") == models


def test_settling_twice_gives_the_same_model(consortium: Consortium) -> None:
    """A coordinator that is killed after the manifest and run again later makes the same bytes, and no second record."""
    plan = consortium.plan(consortium.campaign(quorum=3))
    for name in ("bank-0", "bank-1", "bank-2"):
        consortium.answer(name, plan)
    model = consortium.settle(plan)
    consortium.answer("bank-3", plan)  # too late: the manifest is written
    objects = dict(consortium.store._objects)
    consortium.now += timedelta(minutes=5)
    assert consortium.settle(plan) == model
    assert consortium.store._objects == objects
    assert consortium.plan(plan.model_digest) == plan


def test_liars_do_not_move_the_trimmed_mean(tmp_path: Path) -> None:
    """One of five lies as hard as screening lets it: the plain mean follows it, the trimmed mean stays by the honest."""
    moved = {}
    for rule, byzantine, trim in (("weighted_mean", 0, 0.0), ("trimmed_mean", 1, 0.25)):
        totals = []
        for lie in (0, 300 * 2**26):
            consortium = Consortium(tmp_path / f"{rule}{lie}", sizes=(300,) * 5)
            plan = consortium.plan(consortium.campaign(rule=rule, byzantine=byzantine, trim=trim, quorum=4))
            for number, name in enumerate(consortium.banks):
                vector = np.full(COORDINATES, (number + 1) * 2**20)
                vector[0] += lie if name == "bank-0" else 0
                vector[number + 1] += int(plan.noise_scale)  # never twice the same
                post(consortium, name, plan, forge(consortium, name, plan, sums=vector))
            model = consortium.settle(plan)
            totals.append(consortium.coordinator.model("cards", model).history[0].values.ravel()[0])
        moved[rule] = totals[1] - totals[0]
    assert moved["weighted_mean"] > 200
    assert abs(moved["trimmed_mean"]) < 1


def test_size_claimed_nowhere(consortium: Consortium) -> None:
    """An update has no field for a size: what is opened is the sums of the agreed length and nothing else."""
    plan = consortium.plan(consortium.campaign())
    consortium.answer("bank-0", plan)
    message = consortium.store.get(update_key("bank-0", "cards", 0, 0), max_bytes=10**6) or b""
    statement, sealed = open_update_frame(message, consortium.banks["bank-0"].signer.public_key, COORDINATES)
    said = json.loads(statement.canonical_bytes())
    assert set(said) == {"bank", "plan_digest", "release_digest"}
    opened = consortium.coordinator.sealing_key.open(sealed, info=update_info(statement))
    assert len(opened) == 4 * COORDINATES


def test_swapped_update_after_the_manifest_is_noticed(consortium: Consortium) -> None:
    """A mailbox that shows other bytes than the manifest names stops the rerun."""
    plan = consortium.plan(consortium.campaign())
    for name in consortium.banks:
        consortium.answer(name, plan)
    consortium.settle(plan)
    consortium.store._objects[update_key("bank-0", "cards", 0, 0)] = forge(consortium, "bank-0", plan)
    with pytest.raises(ProtocolError, match="not those that the manifest names"):
        consortium.settle(plan)


def test_manifests_form_a_chain(consortium: Consortium) -> None:
    """Each round's record names the one before it."""
    from mintmark.canonical import digest

    consortium.run(consortium.campaign(), 3)
    keys = consortium.store.list("public/campaigns/cards/manifests/")
    messages = [consortium.store.get(key, max_bytes=10**6) or b"" for key in keys]
    records = [Manifest.read(message, consortium.coordinator.signer.public_key) for message in messages]
    assert [record.previous for record in records] == ["0" * 64, *(digest(message) for message in messages[:-1])]
