"""The bank: it refuses what its policy, its ledger or the signatures do not allow, and never pays or draws twice."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from consortium import POLICY, SCHEMA, START, Consortium, payments

from bank_node import local_round
from bank_node.local_round import answer_plan
from bank_node.policy import RefusalReason, read_policy
from mintmark.envelope import generate_signer
from mintmark.errors import DataError, PrivacyError, StorageError
from mintmark.mailbox import MemoryStore, model_key, plan_key, update_key
from mintmark.plan import PrivacyUnit, RoundPlan
from mintmark.schema import Feature, FeatureKind, FeatureSchema, Scope


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path, sizes=(300, 200, 200))


def state(consortium: Consortium, name: str = "bank-0") -> tuple[bytes, list[str], list[str]]:
    """What a refusal must not change: the ledger, the outbox, what was sent."""
    home = consortium.banks[name].home
    ledger = home.ledger.read_bytes() if home.ledger.exists() else b""
    return ledger, sorted(file.name for file in home.outbox.iterdir()), consortium.store.list(f"from/{name}/")


def replant(consortium: Consortium, plan: RoundPlan, signer: object = None, key: RoundPlan | None = None) -> None:
    """Put a plan into the mailbox over whatever is there, as a hostile store would."""
    where = key or plan
    message = plan.signed(signer or consortium.coordinator.signer)  # type: ignore[arg-type]
    consortium.store._objects[plan_key(where.campaign.name, where.round, where.attempt)] = message


def with_policy(tmp_path: Path, old: str, new: str) -> Consortium:
    assert old in POLICY
    return Consortium(tmp_path, sizes=(300, 200, 200), policy=POLICY.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("smallest_cohort = 3", "smallest_cohort = 4", RefusalReason.COHORT_TOO_SMALL),
        ("smallest_rows = 10", "smallest_rows = 10000", RefusalReason.TOO_FEW_ROWS),
        (
            'learners = ["guided_boosting", "logistic_regression"]',
            'learners = ["other"]',
            RefusalReason.LEARNER_NOT_ALLOWED,
        ),
        ('units = ["customer"]', 'units = ["transaction"]', RefusalReason.UNIT_NOT_ALLOWED),
        ("smallest_cohort = 3", 'smallest_cohort = 3\nfeatures = ["amount"]', RefusalReason.FEATURE_NOT_ALLOWED),
        ("smallest_customers = 50", "smallest_customers = 500", RefusalReason.TOO_FEW_CUSTOMERS),
        ("delta = 1e-6", "delta = 1e-7", RefusalReason.DELTA_TOO_LARGE),
        ('["training_sums", "scores"]', '["scores"]', RefusalReason.RELEASE_NOT_ALLOWED),
        ("epsilon_per_round = 4.0", "epsilon_per_round = 0.1", RefusalReason.OVER_ROUND_BUDGET),
    ],
)
def test_policy_decides(tmp_path: Path, old: str, new: str, reason: RefusalReason) -> None:
    """Each limit of the policy refuses on its own, and nothing is charged, drawn or sent."""
    consortium = with_policy(tmp_path, old, new)
    plan = consortium.plan(consortium.campaign())
    before = state(consortium)
    assert consortium.refusal("bank-0", plan) is reason
    assert state(consortium) == before == (b"", [], [])


def test_policy_may_forbid_evaluation(tmp_path: Path) -> None:
    """Training goes through and the score histograms are refused."""
    consortium = with_policy(tmp_path, '["training_sums", "scores"]', '["training_sums"]')
    model = consortium.run(consortium.campaign(rounds=3), 3)
    assert consortium.refusal("bank-0", consortium.plan(model)) is RefusalReason.RELEASE_NOT_ALLOWED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not toml [",
        "learners = []",
        POLICY.replace("epsilon_per_year = 12.0", "epsilon_per_year = 1.0"),
        POLICY + "\nx = 1",
    ],
)
def test_unsound_policy_allows_nothing(tmp_path: Path, text: str) -> None:
    """Empty, unreadable, contradictory or with a word too many: a sentence, and nothing leaves."""
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"policy\.toml.*nothing leaves"):
        read_policy(path)
    with pytest.raises(DataError, match="nothing leaves"):
        read_policy(tmp_path / "missing.toml")


def test_missing_policy_is_a_refusal(consortium: Consortium) -> None:
    """Without a policy the bank answers no plan at all."""
    plan = consortium.plan(consortium.campaign())
    home = consortium.banks["bank-0"].home
    home.policy.unlink()
    answer = answer_plan(home.path, plan_key("cards", 0, 0), plan.digest(), START)
    assert (answer.status, answer.reason) == ("refused", "no_policy")


def test_signature_digest_key_and_time(consortium: Consortium) -> None:
    """Forged, swapped, misplaced, early and expired plans are refused before anything of them is used."""
    honest = consortium.plan(consortium.campaign())
    before = state(consortium)
    replant(consortium, honest, signer=generate_signer())
    assert consortium.refusal("bank-0", honest) is RefusalReason.NOT_AUTHENTIC
    replant(consortium, honest.model_copy(update={"noise_scale": honest.noise_scale * 2}), key=honest)
    assert consortium.refusal("bank-0", honest) is RefusalReason.DIGEST_DIFFERS
    moved = honest.model_copy(update={"attempt": 7})
    replant(consortium, moved, key=honest)
    assert consortium.refusal("bank-0", honest, digest=moved.digest()) is RefusalReason.NOT_AUTHENTIC
    replant(consortium, honest)
    for now in (honest.opens_at - timedelta(seconds=1), honest.closes_at):
        consortium.now = now
        assert consortium.refusal("bank-0", honest) is RefusalReason.NOT_OPEN
    assert state(consortium) == before


def test_noise_too_small_for_the_terms(consortium: Consortium) -> None:
    """A plan that asks for less noise than its own epsilon allows is refused: the bank computes the price itself."""
    honest = consortium.plan(consortium.campaign(epsilon=1.0))
    cheat = honest.model_copy(update={"noise_scale": honest.noise_scale / 100})
    replant(consortium, cheat)
    assert consortium.refusal("bank-0", cheat) is RefusalReason.OVER_CAMPAIGN_BUDGET


def test_no_noise_is_never_allowed(consortium: Consortium) -> None:
    """A simulation's plan, without noise, gets nothing out of a bank."""
    plan = consortium.plan(consortium.campaign(epsilon=None))
    assert consortium.refusal("bank-0", plan) is RefusalReason.OVER_CAMPAIGN_BUDGET
    assert consortium.store.list("from/") == []


def test_year_budget_spans_campaigns(tmp_path: Path) -> None:
    """Three campaigns of epsilon 4 fit a year's 7 only once; the next calendar year begins anew."""
    consortium = with_policy(tmp_path, "epsilon_per_year = 12.0", "epsilon_per_year = 5.0")
    consortium.run(consortium.campaign(name="first", rounds=3), 4, "first")
    plans = [consortium.plan(consortium.campaign(name=name), name) for name in ("second", "third")]
    answers = [consortium.refusal("bank-0", plan) for plan in plans]
    model, reasons = consortium.campaign(name="fourth", rounds=3), []
    for _ in range(4):
        plan = consortium.plan(model, "fourth")
        reasons = [consortium.refusal(name, plan) for name in consortium.banks]
        if any(reasons):
            break
        model = consortium.settle(plan)
    assert RefusalReason.OVER_YEAR_BUDGET in [*answers, *reasons]
    with consortium.ledger("bank-0") as ledger:
        assert ledger.epsilon(delta=1e-6, year=2026) <= 5.0
    consortium.now = START.replace(year=2027, month=1) + timedelta(days=1)
    consortium.roster.members[0].valid_at(consortium.now)
    assert consortium.refusal("bank-0", consortium.plan(consortium.campaign(name="next"), "next")) is None


def test_equivocation_and_replay(consortium: Consortium) -> None:
    """A second question for a round already answered, an older round, and the same plan again."""
    first = consortium.plan(consortium.campaign())
    for name in consortium.banks:
        consortium.answer(name, first)
    sent = consortium.store.get(update_key("bank-0", "cards", 0, 0), max_bytes=10**6)
    other = first.model_copy(update={"noise_scale": first.noise_scale * 2})
    replant(consortium, other)
    assert consortium.refusal("bank-0", other) is RefusalReason.STALE
    replant(consortium, first)
    before = state(consortium)
    consortium.answer("bank-0", first)
    assert state(consortium) == before
    assert consortium.store.get(update_key("bank-0", "cards", 0, 0), max_bytes=10**6) == sent
    following = consortium.plan(consortium.settle(first))
    consortium.answer("bank-0", following)
    replant(consortium, other)
    assert consortium.refusal("bank-0", other) is RefusalReason.STALE


def test_another_attempt_sends_the_same_sums_and_costs_nothing(consortium: Consortium) -> None:
    """A round that is rung again is answered with the noise drawn the first time."""
    model = consortium.campaign()
    plans = []
    for attempt in (0, 1):
        plans.append(consortium.plan(model, attempt=attempt))
        consortium.answer("bank-0", plans[-1])
        consortium.now += timedelta(minutes=2)
    with consortium.ledger("bank-0") as ledger:
        assert len(ledger.releases()) == 1
    assert consortium.sums_sent("bank-0", plans[0]) == consortium.sums_sent("bank-0", plans[1])


def test_model_that_does_not_fit_is_refused(consortium: Consortium) -> None:
    """A model of another digest, another campaign, or a question that does not follow from it: nothing is charged."""
    honest = consortium.plan(consortium.campaign())
    before = state(consortium)
    key = model_key("cards", honest.model_digest)
    kept = consortium.store._objects[key]
    consortium.store._objects[key] = kept + b"x"
    assert consortium.refusal("bank-0", honest) is RefusalReason.MODEL_DIFFERS
    consortium.store._objects[key] = kept
    isolating = honest.model_copy(update={"query_digest": "1" * 64})
    replant(consortium, isolating)
    assert consortium.refusal("bank-0", isolating) is RefusalReason.MODEL_DIFFERS
    assert state(consortium) == before


def test_unit_must_fit_the_features(tmp_path: Path) -> None:
    """A customer's windows need the customer as unit, and statistics over other customers fit none."""
    both = POLICY.replace('units = ["customer"]', 'units = ["customer", "transaction"]')
    consortium = Consortium(tmp_path / "windows", sizes=(300, 200, 200), policy=both)
    plan = consortium.plan(consortium.campaign(unit=PrivacyUnit.TRANSACTION, clip=1.0))
    assert consortium.refusal("bank-0", plan) is RefusalReason.UNIT_DOES_NOT_FIT
    merchant = Feature("payments", FeatureKind.INTEGER, 0, 50, Scope.ENTITY)
    schema = FeatureSchema("entity", (*SCHEMA.features[:2], merchant), "fraud", "card", "bank", "test")
    consortium = Consortium(tmp_path / "entity", sizes=(300, 200, 200), policy=both, schema=schema)
    assert consortium.refusal("bank-0", consortium.plan(consortium.campaign())) is RefusalReason.UNIT_DOES_NOT_FIT


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("point", range(12))
def test_crash_at_any_step(consortium: Consortium, monkeypatch: pytest.MonkeyPatch, point: int) -> None:
    """Ended before or after any write, and run again: one charge, one draw that leaves, one update."""
    plan = consortium.plan(consortium.campaign())
    steps, draws = iter(range(100)), []

    def crashing(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*arguments: object, **named: object) -> object:
            if next(steps) == point:
                raise Killed
            result = real(*arguments, **named)
            if name == "release":
                draws.append(result.tolist())
            if next(steps) == point:
                raise Killed
            return result

        monkeypatch.setattr(owner, name, wrapped)

    crashing(local_round.Ledger, "append")
    crashing(local_round, "release")
    crashing(local_round, "write_durably")
    crashing(MemoryStore, "put_once")
    with pytest.raises(Killed):
        consortium.answer("bank-0", plan)
    with consortium.ledger("bank-0") as ledger:
        charged_before_sent = ledger.charged(plan.release_digest()) or not consortium.store.list("from/bank-0/")
    assert charged_before_sent
    consortium.answer("bank-0", plan)
    with consortium.ledger("bank-0") as ledger:
        assert len(ledger.releases()) == 1
    assert len(consortium.store.list("from/bank-0/")) == 1
    drawn = (consortium.banks["bank-0"].home.outbox / f"{plan.release_digest()}.sums").read_bytes()
    assert consortium.sums_sent("bank-0", plan) == drawn


def test_lost_outbox_is_not_drawn_anew(consortium: Consortium) -> None:
    """When what was drawn is gone, the bank refuses: a second draw under one charge would be free information."""
    plan = consortium.plan(consortium.campaign())
    consortium.answer("bank-0", plan)
    for file in consortium.banks["bank-0"].home.outbox.iterdir():
        file.unlink()
    assert consortium.refusal("bank-0", plan) is RefusalReason.OUTBOX_LOST


def test_tampered_ledger_stops_everything(consortium: Consortium) -> None:
    """After a roll-back of the ledger nothing leaves."""
    plan = consortium.plan(consortium.campaign())
    for name in consortium.banks:
        consortium.answer(name, plan)
    home = consortium.banks["bank-0"].home
    home.ledger.write_bytes(b"")
    following = consortium.plan(consortium.settle(plan))
    with pytest.raises(PrivacyError, match="nothing leaves"):
        consortium.answer("bank-0", following)
    assert consortium.store.list("from/bank-0/") == [update_key("bank-0", "cards", 0, 0)]


def test_unreachable_store_charges_once(consortium: Consortium) -> None:
    """A store that refuses the update: the charge stands, and the retry sends what was drawn."""

    class Refusing(MemoryStore):
        def put_once(self, key: str, data: bytes) -> bool:
            raise StorageError("cannot write: 503")

    plan, refusing = consortium.plan(consortium.campaign()), Refusing()
    refusing._objects = consortium.store._objects
    with pytest.raises(StorageError):
        consortium.answer("bank-0", plan, store=refusing)
    consortium.answer("bank-0", plan)
    with consortium.ledger("bank-0") as ledger:
        assert len(ledger.releases()) == 1


def test_clipped_share_stays_with_the_bank(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The bank's own log says which share of a feature lay outside its bounds; nothing that is sent does."""
    columns = payments(300, seed=1)
    columns["amount"][:30] = 5000.0
    consortium = Consortium(
        tmp_path, sizes=(300, 200, 200), data=lambda number, rows: columns | {"card": columns["card"] + number * 1000}
    )
    with caplog.at_level(logging.INFO, logger="bank_node"):
        consortium.answer("bank-0", consortium.plan(consortium.campaign()))
    assert any("amount" in record.getMessage() and "%" in record.getMessage() for record in caplog.records)
    assert not any(b"clipped" in data for data in consortium.store._objects.values())


def test_bad_table_is_refused_without_its_values(consortium: Consortium, caplog: pytest.LogCaptureFixture) -> None:
    """A table that does not fit the schema: refused, the column named in the bank's log, no value of a row."""
    home = consortium.banks["bank-0"].home
    table = pq.read_table(home.data)
    labels = np.full(len(table), 77313)
    pq.write_table(table.set_column(table.column_names.index("fraud"), "fraud", pa.array(labels)), home.data)
    assert consortium.refusal("bank-0", consortium.plan(consortium.campaign())) is RefusalReason.NO_DATA
    assert "77313" not in caplog.text
