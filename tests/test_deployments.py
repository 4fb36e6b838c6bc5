"""What the coordinator asks of a Prefect server that is not always well."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import UUID

import pytest
from prefect.exceptions import PrefectHTTPStatusError

from flows.deployments import campaign_state

RUN = UUID("5287861f-8d3a-4c54-9b5e-4c2ad2a7a3c1")


class Moody(HTTPServer):
    """A server that fails the first `failures` times with `status`, then tells of a run."""

    def __init__(self, failures: int, status: int) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.failures, self.status, self.asked = failures, status, 0


class Answer(BaseHTTPRequestHandler):
    server: Moody

    def do_GET(self) -> None:
        if not self.path.startswith("/api/flow_runs/"):
            self.send_error(404)
            return
        self.server.asked += 1
        failing = self.server.asked <= self.server.failures
        run = {"id": str(RUN), "flow_id": str(RUN), "name": "x", "state": {"type": "RUNNING", "message": "under way"}}
        body = b"{}" if failing else json.dumps(run).encode()
        self.send_response(self.server.status if failing else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def moody(request: pytest.FixtureRequest) -> Iterator[Moody]:
    server = Moody(*request.param)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("moody", [(1, 500)], indirect=True)
def test_a_busy_server_is_asked_again(moody: Moody) -> None:
    """A 500 of a moment, as of a database that let the server wait too long, does not end what was asked."""
    assert campaign_state(f"http://127.0.0.1:{moody.server_port}/api", RUN) == ("RUNNING", "under way")
    assert moody.asked == 2


@pytest.mark.parametrize("moody", [(1, 403)], indirect=True)
def test_a_refusal_is_an_answer(moody: Moody) -> None:
    """Who is refused does not ask again."""
    with pytest.raises(PrefectHTTPStatusError):
        campaign_state(f"http://127.0.0.1:{moody.server_port}/api", RUN)
    assert moody.asked == 1
