"""The processes of the one-machine consortium: started, watched, and ended to the last grandchild.

A `ProcessGroup` owns what it starts. Leaving its `with` block ends every process and whatever these started
themselves; `interruptible()` makes Ctrl-C, SIGTERM and SIGHUP leave that block at any moment without losing one.
If this process is killed outright, Linux signals its children. Left out: restarting what died, and Windows.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

from mintmark.errors import MintmarkError

_POLL_S = 0.05
_AFTER_KILL_S = 5.0
_LOG_TAIL_BYTES = 4096
_LOG_TAIL_LINES = 12
_PR_SET_PDEATHSIG = 1
_PROC = Path("/proc")
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class EmbeddedError(MintmarkError):
    """A process of the one-machine consortium did not start, died, or would not end."""


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP came; the exit code of a shell's convention is 128 + `signum`."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


@dataclass
class _Signals:
    """What the handler shares with the code it interrupts: a handler belongs to the process, so this does too."""

    held: int = 0
    pending: int | None = None

    def raise_pending(self) -> None:
        signum, self.pending = self.pending, None
        if signum is not None:
            raise Interrupted(signum)


_signals = _Signals()


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into `Interrupted`, and restore the earlier handlers at the end.

    A signal that was ignored stays ignored, as `nohup` and background jobs of a script expect. Main thread only.
    """
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    earlier = {signum: signal.getsignal(signum) for signum in wanted if signal.getsignal(signum) != signal.SIG_IGN}
    try:
        for signum in earlier:
            signal.signal(signum, _on_signal)
        yield
    finally:
        with uninterrupted():
            for signum, handler in earlier.items():
                signal.signal(signum, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold `Interrupted` back until the block ends: for the moment between making a thing and noting it down."""
    _signals.held += 1
    try:
        yield
    finally:
        _signals.held -= 1
        if not _signals.held:
            _signals.raise_pending()


def _on_signal(signum: int, frame: FrameType | None) -> None:
    if _signals.held or _is_stopping(frame):
        _signals.pending = signum
    else:
        raise Interrupted(signum)


def _is_stopping(frame: FrameType | None) -> bool:
    # A counter alone would leave the instant between the call of __exit__ and its first line open.
    while frame is not None:
        if frame.f_code in (ProcessGroup.__exit__.__code__, ProcessGroup.stop.__code__):
            return True
        frame = frame.f_back
    return False


@dataclass(frozen=True)
class _Started:
    name: str
    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals
    wave: int


class ProcessGroup:
    """Every process of the demo, each in a session of its own, with its output in `<logs>/<name>.log`.

    Processes stop in the reverse order of their start: what was started before a successful `wait_ready` stops after
    what was started later; the rest stop together. Each such wave has `grace_s` seconds before SIGKILL.
    """

    def __init__(self, logs: Path, *, grace_s: float = 4.0) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._grace_s = grace_s
        self._started: list[_Started] = []
        self._wave = 0
        self._after_stop = ExitStack()

    def __enter__(self) -> Self:
        return self

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
        stop_signal: signal.Signals = signal.SIGTERM,
        orphan_signal: signal.Signals = signal.SIGTERM,
    ) -> subprocess.Popen[bytes]:
        """Start `argv` with exactly the environment `env`, as `user` if given (root only).

        `stop_signal` asks it to end; `orphan_signal` is what Linux sends it when this process dies without stopping
        it. Only the main thread may start: the kernel takes the end of the starting thread for the parent's.
        Its number is not reused before `stop`, so do not `wait` on the result: ask `alive` or `finish`.
        Raises `EmbeddedError` if the program cannot be run, `ValueError` if the name is running already.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("expected a start from the main thread, got another thread; start processes from main")
        if any(one.name == name and _exit_status(one.process) is None for one in self._started):
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
            self._started.append(_Started(name, process, stop_signal, self._wave))
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
        if status != "exit code 0":
            raise self._failure(name, f"to end with exit code 0 within {timeout_s:g} s", status or "no end")

    def alive(self, name: str) -> bool:
        """Whether `name` was started and has neither ended nor been stopped."""
        return any(one.name == name and _exit_status(one.process) is None for one in self._started)

    def first_dead(self) -> str | None:
        """The name of the first process that ended though nobody stopped it, or None."""
        return next((one.name for one in self._started if _exit_status(one.process) is not None), None)

    def check(self) -> None:
        """Raise `EmbeddedError`, with the last lines of its log, if a process ended though nobody stopped it."""
        if name := self.first_dead():
            raise self._failure(name, "to be running", self._status(name) or "no such process")

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
        by_name = {one.name: one.process for one in self._started}
        return _exit_status(by_name[name])

    def _failure(self, name: str, expected: str, got: str) -> EmbeddedError:
        tail = _tail(self.log(name))
        return EmbeddedError(
            f"expected {name} {expected}, got {got}; its log is {self.log(name)}"
            + (f" and ends with:\n{tail}" if tail else " and is empty")
        )


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


def _dies_with(parent: int, signum: signal.Signals) -> Callable[[], None] | None:
    """What the child runs before the program: ask the kernel for `signum` when the parent dies (Linux only)."""
    if _LIBC is None:
        return None
    prctl = _LIBC.prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)

    return in_child


def _exit_status(process: subprocess.Popen[bytes]) -> str | None:
    """How the process ended, without reaping it: an unreaped number cannot become a stranger's."""
    code = process.returncode
    if code is None and hasattr(os, "waitid"):
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None:
            code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    elif code is None:  # macOS before Python 3.13
        code = process.poll()
    if code is None:
        return None
    return f"exit code {code}" if code >= 0 else f"its end by {signal.Signals(-code).name}"


def _tail(log: Path) -> str:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
    return ""


def _end(ending: Sequence[_Started], grace_s: float) -> set[int]:
    """Signal all, wait, kill what is left of them and of their descendants, reap; the numbers that survived."""
    roots = {one.process.pid for one in ending}
    family = _family(roots, set())
    for one in reversed(ending):
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of zombies
            os.killpg(one.process.pid, one.stop_signal)
    family = _wait_gone(roots, family, grace_s)
    if family:
        _kill(family)
        family = _wait_gone(roots, family, _AFTER_KILL_S)
    for one in ending:
        if one.process.pid not in {pid for pid, _ in family}:
            one.process.wait()
    return {pid for pid, _ in family}
