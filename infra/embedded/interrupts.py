"""Ctrl-C, SIGTERM and SIGHUP as one exception, held back where it would lose something.

Python raises `KeyboardInterrupt` between any two instructions: also between the start of a process and the note of
its number, and in the middle of a clean-up. Here such moments hold the signal, and raise it when they are over.

    with interruptible():
        with uninterrupted():
            made.append(make())
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP came; the exit code by a shell's convention is 128 + `signum`."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


@dataclass
class _Signals:
    """What the handler shares with the code it interrupts. Handlers belong to the whole process, and so does this."""

    holders: int = 0
    pending: int | None = None
    holding_functions: set[CodeType] = field(default_factory=set)

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.holders or self._in_holding_function(frame):
            self.pending = signum
        else:
            raise Interrupted(signum)

    def raise_pending(self) -> None:
        signum, self.pending = self.pending, None
        if signum is not None:
            raise Interrupted(signum)

    def _in_holding_function(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code in self.holding_functions:
                return True
            frame = frame.f_back
        return False


_signals = _Signals()


def held_from_the_call(function: _Function) -> _Function:
    """Mark a clean-up that holds signals from its very call on; what it runs must raise them at its end.

    Without it a signal between the call of an `__exit__` and its first line would skip the clean-up.
    """
    _signals.holding_functions.add(function.__code__)
    return function


@contextmanager
@held_from_the_call
def interruptible() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into `Interrupted`, and restore the earlier handlers at the end.

    A signal that was ignored stays ignored, as `nohup` and the background jobs of a script expect. Main thread only.
    """
    wanted = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)  # SIGINT last: its earlier handler raises at once
    earlier = {signum: signal.getsignal(signum) for signum in wanted if signal.getsignal(signum) != signal.SIG_IGN}
    _signals.pending = None
    try:
        for signum in earlier:
            signal.signal(signum, _signals.on_signal)
        _signals.raise_pending()
        yield
    finally:
        for signum, handler in earlier.items():
            signal.signal(signum, handler)
        _signals.raise_pending()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold `Interrupted` back until the block ends: for the moment between making a thing and noting it down."""
    _signals.holders += 1
    try:
        yield
    finally:
        _signals.holders -= 1
        if not _signals.holders:
            _signals.raise_pending()
