"""The processes of the one-machine consortium: started, watched, and ended to the last grandchild.

A `ProcessGroup` owns what it starts. Leaving its `with` block ends every process and whatever these started
themselves; `interruptible()` makes Ctrl-C, SIGTERM and SIGHUP leave that block at any moment without losing one.
If this process is killed outright, the kernel signals its children. Linux only. Left out: restarting what died.

    with interruptible(), ProcessGroup(home / "logs") as group:
        group.start("store", ["ministack"], env=env, cwd=home)
        group.wait_ready("store", lambda: answers(url), timeout_s=60)
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from infra.embedded.interrupts import Interrupted, held_from_the_call, interruptible, uninterrupted
from infra.embedded.process_tree import Relative, grow_family, identify, kill_family, wait_gone
from mintmark.errors import MintmarkError

__all__ = ["EmbeddedError", "Interrupted", "ProcessGroup", "free_ports", "interruptible", "uninterrupted"]

_POLL_S = 0.05
_AFTER_KILL_S = 5.0
_SUCCESS = "exit code 0"
_LOG_TAIL_BYTES = 4096
_LOG_TAIL_LINES = 12
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class EmbeddedError(MintmarkError):
    """A process of the one-machine consortium did not start, died, or would not end."""


@dataclass(frozen=True)
class _Started:
    name: str
    process: subprocess.Popen[bytes]
    identity: Relative
    stop_signal: signal.Signals
    job: bool
    wave: int

    @property
    def status(self) -> str | None:
        """How it ended; None while it runs."""
        return _exit_status(self.process)

    @property
    def dead(self) -> bool:
        return self.status not in ((None, _SUCCESS) if self.job else (None,))


class ProcessGroup:
    """Every process of the demo, each in a session of its own, with its output in `<logs>/<name>.log`.

    Processes stop in the reverse order of their start: what was started before a successful `wait_ready` stops after
    what was started later; the rest stop together. Each such wave has `grace_s` seconds before SIGKILL.
    Raises `EmbeddedError` on anything but Linux.
    """

    def __init__(self, logs: Path, *, grace_s: float = 4.0) -> None:
        if sys.platform != "linux":
            raise EmbeddedError(f"expected Linux, got {sys.platform}; run the demo in a container")
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._grace_s = grace_s
        self._started: list[_Started] = []
        self._wave = 0
        self._after_stop = ExitStack()

    def __enter__(self) -> Self:
        return self

    @held_from_the_call
    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        user: str | None = None,
        job: bool = False,
        stop_signal: signal.Signals = signal.SIGTERM,
        orphan_signal: signal.Signals = signal.SIGTERM,
    ) -> subprocess.Popen[bytes]:
        """Start `argv` with exactly the environment `env`, as `user` if given (root only).

        A `job` may end with exit code 0; whatever else ends by itself is dead to `first_dead`. `stop_signal` asks it
        to end; `orphan_signal` is what the kernel sends it when this process dies without stopping it. Only the main
        thread may start: the kernel takes the end of the starting thread for the parent's. Ask `alive` and `finish`
        rather than `wait` on the result: unreaped, its number cannot become a stranger's before `stop`.
        Raises `EmbeddedError` if the program cannot be run, `ValueError` if the name is running already.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("expected a start from the main thread, got another thread; start processes from main")
        if any(one.name == name and one.status is None for one in self._started):
            raise ValueError(f"expected a name that is free, got {name!r}, which is running; stop it first")
        with uninterrupted(), self.log(name).open("ab") as log:
            try:
                process = subprocess.Popen(
                    argv,
                    env=dict(env),
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_dies_with(os.getpid(), orphan_signal),
                    **_identity(user),
                )
            except OSError as error:
                raise EmbeddedError(f"expected to run {argv[0]}, got: {error}; install it or mend its path") from error
            self._started.append(_Started(name, process, identify(process.pid), stop_signal, job, self._wave))
        return process

    def scratch(self) -> Path:
        """Make a private temporary directory with a short path; `stop()` removes it after the last process."""
        with uninterrupted():
            path = Path(tempfile.mkdtemp(prefix="mintmark-"))
            self._after_stop.callback(shutil.rmtree, path, ignore_errors=True)
        return path

    def log(self, name: str) -> Path:
        """Where the output of `name` goes."""
        return self._logs / f"{name}.log"

    def wait_ready(self, name: str, probe: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `probe()` is true; `EmbeddedError` if the process ends first or `timeout_s` pass."""
        self.wait_all_ready({name: probe}, timeout_s, on_ready=lambda _: None)

    def wait_all_ready(
        self, probes: Mapping[str, Callable[[], bool]], timeout_s: float, on_ready: Callable[[str], None]
    ) -> None:
        """Wait for several at once and tell `on_ready` each name as its probe comes true; errors as `wait_ready`."""
        deadline = time.monotonic() + timeout_s
        waiting = dict(probes)
        while waiting:
            late = time.monotonic() > deadline
            for name, probe in tuple(waiting.items()):
                if status := self._status(name):
                    raise self._failure(name, f"to be ready within {timeout_s:g} s", status)
                if probe():
                    del waiting[name]
                    on_ready(name)
                elif late:
                    raise self._failure(name, f"to be ready within {timeout_s:g} s", "no answer")
            if waiting:
                time.sleep(_POLL_S)
        self._wave += 1

    def finish(self, name: str, timeout_s: float) -> None:
        """Wait for a process that is meant to end; anything but exit code 0 in time is an `EmbeddedError`."""
        deadline = time.monotonic() + timeout_s
        while (status := self._status(name)) is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self.stop(name)
        if status != _SUCCESS:
            raise self._failure(name, f"to end with exit code 0 within {timeout_s:g} s", status or "no end")

    def alive(self, name: str) -> bool:
        """Whether `name` was started and has neither ended nor been stopped."""
        return any(one.name == name and one.status is None for one in self._started)

    def pid(self, name: str) -> int:
        """The number of the latest process of this name. `KeyError` if it was never started."""
        return {one.name: one for one in self._started}[name].process.pid

    def first_dead(self) -> str | None:
        """The name of the first process that ended though nobody stopped it, or None."""
        return next((one.name for one in self._started if one.dead), None)

    def check(self) -> None:
        """Raise `EmbeddedError`, with the last lines of its log, if there is a `first_dead`."""
        for one in self._started:
            if one.dead:
                raise self._failure(one.name, "to be running", str(one.status))

    @held_from_the_call
    def stop(self, *names: str) -> None:
        """End the named processes, or all, with everything they started; then they are forgotten. Idempotent.

        A signal that comes meanwhile is raised when the stop is complete. Raises `EmbeddedError` if a process
        survives SIGKILL.
        """
        with uninterrupted():
            ending = [one for one in self._started if not names or one.name in names]
            survivors: set[int] = set()
            for wave in sorted({one.wave for one in ending}, reverse=True):
                survivors |= _end([one for one in ending if one.wave == wave], self._grace_s)
            self._started = [one for one in self._started if one not in ending]
            if not names:
                self._after_stop.close()
        if survivors:
            raise EmbeddedError(f"expected no process left, got {sorted(survivors)} after SIGKILL; look at `ps`")

    def _status(self, name: str) -> str | None:
        """How the latest process of this name ended; None while it runs. `KeyError` if it was never started."""
        return {one.name: one for one in self._started}[name].status

    def _failure(self, name: str, expected: str, got: str) -> EmbeddedError:
        sentence = f"expected {name} {expected}, got {got}; read {self.log(name)}"
        return EmbeddedError("\n".join((sentence, *_last_lines(self.log(name)))))


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports that are free on 127.0.0.1 now; nobody holds them for you."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _identity(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _dies_with(parent: int, signum: signal.Signals) -> Callable[[], None]:
    """What the child runs before the program: ask the kernel for `signum` when the parent dies."""
    prctl = _LIBC.prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)

    return in_child


def _exit_status(process: subprocess.Popen[bytes]) -> str | None:
    """How the process ended, without reaping it: an unreaped number cannot become a stranger's."""
    code = process.returncode
    if code is None:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    return f"exit code {code}" if code >= 0 else f"its end by signal {-code} ({signal.strsignal(-code)})"


def _last_lines(log: Path) -> list[str]:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return []


def _end(ending: Sequence[_Started], grace_s: float) -> set[int]:
    """Signal all, wait, kill what is left of them and of their descendants, reap; the numbers that survived."""
    roots = {one.identity for one in ending}
    family = grow_family(roots, frozenset())
    for one in reversed(ending):
        if one.process.returncode is None:  # else its number may be a stranger's by now
            os.killpg(one.process.pid, one.stop_signal)
    family = wait_gone(roots, family, grace_s)
    if family:
        kill_family(family)
        family = wait_gone(roots, family, _AFTER_KILL_S)
    survivors = {relative.pid for relative in family}
    for one in ending:
        if one.process.pid not in survivors:
            one.process.wait()
    return survivors
