"""Processes that are killed without warning and started again, as systemd would: the same command, the same environment."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from infra.embedded.process_tree import Relative, grow_family, kill_family
from infra.embedded.processes import EmbeddedError, ProcessGroup


class Supervisor(ProcessGroup):
    """A process group that remembers how everything was started. Main thread only."""

    def __init__(self, logs: Path) -> None:
        super().__init__(logs)
        self._commands: dict[str, tuple[Sequence[str], dict[str, Any]]] = {}

    @override
    def start(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], **how: Any) -> Any:
        if not how.get("job"):
            self._commands[name] = (argv, {"env": env, **how})
        return super().start(name, argv, env=env, **how)

    def family(self, name: str) -> frozenset[Relative]:
        """The process of this name and all below it."""
        return grow_family({self._root(name)}, frozenset())

    def below(self, name: str) -> frozenset[Relative]:
        """All below the process of this name."""
        return self.family(name) - {self._root(name)}

    def kill(self, name: str) -> None:
        """SIGKILL for it and all below it."""
        kill_family(self.family(name))

    def restart(self, name: str, *, cleanly: bool = False) -> None:
        """Start it again, what is left of it gone; `cleanly` asks it to end first."""
        if cleanly:
            self._send(name, signal.SIGTERM)
        self.stop(name)
        argv, how = self._commands[name]
        self.start(name, argv, **how)

    def revive(self) -> list[str]:
        """Start again whatever has ended by itself; returns the names."""
        dead = [name for name in self._commands if self._known(name) and not self.alive(name)]
        for name in dead:
            self.restart(name)
        return dead

    def _known(self, name: str) -> bool:
        return any(one.name == name for one in self._started)

    def _root(self, name: str) -> Relative:
        for one in reversed(self._started):
            if one.name == name:
                return one.identity
        raise EmbeddedError(f"expected {name} to be started, got no such process")

    def _send(self, name: str, signum: signal.Signals) -> None:
        for one in self._started:
            if one.name == name and one.status is None:
                one.process.send_signal(signum)
                one.process.wait(timeout=30)
