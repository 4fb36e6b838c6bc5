"""The gateway's checks, one request at a time: what passes, what is refused, and what neither side ever sees."""

from __future__ import annotations

import base64
import logging
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from gateway_stage import (
    BANKS,
    CREDENTIAL,
    FINGERPRINT,
    NOW,
    POOL,
    RUN,
    SECRET,
    Stage,
    due_in,
    event,
    listed,
    log_line,
    proposal,
)

from infra.gateway.app import MAX_BODY_BYTES
from infra.gateway.gate import Gate
from infra.gateway.upstream import MAX_ANSWER_BYTES

SET_STATE = f"/api/flow_runs/{RUN['bank-a']}/set_state"
OWN_RUN = f"/api/flow_runs/{RUN['bank-a']}"


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize(("method", "route", "target", "body"), listed("bank-a"), ids=lambda part: str(part)[:40])
def test_listed_routes_pass_with_the_credential_that_no_bank_has(
    stage: Stage, method: str, route: str, target: str, body: Any
) -> None:
    """Each route of the list works for its own bank, by the gateway's credential, and tells nothing it should not."""
    answer = stage.ask(method, f"/api{target}", body)

    assert answer.status_code == (422 if route == "/csrf-token" else answer.status_code)
    assert answer.is_success or answer.json() == {"detail": "CSRF protection is disabled."}
    assert SECRET not in answer.text
    token = base64.b64encode(CREDENTIAL.encode()).decode()
    assert {request.headers["authorization"] for request in stage.prefect.asked} == {f"Basic {token}"}
    assert SECRET not in str(stage.prefect.bodies())


@pytest.mark.parametrize(("method", "route", "target", "body"), listed("bank-b"), ids=lambda part: str(part)[:40])
def test_listed_routes_are_closed_for_what_is_another_banks(
    stage: Stage, method: str, route: str, target: str, body: Any
) -> None:
    """Each route that names a pool, run, deployment or worker refuses another bank's, and nothing reaches it."""
    if route in {"/csrf-token", "/admin/version"}:
        return  # they name nobody

    answer = stage.ask(method, f"/api{target}", body, bank="bank-a")

    assert (answer.status_code, answer.json()) == (404, {"detail": "Nothing here for this bank."})
    assert all(request.method == "GET" for request in stage.prefect.asked)


def test_a_strange_or_ended_certificate_opens_nothing(stage: Stage) -> None:
    """A certificate that is signed but not pinned, or has ended on an open connection, gets 403 and no more."""
    assert stage.ask("GET", OWN_RUN, bank="stranger").status_code == 403
    assert stage.ask("GET", OWN_RUN, not_after=NOW).status_code == 403
    assert stage.ask("GET", OWN_RUN, not_after=NOW + timedelta(seconds=1)).status_code == 200
    assert len(stage.prefect.asked) == 2


@pytest.mark.parametrize(
    "target",
    [
        f"//api/flow_runs/{RUN['bank-a']}",
        f"/api//flow_runs/{RUN['bank-a']}",
        f"/api/flow_runs/{RUN['bank-a']}/",
        f"/api/flow_runs/./{RUN['bank-a']}",
        f"/api/flow_runs/../flow_runs/{RUN['bank-a']}",
        f"/api/flow_runs/%2e%2e/flow_runs/{RUN['bank-a']}",
        f"/api/flow_runs%2f{RUN['bank-a']}",
        f"/api/flow_runs/%30{str(RUN['bank-a'])[1:]}",
        f"/API/flow_runs/{RUN['bank-a']}",
        f"/api/Flow_Runs/{RUN['bank-a']}",
        f"/api/flow_runs/{UUID(int=0xABC)}".upper(),
        f"/api/flow_runs/{RUN['bank-a'].hex}",
        f"/api/flow_runs/{{{RUN['bank-a']}}}",
        f"/api/flow_runs/{RUN['bank-a']}?x=1",
        f"/api/flow_runs/{RUN['bank-a']};x=1",
        f"/api/flow_runs/{RUN['bank-a']}\n",
        f"/api/flow_runs/{RUN['bank-a']}%00",
        f"/api/flow_runs/{RUN['bank-a']}#x",
        f"http://prefect.test/api/flow_runs/{RUN['bank-a']}",
        f"/flow_runs/{RUN['bank-a']}",
        f"/api\\flow_runs\\{RUN['bank-a']}",
        "/api/work_pools/mintmark-bank-a%2f..%2fmintmark-bank-b",
        "/api/work_pools/mintmark-bank-a/../mintmark-bank-b",
        "/api/work_pools/MINTMARK-BANK-A",
        "/api/work_pools/mintmark-bank-aa",
        "/api/work_pools/mintmark-bank-",
        "/api/csrf-token",
        f"/api/csrf-token?client={UUID(int=9)}&client={UUID(int=8)}",
        f"/api/csrf-token?client={UUID(int=9)}&x=1",
        "/api/csrf-token?client=ui",
        "/api/admin/version?x",
        "/api/logs",
        "/api/events/",
        "/",
        "",
        "*",
    ],
)
def test_no_spelling_of_a_path_slips_through(stage: Stage, target: str) -> None:
    """Only the one spelling of a path is known; every other is nothing."""
    for method in ("GET", "POST"):
        assert stage.ask(method, target).status_code == 404
    assert stage.prefect.asked == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("content-length", "10")], 400),
        ([("X-HTTP-Method-Override", "DELETE")], 400),
        ([("X-Original-URL", "/api/flow_runs/filter")], 400),
        ([("transfer-encoding", "chunked")], 400),
        ([("content-encoding", "gzip")], 400),
        ([("expect", "100-continue")], 400),
        ([("upgrade", "h2c")], 400),
        ([("host", "a"), ("host", "b")], 400),
        ([("content-length", "0"), ("content-length", "0")], 400),
        ([("content-length", "-1")], 413),
        ([("content-length", "+0")], 413),
        ([("content-length", "٣")], 413),
        ([("content-length", str(MAX_BODY_BYTES + 1))], 413),
    ],
)
def test_no_header_makes_one_request_look_like_another(
    stage: Stage, headers: list[tuple[str, str]], status: int
) -> None:
    """Overrides, doubled headers, chunks, encodings and strange lengths are refused."""
    assert stage.ask("GET", OWN_RUN, headers=headers).status_code == status
    assert stage.prefect.asked == []


def test_headers_of_a_bank_do_not_travel(stage: Stage) -> None:
    """Its authorization, cookies and forwarding headers stay at the gateway."""
    mine = [("authorization", "Basic bWU="), ("cookie", "x=mine"), ("x-forwarded-for", "mine"), ("host", "mine")]
    assert stage.ask("GET", OWN_RUN, headers=mine).status_code == 200
    for request in stage.prefect.asked:
        assert "mine" not in str(request.headers)
        assert "bWU=" not in request.headers["authorization"]


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", SET_STATE, {"state": {"type": "RUNNING"}, "force": True}),
        ("POST", SET_STATE, proposal("SCHEDULED")),
        ("POST", SET_STATE, proposal("CANCELLING")),
        ("POST", SET_STATE, proposal("RUNNING", message="x" * 5000)),
        ("POST", SET_STATE, {"state": {"type": "RUNNING"}, "job_variables": {}}),
        ("PATCH", OWN_RUN, {"parameters": {"plan_key": "mine"}}),
        ("PATCH", OWN_RUN, {"infrastructure_pid": "1", "job_variables": {"command": "x"}}),
        ("PATCH", OWN_RUN, {"tags": []}),
        ("PATCH", f"{OWN_RUN}/labels", {"x": {"nested": 1}}),
        ("PATCH", f"{OWN_RUN}/labels", {f"label{i}": 1 for i in range(21)}),
        ("POST", "/api/flow_runs/filter", {"work_pools": {"name": {"any_": [POOL["bank-a"]], "not_": []}}}),
        ("POST", "/api/flow_runs/filter", due_in(POOL["bank-a"]) | {"flows": {"name": {"any_": ["campaign"]}}}),
        (
            "POST",
            "/api/flow_runs/filter",
            due_in(POOL["bank-a"]) | {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}},
        ),
        ("POST", "/api/logs/", [log_line("bank-a") | {"flow_run_id": None}]),
        ("POST", "/api/logs/", [log_line("bank-a")] * 201),
        ("POST", "/api/logs/", [log_line("bank-a") | {"task_run_id": str(RUN["bank-b"])}]),
        ("POST", "/api/events", [event("bank-a", "prefect.flow-run.Completed")]),
        ("POST", "/api/events", [event("bank-a", resource="prefect.automation.x")]),
        ("POST", "/api/events", {"event": "x"}),
        ("POST", f"/api/work_pools/{POOL['bank-a']}/get_scheduled_flow_runs", {"limit": 5000}),
        ("POST", f"/api/work_pools/{POOL['bank-a']}/workers/heartbeat", {"name": "x" * 500}),
    ],
    ids=lambda part: str(part)[:60],
)
def test_bodies_say_only_what_a_bank_needs(stage: Stage, method: str, target: str, body: Any) -> None:
    """Forced or foreign states, parameters, broad filters, other events and lines of no run are refused."""
    answer = stage.ask(method, target, body)
    assert answer.status_code == 422
    assert stage.prefect.asked == []


@pytest.mark.parametrize("sent", [b"{", b"\xff\xfe", b"[" * 100_000, b'"x"', b"NaN", b"null"])
def test_what_is_no_body_is_refused(stage: Stage, sent: bytes) -> None:
    """Broken, deep and empty JSON is one sentence, not an error of the gateway."""
    headers = [("content-type", "application/json"), ("content-length", str(len(sent)))]
    assert stage.ask("POST", SET_STATE, headers=headers, sent=sent).status_code == 422
    assert stage.ask("POST", SET_STATE, headers=headers[1:], sent=sent).status_code == 415
    assert stage.ask("POST", SET_STATE, headers=[], sent=b"").status_code == 400
    short = [headers[0], ("content-length", str(len(sent) + 1))]
    assert stage.ask("POST", SET_STATE, headers=short, sent=sent).status_code == 400
    assert stage.prefect.asked == []


def test_one_foreign_run_spoils_a_batch(stage: Stage) -> None:
    """A batch of lines or events with another bank's run, or another's worker, does not pass at all."""
    lines, events = [[make(bank) for bank in BANKS] for make in (log_line, event)]
    worker = event("bank-a", "prefect.worker.executed-flow-run", f"prefect.worker.mintmark-bank.{POOL['bank-b']}")
    for target, body in (("/api/logs/", lines), ("/api/events", events), ("/api/events", [worker])):
        assert stage.ask("POST", target, body).status_code == 404
    assert stage.prefect.bodies() == []


def test_a_states_data_passes_in_neither_direction(stage: Stage) -> None:
    """What Prefect would load or unpickle from a state is cut out of requests and answers."""
    offered = proposal(
        "COMPLETED", data={"__class__": SECRET}, state_details={"cache_key": SECRET}, id=str(UUID(int=1))
    )
    answer = stage.ask("POST", SET_STATE, offered)
    assert stage.prefect.bodies() == [{"state": {"type": "COMPLETED", "name": "Completed"}, "force": False}]
    assert "data" not in answer.json()["state"]
    assert "data" not in stage.ask("GET", OWN_RUN).json()["state"]


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (f"/api/work_pools/{POOL['bank-a']}/get_scheduled_flow_runs", {"limit": 1}),
        ("/api/flow_runs/filter", due_in(POOL["bank-a"])),
    ],
    ids=["scheduled", "filter"],
)
def test_a_runs_pool_is_asked_for_once(stage: Stage, target: str, body: Any) -> None:
    """Polling makes its runs known; an unknown run costs one question, a run that is not there one each time."""
    stage.ask("POST", target, body)
    stage.ask("POST", SET_STATE, proposal())
    assert [request.method for request in stage.prefect.asked] == ["POST", "POST"]

    for _ in range(2):
        assert stage.ask("POST", f"/api/flow_runs/{UUID(int=77)}/set_state", proposal()).status_code == 404
        assert stage.ask("GET", f"/api/flow_runs/{RUN['bank-b']}").status_code == 404
    assert [request.method for request in stage.prefect.asked[2:]] == ["GET"] * 3


def test_a_list_with_a_foreign_run_is_not_told(stage: Stage) -> None:
    """A server that answers bank-b's question with bank-a's run is not believed; without a pool nothing is asked."""
    assert stage.ask("POST", "/api/flow_runs/filter", due_in(POOL["bank-b"]), bank="bank-b").status_code == 404
    asked = len(stage.prefect.asked)
    assert stage.ask("POST", "/api/flow_runs/filter", {}).status_code == 404
    assert stage.ask("POST", "/api/flow_runs/filter", due_in(POOL["bank-b"])).status_code == 404
    assert len(stage.prefect.asked) == asked


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        *(httpx.Response(status, text=SECRET) for status in (401, 408, 429, 500, 502, 503)),
    ],
    ids=str,
)
def test_passing_trouble_is_503_so_that_clients_try_again(stage: Stage, trouble: httpx.Response | Exception) -> None:
    """A server that is away, slow, busy or misconfigured is told as 503 with a pause, without its words."""
    stage.prefect.trouble = trouble
    answer = stage.ask("GET", "/api/admin/version")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("answered", "status"),
    [
        (httpx.Response(422, text=SECRET), 422),
        (httpx.Response(403, json={"detail": f"{SECRET}: Invalid CSRF token or client identifier."}), 403),
        (httpx.Response(307, headers={"location": "http://elsewhere"}), 500),
        (httpx.Response(200, text=SECRET), 500),
        (httpx.Response(200, content=b" " * (MAX_ANSWER_BYTES + 1)), 500),
    ],
    ids=str,
)
def test_a_servers_own_words_stay_there(stage: Stage, answered: httpx.Response, status: int) -> None:
    """Refusals, redirects, nonsense and floods of the server reach a bank as a status and our sentence."""
    stage.prefect.trouble = answered
    answer = stage.ask("GET", "/api/admin/version")
    assert answer.status_code == status
    assert SECRET not in answer.text
    assert "elsewhere" not in str(answer.headers)


def test_banks_cannot_void_each_others_tokens(stage: Stage) -> None:
    """The same client id of two banks is two clients at the server."""
    for bank in BANKS:
        stage.ask("GET", f"/api/csrf-token?client={UUID(int=5)}", bank=bank)
    first, second = (request.url.params["client"] for request in stage.prefect.asked)
    assert len({first, second, str(UUID(int=5))}) == 3


def test_a_bank_that_asks_too_often_waits_alone() -> None:
    """Beyond its allowance a bank gets 429; the other bank does not notice."""
    stage = Stage(requests_per_s=0.2)
    answers = [stage.ask("GET", "/api/admin/version").status_code for _ in range(2)]
    assert answers == [200, 429]
    assert stage.ask("GET", "/api/admin/version", bank="bank-b").status_code == 200


def test_refusals_are_logged_without_a_word_of_the_caller(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Bank, method, route and reason; never a path, body or header."""
    with caplog.at_level(logging.WARNING):
        stage.ask("MINE", "/api/mine", {"mine": 1})
        stage.ask("POST", SET_STATE, proposal() | {"mine": 1})
        stage.ask("GET", "/api/mine", headers=[("mine", "mine"), ("mine", "mine")])
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert "mine" not in caplog.text
    assert "bank=bank-a method=other route=- status=404" in caplog.text
    assert "bank=bank-a method=POST route=/flow_runs/{run}/set_state status=422" in caplog.text


def test_a_bank_may_have_two_certificates_while_it_changes_over(stage: Stage) -> None:
    """Both select the same pool, and both share its allowance."""
    gate = Gate(stage.gateway._gate.upstream, {"aa": "bank-a", "ab": "bank-a"}, POOL, now=lambda: NOW)
    assert gate.bank({"state": {"peer": _peer("aa")}}) == gate.bank({"state": {"peer": _peer("ab")}}) == "bank-a"
    assert FINGERPRINT["bank-b"] not in gate._bank_of


def _peer(fingerprint: str) -> Any:
    from infra.gateway.tls import Peer

    return Peer(fingerprint, NOW + timedelta(days=1))
