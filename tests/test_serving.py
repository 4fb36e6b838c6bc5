"""Scores for single payments: what a request may say, what it is answered, and which model answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from consortium import SCHEMA, START, Consortium
from starlette.testclient import TestClient
from typer.testing import CliRunner

from bank_node.cli import app as command_line
from bank_node.personal.scorer import SharedScorer
from bank_node.serving.app import make_app
from bank_node.serving.models import ServedModel, Site, default_alias, newer_model, open_model
from bank_node.serving.transaction import MAX_BODY_BYTES, read_transaction
from bank_node.settings import Home
from mintmark import s3
from mintmark.champion import Champion
from mintmark.envelope import generate_signer
from mintmark.errors import DataError, MintmarkError, ProtocolError, StorageError
from mintmark.mailbox import MemoryStore, ObjectStore, champion_key
from mintmark.models.lightgbm_text import load
from mintmark.schema import Feature, FeatureKind, FeatureSchema

PAYMENT = {"amount": 250.0, "hour": 3, "payments": None}


class Unreachable(MemoryStore):
    """A mailbox at the end of a cut cable."""

    def list(self, prefix: str) -> list[str]:
        raise StorageError("cannot list")


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """Two campaigns that are finished and evaluated."""
    consortium = Consortium(tmp_path_factory.mktemp("banks"))
    consortium.models = {}  # type: ignore[attr-defined]
    for name in ("cards", "cards-2"):
        consortium.models[name] = consortium.run(consortium.campaign(name=name, epsilon=2.0), 4, name)  # type: ignore[attr-defined]
    return consortium


def record(consortium: Consortium, number: int, of: str = "cards", **changes: str) -> bytes:
    """A signed champion record of one of the campaigns."""
    champion = Champion(
        number=number,
        campaign=of,
        model_digest=consortium.models[of],  # type: ignore[attr-defined]
        schema_digest=SCHEMA.digest(),
        decision="d" * 64,
        promoted_at=START + timedelta(days=number),
    )
    return champion.model_copy(update=changes).signed(consortium.coordinator.signer)


@pytest.fixture
def store(consortium: Consortium) -> MemoryStore:
    """The mailbox, with a first champion."""
    store = MemoryStore()
    for key in consortium.store.list(""):
        store.put_once(key, consortium.store.get(key, max_bytes=10**8) or b"")
    store.put_once(champion_key(1), record(consortium, 1))
    return store


@pytest.fixture
def site(consortium: Consortium, store: MemoryStore, tmp_path: Path) -> Site:
    """A bank that has taken no champion yet."""
    home = Home(consortium.banks["bank-0"].home.path)
    home.champion = tmp_path / "champion"
    return Site(home, lambda: store)


def reaching(site: Site, store: ObjectStore) -> Site:
    return replace(site, reach=lambda: store)


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    """The service with the champion, never looking for a newer one."""
    with TestClient(make_app(open_model(site, "champion"), SCHEMA, newer=lambda _: None, every_s=1e6)) as client:
        yield client


def test_a_payment_is_answered_with_score_model_and_reasons(client: TestClient, site: Site) -> None:
    """The score is the champion's own, and the reasons are LightGBM's contributions, largest first."""
    answer = client.post("/score?reasons=2", json=PAYMENT)
    model = load(site_text(site))
    row = np.array([[250.0, 3.0, np.nan]])
    assert answer.status_code == 200
    assert answer.json()["score"] == pytest.approx(float(np.asarray(model.predict(row))[0]))
    added = np.asarray(model.predict(row, pred_contrib=True))[0, :3]
    order = np.argsort(-np.abs(added))[:2]
    assert [reason["feature"] for reason in answer.json()["reasons"]] == [SCHEMA.names[at] for at in order]
    for reason, at in zip(answer.json()["reasons"], order, strict=True):
        assert reason["log_odds"] == pytest.approx(added[at])
        assert reason["direction"] == ("raises the score" if added[at] > 0 else "lowers the score")
    assert answer.json()["model"]["alias"] == "champion"
    assert answer.json()["model"]["champion"] == 1
    assert answer.json()["outside"] == []


def site_text(site: Site) -> str:
    """The champion's LightGBM text, by the way that personalising takes."""
    from bank_node.personal.shared_model import fetch_shared_model

    return fetch_shared_model(site.reach(), site.coordinator_key, "cards", SCHEMA).text()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "expected one JSON object"),
        (b"[1, 2, 3]", "expected one JSON object"),
        (b"[" * 60_000, "expected one JSON object"),
        (b'{"amount": 1, "amount": 2, "hour": 1, "payments": 1}', "each once"),
        (b'{"amount": NaN, "hour": 1, "payments": 1}', "expected one JSON object"),
        (b'{"amount": 1, "hour": 1}', "expected the field payments, got none: say null"),
        (b'{"amount": 1, "hour": 1, "payments": 1, "card": 7}', "expected only the fields amount, hour, payments"),
        (
            b'{"amount": "1", "hour": 1, "payments": 1}',
            "field amount: expected a number from 1 to 1000, or null, got text",
        ),
        (b'{"amount": true, "hour": 1, "payments": 1}', "got true or false"),
        (b'{"amount": 1e999, "hour": 1, "payments": 1}', "field amount: expected a number"),
        (b'{"amount": 0.5, "hour": 1, "payments": 1}', "field amount: expected a number from 1 to 1000, or null"),
        (b'{"amount": 1, "hour": 2.5, "payments": 1}', "field hour: expected a whole number from 0 to 23"),
        (b'{"amount": 1, "hour": 24, "payments": 1}', "field hour: expected a whole number from 0 to 23"),
    ],
)
def test_a_wrong_payment_is_one_sentence(client: TestClient, body: bytes, sentence: str) -> None:
    """Unknown, missing, twice, of another type, out of bounds or no JSON: 422 and what was expected, never the value."""
    answer = client.post("/score", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]


def test_other_requests_are_refused(client: TestClient) -> None:
    """Too large, not JSON by its header (what a web page could send), and ways to reload that do not exist."""
    large = b'{"amount": ' + b" " * MAX_BODY_BYTES + b"1}"
    assert client.post("/score", content=large, headers={"content-type": "application/json"}).status_code == 413
    assert client.post("/score", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    for asked in ("11", "-1", "x", "²"):
        assert client.post(f"/score?reasons={asked}", json=PAYMENT).status_code == 422
    assert client.post("/score?model=x", json=PAYMENT).status_code == 422
    assert client.get("/score").status_code == 405
    assert client.post("/model").status_code == 405
    assert client.get("/docs").status_code == 404


def test_with_clip_values_are_taken_as_in_training() -> None:
    """Numbers go to their bounds, unknown words are missing, and both are named; words may be numbers."""
    schema = FeatureSchema(
        "tiny",
        (
            Feature("amount", FeatureKind.LOG, 1, 100),
            Feature("channel", FeatureKind.CATEGORY, 0, 2, categories=("chip", "online", "7")),
        ),
        "fraud", "card", "bank", "test",
    )  # fmt: skip
    payment = read_transaction(schema, b'{"amount": 250, "channel": "sms"}', clip=True)
    assert payment.features[0, 0] == 100
    assert np.isnan(payment.features[0, 1])
    assert payment.outside == ("amount", "channel")
    assert read_transaction(schema, b'{"amount": 2, "channel": 7}').features.tolist() == [[2.0, 2.0]]
    with pytest.raises(DataError, match="field channel: expected one of chip, online, 7, or null, got another value"):
        read_transaction(schema, b'{"amount": 2, "channel": "sms"}')


def test_a_newer_champion_takes_over_and_an_unsound_one_does_not(
    consortium: Consortium, site: Site, store: MemoryStore
) -> None:
    """Nothing new: the same. A second record: its model. A forged third: an error, and the second stays in the folder."""
    first = open_model(site, "champion")
    assert newer_model(site, first) is None
    store.put_once(champion_key(2), record(consortium, 2, "cards-2"))
    second = newer_model(site, first)
    assert second is not None
    assert (second.champion, second.campaign) == (2, "cards-2")
    row = np.array([[250.0, 3.0, np.nan]])
    assert second.scorer.raw(row) != first.scorer.raw(row)
    store.put_once(champion_key(3), b"forged")
    with pytest.raises(ProtocolError):
        newer_model(site, second)
    assert open_model(reaching(site, Unreachable()), "champion").champion == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schema_digest": "e" * 64}, "was made with the schema eeeeeeeeeeee"),
        ({"model_digest": "e" * 64}, "expected an object at public/campaigns/cards/models/eeeeeeeeeeee"),
        ({"campaign": "cards-2"}, "its model is of another campaign"),
        ({"campaign": "cards-3", "model_digest": "e" * 64}, "expected an object at public/campaigns/cards-3"),
    ],
)
def test_a_champion_that_does_not_fit_is_refused(
    consortium: Consortium, site: Site, store: MemoryStore, changes: dict[str, str], sentence: str
) -> None:
    """Another schema, another model than the campaign made, another campaign: one sentence, and the one before stays."""
    first = open_model(site, "champion")
    store.put_once(champion_key(2), record(consortium, 2, **changes))
    with pytest.raises(MintmarkError, match=sentence):
        newer_model(site, first)
    assert open_model(reaching(site, Unreachable()), "champion").champion == 1


def test_a_mailbox_that_was_set_back_is_refused(consortium: Consortium, site: Site, store: MemoryStore) -> None:
    """Who has served champion 2 does not go back to 1 because the mailbox has forgotten it, nor to another 2."""
    before = MemoryStore()
    for key in store.list(""):
        before.put_once(key, store.get(key, max_bytes=10**8) or b"")
    store.put_once(champion_key(2), record(consortium, 2, "cards-2"))
    open_model(site, "champion")
    with pytest.raises(ProtocolError, match="expected record 2 or newer"):
        open_model(reaching(site, before), "champion")
    before.put_once(champion_key(2), record(consortium, 2, "cards"))
    with pytest.raises(ProtocolError, match="expected the record that was seen before"):
        open_model(reaching(site, before), "champion")


def test_without_the_mailbox_the_kept_champion_scores(site: Site) -> None:
    """Only what was taken before, and only while its files are what their names say."""
    with pytest.raises(DataError, match="the mailbox must be reached once"):
        open_model(reaching(site, Unreachable()), "champion")
    open_model(site, "champion")
    kept = open_model(reaching(site, Unreachable()), "champion")
    assert "kept from before" in kept.note
    (model,) = site.home.champion.glob("*.model")
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(ProtocolError, match="expected the model"):
        open_model(reaching(site, Unreachable()), "champion")
    assert open_model(site, "champion").champion == 1  # and is taken anew where it can be
    (site.home.champion / "record").write_bytes(
        Champion.read(record_of(site), site.coordinator_key).signed(generate_signer())
    )
    with pytest.raises(ProtocolError, match="expected a signature by the key in force"):
        open_model(site, "champion")


def record_of(site: Site) -> bytes:
    return (site.home.champion / "record").read_bytes()


def test_an_empty_mailbox_has_nothing_to_score_with(consortium: Consortium, site: Site) -> None:
    """No promotion yet, no deployed model, no such campaign: said in a sentence."""
    assert default_alias(site.home) == "champion"
    for alias, sentence in (
        ("champion", "has promoted no model yet"),
        ("deployed", "make it with"),
        ("x", "campaign x"),
    ):
        with pytest.raises(MintmarkError, match=sentence):
            open_model(reaching(site, MemoryStore()), alias)


def swapping(newer: Callable[[ServedModel], ServedModel | None], site: Site) -> Iterator[TestClient]:
    with TestClient(make_app(open_model(site, "champion"), SCHEMA, newer=newer, every_s=0.001)) as client:
        yield client


def told(client: TestClient, wanted: Callable[[dict[str, object]], bool]) -> dict[str, object]:
    """What /model says once it says what is wanted; each request lets the background check run."""
    for _ in range(10_000):
        if wanted(shown := client.get("/model").json()):
            return shown
    raise AssertionError(f"never said: {shown}")


def test_the_service_changes_models_in_the_background(site: Site) -> None:
    """A newer model that is sound takes over between two requests; an unsound one is told of, and the old one answers."""
    found: list[ServedModel | Exception] = [
        ProtocolError("champion 2: forged"),
        ValueError("amount 250.0"),
        RuntimeError(),
    ]

    def newer(served: ServedModel) -> ServedModel | None:
        outcome = found[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome if outcome is not served else None

    for client in swapping(newer, site):
        assert told(client, lambda shown: shown["problem"] == "champion 2: forged")["champion"] == 1
        assert client.post("/score", json=PAYMENT).json()["model"]["champion"] == 1
        found.pop(0)
        assert told(client, lambda shown: shown["problem"] == "ValueError")["champion"] == 1  # its text may hold data
        found[0] = ServedModel("champion", "cards-2", "f" * 64, SharedScorer(site_text(site)), 2)
        assert told(client, lambda shown: shown["champion"] == 2)["problem"] is None
        assert client.post("/score", json=PAYMENT).json()["model"]["campaign"] == "cards-2"
        assert client.get("/healthz").json() == {"status": "ok"}


def test_nothing_of_a_payment_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a good nor a wrong payment, nor one that makes the scorer fail, leaves a value in any log."""

    class Failing(SharedScorer):
        def contributions(self, features: np.ndarray) -> np.ndarray:
            raise ValueError(f"got {features.tolist()}")

    served = open_model(site, "champion")
    with caplog.at_level(logging.DEBUG):
        for scorer in (served.scorer, Failing("")):
            app = make_app(replace(served, scorer=scorer), SCHEMA, newer=lambda _: None, every_s=1e6)
            with TestClient(app) as client:
                answers = [client.post("/score", json=PAYMENT | {"amount": amount}) for amount in (123.25, 1123.25)]
    assert [answer.status_code for answer in answers] == [500, 422]
    assert "123.25" not in caplog.text + json.dumps([answer.text for answer in answers])


def test_score_takes_the_champion_by_alias(
    site: Site, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mintmark-bank score --model champion`, and a campaign by name: the champion's scores of the bank's own file."""
    monkeypatch.setattr(s3, "S3Store", lambda _: store)
    home = site.home.path
    out = {}
    for model in ("champion", "cards", "cards-2"):
        target = tmp_path / f"{model}.parquet"
        arguments = [str(home / "data" / "transactions.parquet"), "--out", str(target), "--home", str(home)]
        shown = CliRunner().invoke(command_line, ["score", *arguments, "--model", model])
        assert shown.exit_code == 0, shown.output
        out[model] = pq.read_table(target)["score"].to_numpy()
    assert (out["champion"] == out["cards"]).all()
    assert (out["champion"] != out["cards-2"]).any()
