"""The job child: a warm process that answers each plan in a fork of itself; and the worker's end of the pipes to it.

`python -m bank_node.child --home DIR` imports the heavy stack ahead of need, which takes seconds, says that it is ready
and reads a plan from stdin. Each plan is answered in a fork, which takes milliseconds to make, holds nothing of an earlier
plan and ends with its answer (docs/adr/0006). Lines are JSON:

    worker -> child   {"plan_key": "public/campaigns/cards/plans/0001-00", "plan_digest": "9f86..."}
    child -> worker   {"event": "ready"}, then for each plan one of
                      {"event": "answered", "status": "sent", "reason": ""}
                      {"event": "answered", "status": "refused", "reason": "over_budget"}
                      {"event": "failed"}
                      and {"event": "ready"} again

The child holds the bank's keys and data, so it knows nothing of Prefect: no import, no variable, no credential. What
libraries print goes to stderr, the bank's own log, and so does every exception: neither has a way into an answer. It
dies with its worker: by the kernel's signal where there is one, else because its stdin ends.

Left out: what answering a plan means (`bank_node.local_round`), when to ring (`bank_node.worker`).

    child = await Child.spawn(child_command(home), child_environment(os.environ))
    verdict = await child.answer(PlanParameters(plan_key=key, plan_digest=digest), timeout_s=3600)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn, TextIO

from pydantic import BaseModel, ConfigDict, Field

MAX_LINE_BYTES = 4096
"""The longest line either end accepts, in bytes."""

END_S = 5.0
"""How long the end of a killed child is awaited; only a process that left its session can keep its pipe open."""

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

NOT_NEEDED = ("sklearn", "pandas", "matplotlib")
"""What LightGBM imports where it finds it, and no bank's job uses: two CPU-seconds and 70 MB a bank."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h

log = logging.getLogger(__name__)


class PlanParameters(BaseModel):
    """All that the coordinator may say to a bank through Prefect: which plan, and its digest."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    plan_key: str = Field(pattern=r"^public/campaigns/[a-z0-9][a-z0-9-]{0,39}/plans/[0-9]{4}-[0-9]{2}$")
    plan_digest: str = Field(pattern=r"^[0-9a-f]{64}$")


class Ready(BaseModel):
    """The child waits for a plan: its imports are done."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    event: Literal["ready"] = "ready"


class Verdict(BaseModel):
    """What became of a plan. Every field is bounded, so that nothing else can travel in it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    event: Literal["answered", "failed"]
    status: Literal["sent", "refused", ""] = ""
    reason: str = Field(default="", pattern=r"^([a-z][a-z0-9_]{0,39})?$")


FAILED = Verdict(event="failed")


def child_command(home: Path) -> tuple[str, ...]:
    """The command line of the child of the bank that lives in `home`."""
    # -P: the folder a bank happens to start in is no place to import from.
    return (sys.executable, "-P", "-m", "bank_node.child", "--home", str(home.resolve()))


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment without Prefect's variables, and with this package importable under -P."""
    kept = {name: value for name, value in environ.items() if not name.startswith("PREFECT")}
    kept.setdefault("OPENBLAS_NUM_THREADS", "1")  # a process with threads is not to be forked
    root = str(Path(__file__).resolve().parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environ.get("PYTHONPATH"))))
    return kept


class Child:
    """The worker's end: a process that answers plans, one at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def spawn(cls, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start a child in a session of its own; it warms itself and waits."""
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            start_new_session=True,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its session and process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.returncode is None

    async def answer(self, plan: PlanParameters, timeout_s: float) -> Verdict:
        """Hand the plan over and wait for the verdict, at most `timeout_s`; without one the child is gone afterwards.

        A child that dies, stalls or talks nonsense is a failed job, never an error of the worker.
        """
        verdict = None
        try:
            async with asyncio.timeout(timeout_s):
                assert self._process.stdin is not None  # a pipe since spawn
                # Left open: its end tells the child that the worker is gone.
                self._process.stdin.write(plan.model_dump_json().encode() + b"\n")
                await self._process.stdin.drain()
                Ready.model_validate_json(await self._line())
                verdict = Verdict.model_validate_json(await self._line())
        except TimeoutError:
            log.error("child %d: expected an answer within %g s, got none", self.pid, timeout_s)
        except (ValueError, OSError) as error:
            log.error("child %d: expected an answer, got %s", self.pid, type(error).__name__)
        finally:
            if verdict is None:
                await self.end()
        return verdict or FAILED

    def kill(self) -> None:
        """Kill the child and all that it started; harmless when it is gone already."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill the child and wait until it is gone. Not while an answer is awaited: that ends the child itself."""
        self.kill()
        assert self._process.stdout is not None  # a pipe since spawn
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                # asyncio sees a process end only once its pipe is read empty.
                while await self._process.stdout.read(MAX_LINE_BYTES):
                    pass
                await self._process.wait()

    async def _line(self) -> bytes:
        assert self._process.stdout is not None  # a pipe since spawn
        return await self._process.stdout.readline()


def main(argv: Sequence[str] | None = None) -> int:
    """Warm up, then answer plans until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m bank_node.child")
    parser.add_argument("--home", type=Path, required=True)
    home: Path = parser.parse_args(argv).home
    logging.basicConfig(format=LOG_FORMAT)
    for name in ("bank_node", "mintmark"):
        logging.getLogger(name).setLevel(logging.INFO)
    _die_with_the_parent()
    orders, answers = _take_the_pipes()

    for name in NOT_NEEDED:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
    _let_numba_write(home)
    from bank_node import local_round  # late: it imports the whole stack

    local_round.warm()
    gc.freeze()  # what is loaded stays shared between the forks
    while True:
        print(Ready().model_dump_json(), file=answers, flush=True)
        if not (line := orders.readline(MAX_LINE_BYTES)):
            return 0
        fork = os.fork()
        if fork == 0:
            _answer_and_exit(home, line, orders, answers)
        _, status = os.waitpid(fork, 0)
        if status:
            log.error("the local job's process ended with status %d", os.waitstatus_to_exitcode(status))
            print(FAILED.model_dump_json(), file=answers, flush=True)


def _let_numba_write(home: Path) -> None:
    """Keep compiled code beside the package's own, or at the bank where the package may not be written."""
    if not os.access(Path(__file__).resolve().parent.parent / "mintmark" / "models", os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(home / "cache" / "numba"))


def _answer_and_exit(home: Path, line: bytes, orders: BinaryIO, answers: TextIO) -> NoReturn:
    """In the fork: answer one plan, say what became of it, end. Nothing of the parent's runs on the way out."""
    code = 1
    try:
        _die_with_the_parent()
        threading.Thread(target=_exit_at_the_end_of, args=(orders,), daemon=True).start()
        print(_verdict(home, line).model_dump_json(), file=answers, flush=True)
        code = 0
    finally:
        os._exit(code)


def _verdict(home: Path, line: bytes) -> Verdict:
    from bank_node import local_round

    try:
        plan = PlanParameters.model_validate_json(line)
        answer = local_round.answer_plan(home, plan.plan_key, plan.plan_digest, datetime.now(UTC))
        fields = {"status": str(answer.status), "reason": str(answer.reason)}
        return Verdict.model_validate({"event": "answered", **fields})
    except Exception:
        log.exception("the local job failed")
        return FAILED


def _take_the_pipes() -> tuple[BinaryIO, TextIO]:
    """Keep stdin and stdout for the protocol; libraries get an empty stdin and the log."""
    orders, answers = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return open(orders, "rb", buffering=0), open(answers, "w", encoding="ascii")


def _die_with_the_parent() -> None:
    """Ask Linux to kill this process when the parent dies, also in the midst of a long computation."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_at_the_end_of(orders: BinaryIO) -> None:
    hangup = select.poll()
    hangup.register(orders, 0)  # takes no byte: it would be the next plan's
    hangup.poll()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
