"""Promotion through the mailbox: what is written, what a kill leaves, and what the command line says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.testing
from consortium import Consortium
from records import LIMITS, NOW, People, evaluation

from flows import promotion_cli
from flows.cli import app
from mintmark import mailbox
from mintmark.approval import Action, Approvers, Verdict
from mintmark.champion import all_champions, newest_champion
from mintmark.errors import ProtocolError, StorageError
from mintmark.mailbox import MemoryStore
from mintmark.settings import read_toml
from tasks import alias
from tasks.approvals import counted_approvals, say
from tasks.coordinator import Coordinator
from tasks.promotion import promote, question_on, read_decisions, rollback, spent

PEOPLE = People()
NAMES = ("spring", "summer", "autumn")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    """Three campaigns of one consortium, run in memory to their ends."""
    consortium = Consortium(tmp_path_factory.mktemp("banks"), sizes=(600, 400, 300))
    for number, name in enumerate(NAMES):
        start = consortium.campaign(name=name, learner="logistic_regression", epsilon=1.0, seed=number)
        model = consortium.run(start, 4, name)
        record = evaluation(name, model, auprc=0.5 + 0.01 * number)
        key = mailbox.evaluation_key(name)
        consortium.store.put_once(key, record.signed(consortium.coordinator.signer))
    return consortium.coordinator


@pytest.fixture
def coordinator(finished: Coordinator) -> Coordinator:
    """The finished campaigns in a store of the test's own."""
    store = MemoryStore()
    for key in finished.store.list("public/"):
        store.put_once(key, finished.store.get(key, max_bytes=10**8) or b"")
    return dataclasses.replace(finished, store=store)


def approve(coordinator: Coordinator, campaign: str, *names: str, action: Action = Action.PROMOTE) -> None:
    for name in names:
        asked = question_on(coordinator, campaign, action)
        say(coordinator.store, PEOPLE.list, PEOPLE.keys[name], asked, Verdict.APPROVE, "looked at it", NOW)


def promoted(coordinator: Coordinator, campaign: str) -> int:
    """Approve and promote; the champion's number."""
    approve(coordinator, campaign, "ada", "ben")
    champion = promote(coordinator, campaign, LIMITS, PEOPLE.list, NOW).champion
    assert champion is not None
    return champion.number


def test_refusal_is_kept_and_promotion_follows(coordinator: Coordinator) -> None:
    """Without approvals: a refused decision with all numbers. With them: the next decision, and a champion."""
    refused = promote(coordinator, "spring", LIMITS, PEOPLE.list, NOW)
    assert refused.champion is None
    assert refused.decision.failed == ("approvals",)
    assert newest_champion(coordinator.store, coordinator.signer.public_key) is None
    assert promoted(coordinator, "spring") == 1
    first, second = read_decisions(coordinator)
    assert (first.passed, second.passed) == (False, True)
    champion = newest_champion(coordinator.store, coordinator.signer.public_key)
    assert champion is not None
    assert champion.campaign == "spring"
    assert [counted.said.approver for counted in second.approvals] == ["ada", "ben"]


def test_running_again_changes_nothing(coordinator: Coordinator) -> None:
    """Refused twice for the same reasons is one record, and so is promoted twice."""
    for _ in range(2):
        promote(coordinator, "spring", LIMITS, PEOPLE.list, NOW)
    promoted(coordinator, "spring")
    before = coordinator.store.list("")
    again = promote(coordinator, "spring", LIMITS, PEOPLE.list, NOW)
    assert not again.new
    assert again.champion is not None
    assert coordinator.store.list("") == before
    assert len(read_decisions(coordinator)) == 2


class KilledError(Exception):
    """The process ends here."""


class Mortal(MemoryStore):
    """A store before whose n-th write the process dies."""

    def __init__(self, store: MemoryStore, writes: int) -> None:
        super().__init__()
        self._objects, self._left = store._objects, writes

    def put_once(self, key: str, data: bytes) -> bool:
        if not self._left:
            raise KilledError(key)
        self._left -= 1
        return super().put_once(key, data)


@pytest.mark.parametrize("writes", [0, 1])
def test_a_kill_loses_nothing(coordinator: Coordinator, writes: int) -> None:
    """KilledError before the decision or between decision and champion, and run again: as if nothing had happened."""
    approve(coordinator, "spring", "ada", "ben")
    dying = dataclasses.replace(coordinator, store=Mortal(coordinator.store, writes))  # type: ignore[arg-type]
    with pytest.raises(KilledError):
        promote(dying, "spring", LIMITS, PEOPLE.list, NOW)
    outcome = promote(coordinator, "spring", LIMITS, PEOPLE.list, NOW)
    assert outcome.champion is not None
    assert len(read_decisions(coordinator)) == 1
    assert [one.number for one in all_champions(coordinator.store, coordinator.signer.public_key)] == [1]


def test_a_kill_before_the_champion_is_made_good_by_the_next_command(coordinator: Coordinator) -> None:
    """Another campaign's promotion first publishes the champion that was decided."""
    approve(coordinator, "spring", "ada", "ben")
    dying = dataclasses.replace(coordinator, store=Mortal(coordinator.store, 1))  # type: ignore[arg-type]
    with pytest.raises(KilledError):
        promote(dying, "spring", LIMITS, PEOPLE.list, NOW)
    promote(coordinator, "summer", LIMITS, PEOPLE.list, NOW)
    assert [one.campaign for one in all_champions(coordinator.store, coordinator.signer.public_key)] == ["spring"]


def test_an_approval_counts_for_one_question_only(coordinator: Coordinator) -> None:
    """Given before another champion came, for another model, or by a stranger's key, it counts for nothing."""
    approve(coordinator, "summer", "ada", "ben")  # to replace nobody
    promoted(coordinator, "spring")
    assert promote(coordinator, "summer", LIMITS, PEOPLE.list, NOW).decision.failed == ("approvals",)
    asked = question_on(coordinator, "summer", Action.PROMOTE)
    with pytest.raises(ProtocolError, match=r"approvers\.toml"):
        say(coordinator.store, PEOPLE.list, People().keys["ada"], asked, Verdict.APPROVE, "trust me", NOW)
    forged = People().say(asked, "cy")[0].said.signed(People().keys["cy"])
    coordinator.store.put_once(mailbox.approval_prefix("summer", 1) + "000000-cy", forged)
    approve(coordinator, "summer", "ada")
    assert [counted.said.approver for counted in counted_approvals(coordinator.store, PEOPLE.list, asked)] == ["ada"]
    assert counted_approvals(coordinator.store, Approvers(), asked) == ()


def test_the_last_word_counts(coordinator: Coordinator) -> None:
    """Saying the same twice adds nothing; changing one's mind counts, in both directions."""
    asked = question_on(coordinator, "spring", Action.PROMOTE)
    for verdict in (Verdict.APPROVE, Verdict.APPROVE, Verdict.REJECT):
        say(coordinator.store, PEOPLE.list, PEOPLE.keys["ada"], asked, verdict, "well", NOW)
    assert len(coordinator.store.list("public/approvals/")) == 2
    (counted,) = counted_approvals(coordinator.store, PEOPLE.list, asked)
    assert counted.said.verdict is Verdict.REJECT


def test_rollback_needs_two_and_numbers_only_grow(coordinator: Coordinator) -> None:
    """Back to an earlier model as a new champion; one person is not enough; the history stays."""
    promoted(coordinator, "spring")
    promoted(coordinator, "summer")
    approve(coordinator, "spring", "ada", action=Action.ROLLBACK)
    assert rollback(coordinator, None, "drift", LIMITS, PEOPLE.list, NOW).champion is None
    approve(coordinator, "spring", "ben", action=Action.ROLLBACK)
    for _ in range(2):
        outcome = rollback(coordinator, None, "drift", LIMITS, PEOPLE.list, NOW)
        assert outcome.champion is not None
        assert (outcome.champion.number, outcome.champion.campaign) == (3, "spring")
    champions = all_champions(coordinator.store, coordinator.signer.public_key)
    assert [one.campaign for one in champions] == ["spring", "summer", "spring"]
    assert champions[2].model_digest == champions[0].model_digest
    assert not rollback(coordinator, 1, "again", LIMITS, PEOPLE.list, NOW).new  # it is in force already
    with pytest.raises(ProtocolError, match="champion 7"):
        rollback(coordinator, 7, "typing", LIMITS, PEOPLE.list, NOW)
    with pytest.raises(ProtocolError, match="never was"):
        question_on(coordinator, "autumn", Action.ROLLBACK)


def test_history_cannot_be_rewritten(coordinator: Coordinator) -> None:
    """A decision that is missing, or another in its place, stops everything with a sentence."""
    promoted(coordinator, "spring")
    promoted(coordinator, "summer")
    objects = coordinator.store._objects  # type: ignore[attr-defined]
    kept = objects.pop(mailbox.decision_key(1))
    with pytest.raises(ProtocolError, match="missing"):
        read_decisions(coordinator)
    other = read_one(kept, coordinator).model_copy(update={"decided_at": NOW.replace(hour=23)})
    objects[mailbox.decision_key(1)] = other.signed(coordinator.signer)
    with pytest.raises(ProtocolError, match="predecessor"):
        promote(coordinator, "autumn", LIMITS, PEOPLE.list, NOW)


def read_one(message: bytes, coordinator: Coordinator):  # type: ignore[no-untyped-def]
    from mintmark.decision import PromotionDecision

    return PromotionDecision.read(message, coordinator.signer.public_key)


def test_two_coordinators_at_once(coordinator: Coordinator) -> None:
    """Of two that decide at the same time one is told so, and its decision is not lost silently."""
    approve(coordinator, "spring", "ada", "ben")

    class Raced(MemoryStore):
        def put_once(self, key: str, data: bytes) -> bool:
            if key == mailbox.decision_key(1):
                promote(coordinator, "summer", LIMITS, PEOPLE.list, NOW)
            return super().put_once(key, data)

    raced = Raced()
    raced._objects = coordinator.store._objects  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="two coordinators"):
        promote(dataclasses.replace(coordinator, store=raced), "spring", LIMITS, PEOPLE.list, NOW)


def test_plans_cost_what_the_terms_allow(coordinator: Coordinator) -> None:
    """Priced from the signed plans, a whole campaign costs its epsilon and not more; a further attempt costs nothing."""
    model = question_on(coordinator, "spring", Action.PROMOTE).model
    assert 0.99 <= spent(coordinator, "spring", model) <= 1.0


def test_a_campaign_without_evaluation_is_one_sentence(coordinator: Coordinator) -> None:
    """Nothing to judge by: said so, and no decision recorded."""
    with pytest.raises(ProtocolError, match="has it finished"):
        promote(coordinator, "winter", LIMITS, PEOPLE.list, NOW)
    assert read_decisions(coordinator) == ()


def test_help_teaches() -> None:
    """Every command and every option of it explains itself."""
    for command in typer.main.get_command(promotion_cli.app).commands.values():  # type: ignore[attr-defined]
        assert command.help
        assert all(getattr(parameter, "help", None) for parameter in command.params if parameter.name != "help")


def test_the_alias_is_a_copy(coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set when MLflow is there and the model registered, and a sentence instead when not: nothing is ever lost by it."""
    from mlflow.tracking import MlflowClient

    promoted(coordinator, "spring")
    champion = newest_champion(coordinator.store, coordinator.signer.public_key)
    assert champion is not None
    assert "not registered yet" in alias.set_alias(coordinator, champion)
    url = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(url, url)
    client.create_registered_model("test-fraud")
    client.create_model_version("test-fraud", str(tmp_path))
    monkeypatch.setattr(alias, "read_registration", lambda *_: SimpleNamespace(name="test-fraud", version="1"))
    assert "does not answer" in alias.set_alias(coordinator, champion)
    settings = coordinator.settings.model_copy(update={"mlflow": url})
    for _ in range(2):
        assert "champion is version 1" in alias.set_alias(dataclasses.replace(coordinator, settings=settings), champion)
    assert str(client.get_model_version_by_alias("test-fraud", "champion").version) == "1"


def test_command_line(coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From two people's keys to a champion: tables, sentences, exit codes 1 and 0; thresholds missing: refused."""
    monkeypatch.setattr(promotion_cli, "_open", lambda home: coordinator)
    monkeypatch.setenv("COLUMNS", "200")
    runner, home = typer.testing.CliRunner(), ["--home", str(tmp_path)]

    def run(*words: str) -> typer.testing.Result:
        return runner.invoke(app, list(words))

    lines = ""
    for name in ("ada", "ben"):
        made = run("approver", name, "--key", str(tmp_path / f"{name}.key"))
        assert (tmp_path / f"{name}.key").stat().st_mode & 0o077 == 0
        lines += made.output[made.output.index("[[approver]]") :]
    (tmp_path / "approvers.toml").write_text(lines)
    assert len(read_toml(tmp_path / "approvers.toml", Approvers).approver) == 2
    assert run("promote", "spring", *home).exit_code == 1  # no promotion.toml yet
    (tmp_path / "promotion.toml").write_text((Path(__file__).parent.parent / "mlflow" / "promotion.toml").read_text())
    refused = run("promote", "spring", *home)
    assert refused.exit_code == 1
    assert "refused, because of approvals" in refused.output
    for name in ("ada", "ben"):
        said = run("approve", "spring", "--key", str(tmp_path / f"{name}.key"), "--reason", "fine", *home)
        assert f"{name} said approve" in said.output
    done = run("promote", "spring", *home)
    assert done.exit_code == 0
    assert "spring is champion 1" in done.output
    assert "not registered yet" in done.output
    assert "refused: approvals" in run("decisions", *home).output
    assert run("rollback", *home).exit_code == 2
