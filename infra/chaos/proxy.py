"""A proxy on 127.0.0.1 between one party and one server, through which the server fails as servers do.

It forwards what comes, byte for byte, so that S3 signatures hold. Told to, it does something else with the next requests:

    status_500, status_503    the server's error, the request never reached it
    slow                      seconds late
    cut                       the request is carried out, its answer breaks off
    stale                     a listing repeats the answer that it got first
    refuse                    the connection ends without an answer, until told otherwise: the network is cut

    with FaultProxy("http://127.0.0.1:9000") as proxy:
        proxy.fail("cut", requests=8)
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self
from urllib.parse import urlsplit

Mode = Literal["", "status_500", "status_503", "slow", "cut", "stale", "refuse"]
SLOW_S = 3.0
_TIMEOUT_S = 60.0
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection"}
_WITHOUT_END = 10**9


class FaultProxy:
    """`puts` notes each object that was written through it, as often as the server took it."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.puts: list[str] = []
        self._mode: Mode = ""
        self._left, self._lock = 0, threading.Lock()
        self._listings: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}
        self._server = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"proxy": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, mode: Mode, requests: int = _WITHOUT_END) -> None:
        """Do this to so many requests from now on."""
        with self._lock:
            self._mode, self._left = mode, requests
            self._listings.clear()

    def mend(self) -> None:
        self.fail("")

    @property
    def left(self) -> int:
        """How many requests the fault still waits for."""
        return self._left if self._mode else 0

    def take(self) -> Mode:
        """What to do with the next request."""
        with self._lock:
            if not self._mode or self._left <= 0:
                self._mode = ""
                return ""
            self._left -= 1
            return self._mode

    def forward(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's answer. Raises `OSError` or `HTTPException` when there is none."""
        assert self.upstream.hostname is not None
        connection = http.client.HTTPConnection(self.upstream.hostname, self.upstream.port, timeout=_TIMEOUT_S)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            answer = response.status, response.getheaders(), response.read()
        finally:
            connection.close()
        if method == "PUT" and answer[0] == 200:
            self.puts.append(path.partition("?")[0])
        return answer

    def listing(
        self, path: str, answer: tuple[int, list[tuple[str, str]], bytes]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """The first answer that a listing got since it went stale."""
        with self._lock:
            return self._listings.setdefault(path, answer)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body, mode = self.rfile.read(length), self.proxy.take()
        if mode == "refuse":
            return self._hang_up()
        if mode == "status_500" or mode == "status_503":
            return self._answer(int(mode.removeprefix("status_")), [], b"")
        if mode == "slow":
            time.sleep(SLOW_S)
        try:
            answer = self.proxy.forward(self.command, self.path, dict(self.headers.items()), body)
        except (OSError, http.client.HTTPException):
            return self._hang_up()
        if mode == "cut":
            return self._answer(answer[0], answer[1], answer[2], cut=True)
        if mode == "stale" and "list-type=2" in self.path:
            answer = self.proxy.listing(self.path, answer)
        return self._answer(*answer)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = _serve  # noqa: N815

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False) -> None:
        with suppress(OSError):
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) + cut))  # one more than comes
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.close()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
