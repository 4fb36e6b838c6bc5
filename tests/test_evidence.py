"""The evidence pack: every figure traces to a signed record, tampering is found, and no text breaks out of the page."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing
from consortium import Consortium
from records import LIMITS, NOW, People, evaluation, figure, figures

from flows import promotion_cli
from flows.cli import app
from mintmark import mailbox
from mintmark.aggregation.report import AggregationReport
from mintmark.aggregation.screening import Rejection, RejectionReason
from mintmark.approval import Action, Verdict
from mintmark.canonical import canonical_json
from mintmark.errors import DataError, ProtocolError
from mintmark.evaluation_record import ReferenceFigures
from mintmark.evidence import derived, open_source, pick
from mintmark.mailbox import MemoryStore
from mintmark.settings import read_toml
from tasks.approvals import say
from tasks.coordinator import Coordinator
from tasks.evidence import ModelCard, check, gather
from tasks.evidence_page import render
from tasks.promotion import promote, question_on
from tasks.shipped import shipped

HOSTILE = """</td></svg><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }} $x_1$ '"><b>&amp;"""
CARD = read_toml(shipped("model_card.toml"), ModelCard)
PEOPLE = People()
AMOUNTS = (5.0, 2000.0, 2000.0, 3000.0)


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    """A campaign, evaluated, approved by two and promoted in place of an older champion; a rejection, a week, a group and a
    reason are hostile text."""
    consortium = Consortium(tmp_path_factory.mktemp("banks"), sizes=(600, 400, 300))
    older = consortium.run(consortium.campaign(name="older", learner="logistic_regression", seed=3), 4, "older")
    record = evaluation("older", older, weeks=("2026-w05",)).model_copy(update={"feature_counts": {"amount": AMOUNTS}})
    consortium.store.put_once(mailbox.evaluation_key("older"), record.signed(consortium.coordinator.signer))
    promoted(consortium.coordinator, "older", "looked at it")
    model = consortium.run(consortium.campaign(learner="logistic_regression"), 4)
    made, signer = consortium.coordinator, consortium.coordinator.signer
    groups = {f"age={HOSTILE}": figures(recall=0.58), "age=old/new~": figures(recall=0.6)}
    record = evaluation("cards", model, groups=groups, weeks=("2026-w09", HOSTILE))
    reference = ReferenceFigures(
        file="7" * 64,
        rows=12_345,
        positives=99,
        auprc=figure(0.41),
        auroc=figure(0.9),
        recall_at_false_positives=figure(0.5),
    )
    record = record.model_copy(update={"reference": reference})
    objects = consortium.store._objects
    objects[mailbox.evaluation_key("cards")] = record.signed(signer)
    key = mailbox.report_key("cards", 1, 0)
    rejection = Rejection(bank=HOSTILE, reason=RejectionReason.WRONG_ROUND, detail=HOSTILE)
    report = AggregationReport.read(objects[key], signer.public_key)
    objects[key] = report.model_copy(update={"rejected": (rejection,)}).signed(signer)
    promoted(made, "cards", HOSTILE, tuple(consortium.banks))
    return made


def promoted(coordinator: Coordinator, campaign: str, reason: str, resolved: tuple[str, ...] = ()) -> None:
    """Two people approve, and the campaign's model becomes champion."""
    for name in ("ada", "ben"):
        asked = question_on(coordinator, campaign, Action.PROMOTE)
        say(coordinator.store, PEOPLE.list, PEOPLE.keys[name], asked, Verdict.APPROVE, reason, NOW, resolved)
    assert promote(coordinator, campaign, LIMITS, PEOPLE.list, NOW).champion is not None


@pytest.fixture(scope="module")
def pack(coordinator: Coordinator) -> dict[str, Any]:
    """As it is read from its file."""
    card = CARD.model_copy(update={"owner": HOSTILE, "limits": HOSTILE})
    return dict(json.loads(canonical_json(gather(coordinator, "cards", card, NOW))))


@pytest.fixture(scope="module")
def html(pack: dict[str, Any]) -> str:
    return render(pack)


def test_every_figure_is_what_its_record_says(coordinator: Coordinator, pack: dict[str, Any]) -> None:
    """Untouched, all figures check; the pooled AUPRC stands in the evaluation, at its place, under its digest."""
    count, problems = check(coordinator, pack)
    assert problems == []
    assert count > 100
    found = pack["performance"]["pooled"]["auprc"]
    source = open_source(coordinator.store, found["key"], coordinator.signer.public_key)
    assert (found["key"], found["pointer"]) == ("public/campaigns/cards/evaluation", "/pooled/auprc")
    assert found["sha256"] == source.sha256
    assert found["value"] == {"value": 0.5, "low": 0.48, "high": 0.52}


def test_drift_and_backtest_come_from_signed_records(pack: dict[str, Any], html: str) -> None:
    """Both champions' figures with their places; the drift since the older one, by hand for a feature, and on the page."""
    assert [(one["number"]["value"], one["campaign"]["value"]) for one in pack["backtest"]] == [
        (1, "older"),
        (2, "cards"),
    ]
    found = pack["backtest"][0]["weeks"]["2026-w05"]["auprc"]
    assert (found["key"], found["pointer"]) == ("public/campaigns/older/evaluation", "/weeks/2026-w05/auprc")
    (drift,) = pack["drift"]
    assert drift["number"]["value"] == 1
    assert drift["scores"]["value"]["all rows"]["value"] == pytest.approx(0, abs=1e-9)
    amount = drift["features"]["amount"]
    before, after = np.array(AMOUNTS), np.array([5.0, 4000.0, 2000.0, 1000.0])
    p, q = ((counts / counts.sum() + 40 / 7005) / (1 + 4 * 40 / 7005) for counts in (before, after))
    assert amount["value"]["value"] == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert amount["value"]["drift"] == "strong"
    assert [one["pointer"] for one in amount["inputs"]] == ["/feature_counts/amount", "/feature_noise"] * 2
    assert {one["key"].split("/")[2] for one in amount["inputs"]} == {"older", "cards"}
    assert pack["performance"]["reference"]["auprc"]["pointer"] == "/reference/auprc"
    words = " ".join(Page(html).words.split())
    assert "reference set, 12,345" in words
    assert "since champion 1, older" in words
    assert "champion 2, cards" in words


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def tamper(pack: dict[str, Any]) -> None:
        head, _, last = path.rpartition("/")
        target = pick(pack, f"/{head}") if head else pack
        target[int(last) if isinstance(target, list) else last] = value

    return tamper


def _swap(pack: dict[str, Any]) -> None:
    """A true figure in a wrong place: the first bank's AUPRC as the pooled one."""
    pack["performance"]["pooled"]["auprc"] = pack["performance"]["banks"]["bank-0"]["auroc"]


@pytest.mark.parametrize(
    "tamper",
    [
        _set("performance/pooled/auprc/value/value", 0.9),
        _set("performance/pooled/auprc/value/low", 0.4999),
        _set("performance/pooled/auprc/sha256", "0" * 64),
        _set("performance/pooled/auprc/key", "public/campaigns/cards/registration"),
        _set("performance/pooled/auprc/key", "from/bank-0/cards/0000-00"),
        _set("performance/pooled/auprc/pointer", "/pooled/nothing"),
        _set("performance/pooled/auprc", 0.9),
        _set("privacy/advantage/value", 0.1),
        _set("privacy/advantage/formula", "alarm"),
        _set("privacy/epsilon/value", 1.0),
        _set("decisions/0/checks/0/value/passed", False),
        _set("decisions", []),
        _set("rounds/1/rejected", []),
        _set("drift", []),
        _set("drift/0/features/amount/value/value", 0.01),
        _set("drift/0/features/amount/value/drift", "none"),
        _set("drift/0/scores/formula", "feature_drift"),
        _set("drift/0/features/amount/inputs/0/value", [5.0, 4000.0, 2000.0, 1000.0]),
        _set("drift/0/features/amount/inputs/0/value", [1.0] * 10**5),
        _set("drift/0/scores/inputs/0/value", [[1.0], [1.0]]),
        _set("backtest/0/pooled/auprc/value/value", 0.1),
        _set("backtest", []),
        _set("campaign", "other"),
        _swap,
    ],
)
def test_tampering_is_found(
    coordinator: Coordinator, pack: dict[str, Any], tamper: Callable[[dict[str, Any]], None]
) -> None:
    """A figure that was changed, moved, left out, or stripped of its record is named."""
    changed = copy.deepcopy(pack)
    tamper(changed)
    try:
        assert check(coordinator, changed)[1]
    except ProtocolError:
        assert changed["campaign"] == "other"


def test_a_mailbox_that_was_changed_is_found(coordinator: Coordinator, pack: dict[str, Any]) -> None:
    """Another evaluation under the same key, even one that the coordinator signed, is not the one the pack was made of."""
    store = MemoryStore()
    store._objects = dict(coordinator.store._objects)  # type: ignore[attr-defined]
    key = mailbox.evaluation_key("cards")
    record = evaluation("cards", pack["performance"]["model_digest"]["value"], auprc=0.7)
    store._objects[key] = record.signed(coordinator.signer)
    assert any("digest" in problem for problem in check(dataclasses.replace(coordinator, store=store), pack)[1])
    store._objects[key] = record.signed(People().keys["ada"])
    with pytest.raises(ProtocolError, match="signature"):
        check(dataclasses.replace(coordinator, store=store), pack)


def test_formulas_are_computed_by_hand() -> None:
    """The two advantages of section 4, at epsilon 1 and delta 1e-6, and none without an epsilon."""
    epsilon, delta = {"value": 1.0}, {"value": 1e-6}
    assert derived("advantage", epsilon, delta)["value"] == pytest.approx(0.462118, abs=1e-5)  # tanh(1/2)
    assert 0.05 < derived("gaussian_advantage", epsilon, delta)["value"] < 0.46
    assert derived("advantage", {"value": None}, delta)["value"] is None


class Page(HTMLParser):
    """Tags and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_page_holds_no_foreign_markup_and_needs_nothing_from_outside(html: str) -> None:
    """Hostile text stands on the page as text, in tables and in plots; there is no script, image or outside address."""
    page = Page(html)
    assert not page.tags & {"script", "img", "link", "iframe", "object", "embed", "base", "form"}
    assert not page.handlers
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"url\(\s*['\"]?(?!#)", html)
    assert "@import" not in html
    assert page.words.count(HOSTILE) >= 8
    assert "49" not in re.findall(r"onerror=alert\(1\)&gt;(.{1,12})", html)
    assert {"svg", "table", "h1"} <= page.tags


def test_page_is_a_function_of_the_pack(html: str, pack: dict[str, Any]) -> None:
    """The same pack gives the same page, plots included; what is missing is said in words."""
    assert render(copy.deepcopy(pack)) == html
    bare = copy.deepcopy(pack)
    bare["performance"] |= {"weeks": {}, "groups": {}}
    bare["windows"]["held_out_weeks"] = []
    bare |= {"decisions": [], "champions": [], "drift": [], "backtest": []}
    words = Page(render(bare)).words
    for sentence in (
        "The schema declares no groups",
        "no window was agreed on",
        "Nobody has decided",
        "no earlier champion",
    ):
        assert sentence in words


def test_command_writes_and_checks(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: dict[str, Any]
) -> None:
    """By campaign or by the model's digest: a page and its JSON; checked, one changed digit is found; usage is usage."""
    monkeypatch.setattr(promotion_cli, "_open", lambda home: coordinator)
    (tmp_path / "model_card.toml").write_text(shipped("model_card.toml").read_text())
    runner = typer.testing.CliRunner()

    def run(*words: str) -> typer.testing.Result:
        return runner.invoke(app, ["evidence", *words, "--home", str(tmp_path)])

    wrote = run(pack["performance"]["model_digest"]["value"], "--out", str(tmp_path / "out"))
    assert wrote.exit_code == 0, wrote.output
    assert (tmp_path / "out" / "cards.evidence.html").read_text().startswith("<!doctype html>")
    data = tmp_path / "out" / "cards.evidence.json"
    assert run("--verify", str(data)).exit_code == 0
    data.write_bytes(data.read_bytes().replace(b'"value":0.5}', b'"value":0.6}', 1))
    found = run("--verify", str(data))
    assert found.exit_code == 1
    assert "Do not rely on it" in found.output
    assert run().exit_code == run("cards", "--verify", str(data)).exit_code == 2
    assert isinstance(run("winter").exception, ProtocolError)
    (tmp_path / "model_card.toml").write_text("owner = 3")
    assert isinstance(run("cards").exception, DataError)
