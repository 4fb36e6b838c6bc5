"""The fault matrix: four of its cells against real processes, and that its own parts do what they say."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra.chaos.matrix import VICTIMS, scenes, small
from infra.chaos.proxy import FaultProxy
from infra.chaos.steps import BANK_STEPS, COORDINATOR_STEPS, FINAL_STEPS, Fault, Stage

ROOT = Path(__file__).parent.parent


@pytest.mark.servers
def test_four_faults_leave_the_same_bytes(tmp_path: Path) -> None:
    """Worker, child, S3 and flow are killed, a round each: one campaign, and nothing lost, charged twice or sent twice."""
    output = tmp_path / "chaos.json"
    command = [sys.executable, "-m", "infra.chaos", "--only", "small", "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    cells = json.loads(output.read_text())
    assert [cell["cell"] for cell in cells] == [cell.name for scene in small() for cell in scene.cells if cell]
    assert {cell["outcome"] for cell in cells} == {"same bytes"}


def test_the_matrix_has_every_victim_at_every_step() -> None:
    """Nobody is forgotten, and no two cells or campaigns are called the same."""
    played = list(scenes())
    cells = [cell for scene in played for cell in (*scene.cells, *scene.finals) if cell is not None]
    kills = {(cell.victim, cell.step) for cell in cells if cell.kind == "kill"}
    steps = (*COORDINATOR_STEPS, *BANK_STEPS, *FINAL_STEPS)
    assert kills == {(victim, step) for victim in VICTIMS for step in steps}
    assert len({scene.name for scene in played}) == len(played)


def test_a_step_holds_one_process_until_it_is_let_go(tmp_path: Path) -> None:
    """Only the armed campaign, round, step and bank are held, and only once."""
    stage = Stage(tmp_path)
    stage.reach("cards", 1, "charged", "bank-a")  # nothing is armed
    stage.arm(Fault("cards", 1, "charged", "bank-a"))
    for other in (
        ("cards", 2, "charged", "bank-a"),
        ("cards", 1, "charged", "bank-b"),
        ("others", 1, "charged", "bank-a"),
    ):
        stage.reach(*other)
    assert stage.held() is None
    held = threading.Thread(target=stage.reach, args=("cards", 1, "charged", "bank-a"), daemon=True)
    held.start()
    while stage.held() is None:
        assert held.is_alive()
    stage.reach("cards", 1, "charged", "bank-a")  # taken by another: not held
    assert held.is_alive()
    process = stage.held()
    assert process is not None
    stage.let_go(process)
    held.join(timeout=30)
    assert not held.is_alive()


def test_a_full_disk_fails_the_step(tmp_path: Path) -> None:
    """The step raises what the kernel would."""
    stage = Stage(tmp_path)
    stage.arm(Fault("cards", 1, "drawn", "bank-a", disk_full=True))
    with pytest.raises(OSError, match="No space left"):
        stage.reach("cards", 1, "drawn", "bank-a")


@contextmanager
def counting_server() -> Iterator[str]:
    """Answers every request with how many there were."""
    count = [0]

    class Count(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            count[0] += 1
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = f"number {count[0]}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Count)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def ask(proxy: FaultProxy, method: str = "GET", path: str = "/b?list-type=2&prefix=a") -> tuple[int, str]:
    where = urlsplit(proxy.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    connection.request(method, path, body=b"x" if method == "PUT" else None)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_the_proxy_fails_as_told_and_then_no_more() -> None:
    """Errors do not reach the server, cut answers do, listings go stale, a cut network stays cut."""
    with counting_server() as url, FaultProxy(url) as proxy:
        assert ask(proxy) == (200, "number 1")
        proxy.fail("status_503", requests=1)
        assert ask(proxy)[0] == 503
        assert ask(proxy) == (200, "number 2")
        proxy.fail("cut", requests=1)
        with pytest.raises(http.client.IncompleteRead):
            ask(proxy, "PUT", "/b/from/a")
        assert (proxy.puts, ask(proxy)) == (["/b/from/a"], (200, "number 4"))
        proxy.fail("stale", requests=2)
        assert [ask(proxy)[1] for _ in range(3)] == ["number 5", "number 5", "number 7"]
        proxy.fail("refuse")
        for _ in range(2):
            with pytest.raises((http.client.HTTPException, OSError)):
                ask(proxy)
        proxy.mend()
        assert ask(proxy)[0] == 200
