"""Process groups, with tiny children: nothing outlives them, whenever the interrupt comes.

A `Witness` is a FIFO the children hold open: what they write says how far they are, and its end says that the last
of them has ended, grandchildren included, without asking the code under test.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest

from infra.embedded import interrupts, process_tree, processes
from infra.embedded.processes import EmbeddedError, Interrupted, ProcessGroup, free_ports, interruptible, uninterrupted

PATIENCE_S = 60.0
ENV = {"PATH": os.environ["PATH"]}
OPEN = "import os, signal, sys\nfd = os.open(sys.argv[1], os.O_WRONLY)\n"
SAY = "os.write(fd, sys.argv[2].encode())\n"
PAUSE = "while True: signal.pause()\n"
QUIET = OPEN + SAY + PAUSE
# Says its letter when it is asked to end.
POLITE = (
    OPEN
    + "def end(*_):\n    "
    + SAY
    + "    os._exit(0)\nsignal.signal(signal.SIGTERM, end)\nos.write(fd, b'.')\n"
    + PAUSE
)
STUBBORN = OPEN + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\n" + SAY + PAUSE
# Like PostgreSQL's backends: a stubborn child in a session of its own.
OWN_SESSION = OPEN + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nif not os.fork(): os.setsid()\n" + SAY + PAUSE
LEAVES_ORPHAN = OPEN + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nif os.fork(): os._exit(3)\n" + SAY + PAUSE


class Witness:
    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def program(self, code: str, letter: str = "x") -> list[str]:
        return [sys.executable, "-S", "-c", code, str(self.path), letter]

    def hear(self, count: int) -> str:
        """Wait until the children have written so many letters; fewer if all have ended."""
        heard = ""
        while len(heard) < count:
            assert self._poll.poll(PATIENCE_S * 1000), f"expected {count} letters, got {heard!r}"
            letters = os.read(self._fd, count - len(heard))
            if not letters:
                break
            heard += letters.decode()
        return heard

    def all_ended(self) -> bool:
        """Whether nobody holds the FIFO now; what was written and not heard is dropped."""
        try:
            while os.read(self._fd, 1024):
                pass
        except BlockingIOError:
            return False
        return True

    def wait_all_ended(self) -> None:
        while self.hear(1):
            pass


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal() -> Iterator[None]:
    """A test runner may have been started with some ignored, and its children would inherit that."""
    standard: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    earlier = {signum: signal.signal(signum, handler) for signum, handler in standard.items()}
    yield
    for signum, handler in earlier.items():
        signal.signal(signum, handler)


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path / "witness")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[ProcessGroup]:
    with ProcessGroup(tmp_path / "logs", grace_s=0.1) as group:
        yield group


def shell(code: str) -> list[str]:
    return ["sh", "-c", code]


def test_start_gives_what_it_says(group: ProcessGroup, tmp_path: Path) -> None:
    """A process gets exactly the given environment and folder, no input, and its whole output goes to its log."""
    group.start("one", shell('cat; pwd; echo "$A-$HOME"; echo err >&2'), env={**ENV, "A": "a"}, cwd=tmp_path, job=True)
    group.finish("one", PATIENCE_S)
    assert group.log("one").read_text() == f"{tmp_path}\na-\nerr\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_start_as_another_user(group: ProcessGroup) -> None:
    """Root's powers are dropped entirely: user, group and the further groups."""
    group.start("id", shell("id -u; id -G"), env=ENV, user="nobody", job=True)
    group.finish("id", PATIENCE_S)
    assert "0" not in group.log("id").read_text().split()


@pytest.mark.parametrize("code", [QUIET, STUBBORN, OWN_SESSION], ids=["quiet", "stubborn", "own-session"])
def test_stop_leaves_nobody(group: ProcessGroup, witness: Witness, code: str) -> None:
    """After `stop` a process and its child are gone, also when they ignore SIGTERM or left the session."""
    group.start("one", witness.program(code), env=ENV)
    assert witness.hear(1 if code is QUIET else 2)
    group.stop()
    assert witness.all_ended()
    assert not group.alive("one")
    group.stop()


def test_stop_ends_what_a_dead_process_left(group: ProcessGroup, witness: Witness) -> None:
    """A child that outlived its parent is ended too."""
    group.start("one", witness.program(LEAVES_ORPHAN), env=ENV)
    assert witness.hear(1) == "x"
    group.stop("one")
    assert witness.all_ended()


def test_stop_spares_the_others(group: ProcessGroup, witness: Witness, tmp_path: Path) -> None:
    """Stopping one by name leaves the rest alone, and its name can be used again."""
    other = Witness(tmp_path / "other")
    group.start("one", witness.program(QUIET), env=ENV)
    group.start("two", other.program(QUIET), env=ENV)
    assert witness.hear(1) + other.hear(1) == "xx"
    group.stop("one")
    assert witness.all_ended() and not other.all_ended()
    assert group.alive("two") and group.first_dead() is None
    again = Witness(tmp_path / "again")
    group.start("one", again.program(QUIET), env=ENV)
    assert again.hear(1) == "x"


def test_stop_in_waves(group: ProcessGroup, witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was ready before others started ends after them."""
    monkeypatch.setattr(group, "_grace_s", PATIENCE_S)
    for letter in "abc":
        group.start(letter, witness.program(POLITE, letter), env=ENV)
        group.wait_ready(letter, lambda: witness.hear(1) == ".", PATIENCE_S)
    group.stop()
    assert witness.hear(3) == "cba"


def test_reaped_number_is_not_signalled(group: ProcessGroup) -> None:
    """A process its caller waited for is not signalled: its number may belong to a stranger by then."""
    process = group.start("job", shell("exit 0"), env=ENV, job=True)
    assert process.wait(PATIENCE_S) == 0
    stranger = process_tree.Relative(os.getpid(), process_tree.identify(os.getpid()).born + 1)
    assert process_tree.grow_family({stranger}, frozenset()) == frozenset()
    group.stop()


def test_wait_ready_reports_an_early_end(group: ProcessGroup) -> None:
    """A server that ends before it is ready is named, with how it ended, its log and the last lines."""
    group.start("store", shell("echo port taken; exit 7"), env=ENV)
    with pytest.raises(EmbeddedError, match=r"expected store to be ready .*, got exit code 7; read .*store\.log\nport"):
        group.wait_ready("store", lambda: False, PATIENCE_S)


def test_wait_ready_reports_silence(group: ProcessGroup, witness: Witness) -> None:
    """A server that does not answer in time is named with the time it had."""
    group.start("store", witness.program(QUIET), env=ENV)
    with pytest.raises(EmbeddedError, match=r"expected store to be ready within 0 s, got no answer"):
        group.wait_ready("store", lambda: False, 0)


def test_wait_all_ready_tells_in_order(group: ProcessGroup) -> None:
    """Servers are reported in the order in which they become ready."""
    answers = {"slow": iter([False, False, True]), "quick": iter([True])}
    probes: dict[str, Callable[[], bool]] = {name: answer.__next__ for name, answer in answers.items()}
    for name in probes:
        group.start(name, ["sleep", "600"], env=ENV)
    ready: list[str] = []
    group.wait_all_ready(probes, PATIENCE_S, ready.append)
    assert ready == ["quick", "slow"]


def test_finish_wants_success(group: ProcessGroup) -> None:
    """A job that fails, or does not end in time, is an error, and is gone afterwards."""
    group.start("job", shell("kill -9 $$"), env=ENV, job=True)
    with pytest.raises(EmbeddedError, match=r"got its end by signal 9 \(Killed\)"):
        group.finish("job", PATIENCE_S)
    group.start("job", ["sleep", "600"], env=ENV, job=True)
    with pytest.raises(EmbeddedError, match="got no end"):
        group.finish("job", 0)
    assert not group.alive("job")


def test_first_dead(group: ProcessGroup) -> None:
    """A server that ends is dead, however it ends; a job is dead only if it fails."""
    for name, code, job in [("good", 0, True), ("server", 0, False), ("bad", 1, True)]:
        group.start(name, shell(f"exit {code}"), env=ENV, job=job)
        group._started[-1].process.wait(PATIENCE_S)
    assert group.first_dead() == "server"
    with pytest.raises(EmbeddedError, match="expected server to be running, got exit code 0"):
        group.check()
    group.stop("server")
    assert group.first_dead() == "bad"
    group.stop("bad")
    group.check()


def test_start_refuses(group: ProcessGroup) -> None:
    """A missing program is an `EmbeddedError`; a running name and another thread are mistakes of ours."""
    with pytest.raises(EmbeddedError, match="expected to run /no/such/program, got"):
        group.start("one", ["/no/such/program"], env=ENV)
    group.start("one", ["sleep", "600"], env=ENV)
    with pytest.raises(ValueError, match="expected a name that is free, got 'one'"):
        group.start("one", ["sleep", "600"], env=ENV)
    caught: list[type[BaseException]] = []

    def elsewhere() -> None:
        try:
            group.start("two", ["sleep", "600"], env=ENV)
        except RuntimeError as error:
            caught.append(type(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert caught == [RuntimeError]


def test_scratch_goes_with_the_group(group: ProcessGroup) -> None:
    """A scratch directory is private, and removed by `stop` with all that is in it."""
    path = group.scratch()
    (path / "file").write_text("x")
    assert path.stat().st_mode & 0o777 == 0o700
    group.stop()
    assert not path.exists()


def test_free_ports_differ() -> None:
    """Several ports asked for at once are different, and each can be taken."""
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as one:
            one.bind(("127.0.0.1", port))


# --- interrupts -----------------------------------------------------------------------------------------------------

TRACED = {"interruptible", "uninterrupted", "start", "stop", "__exit__", "_end"}


class RaiseAt:
    """A trace function that sends this process a signal at the `n`-th line of the traced functions; -1: at every one."""

    def __init__(self, n: int, signum: signal.Signals = signal.SIGINT) -> None:
        self.n, self.signum, self.lines = n, signum, 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        ours = frame.f_code.co_filename in (interrupts.__file__, processes.__file__)
        if not ours or frame.f_code.co_name not in TRACED:
            return None
        if event in ("line", "call"):
            self.lines += 1
            if self.n in (-1, self.lines):
                signal.raise_signal(self.signum)
        return self


def traced(tracer: RaiseAt, action: Callable[[], object]) -> None:
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        action()
    finally:
        sys.settrace(before)


def sleepers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.name() == "sleep"]


def test_interrupt_at_any_line_of_a_start(tmp_path: Path) -> None:
    """Wherever in a start or a stop the interrupt comes, it is raised, and no process is left."""

    def life() -> None:
        with interruptible(), ProcessGroup(tmp_path / "logs") as group:
            group.start("one", ["sleep", "600"], env=ENV)

    handler, n, raised = signal.getsignal(signal.SIGINT), 0, True
    while raised:
        n += 1
        tracer = RaiseAt(n)
        try:
            traced(tracer, life)
            raised = False
        except KeyboardInterrupt:
            pass
        assert raised == (tracer.lines >= n), f"line event {n} of {tracer.lines}"
        assert sleepers() == [], f"interrupted at line event {n}"
        assert signal.getsignal(signal.SIGINT) == handler
        assert interrupts._signals.holders == 0
    assert n > 60  # lines that were tried


def test_interrupts_all_through_a_stop(tmp_path: Path, witness: Witness) -> None:
    """Signals at every single line of the stop neither break it nor are lost: it completes, then one is raised."""
    group = ProcessGroup(tmp_path / "logs", grace_s=0.1)
    group.start("one", witness.program(STUBBORN), env=ENV)
    assert witness.hear(2) == "xx"
    path = group.scratch()
    with pytest.raises(Interrupted) as caught, interruptible():
        traced(RaiseAt(-1, signal.SIGHUP), group.stop)
    assert caught.value.signum == signal.SIGHUP
    assert witness.all_ended() and not path.exists()


def test_uninterrupted_raises_when_it_ends() -> None:
    """A signal within the block is raised at its end, at the outermost one if they are nested."""
    steps = []

    def nested() -> None:
        with interruptible(), uninterrupted():
            with uninterrupted():
                signal.raise_signal(signal.SIGTERM)
                steps.append("inner")
            steps.append("outer")

    with pytest.raises(Interrupted, match="SIGTERM"):
        nested()
    assert steps == ["inner", "outer"]


def test_ignored_signals_stay_ignored() -> None:
    """What `nohup` ignored stays ignored, and the earlier handlers come back."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


DEMO = """
import sys
from pathlib import Path
from infra.embedded.processes import ProcessGroup, interruptible
with interruptible(), ProcessGroup(Path(sys.argv[1]), grace_s=0.1) as group:
    for name in ("one", "two"):
        group.start(name, sys.argv[2:], env={})
    group.wait_ready("one", lambda: False, 600)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_end_of_the_demo_ends_its_children(tmp_path: Path, witness: Witness, signum: signal.Signals) -> None:
    """However the demo is ended, by SIGKILL too, its processes end with it."""
    demo = subprocess.Popen(
        [sys.executable, "-c", DEMO, str(tmp_path / "logs"), *witness.program(QUIET)],
        cwd=Path(__file__).parent.parent,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert witness.hear(2) == "xx"
        demo.send_signal(signum)
        demo.wait(PATIENCE_S)
        if signum != signal.SIGKILL:
            assert witness.all_ended()
        witness.wait_all_ended()
    finally:
        demo.kill()
        demo.wait()
