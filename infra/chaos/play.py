"""Plays a scene: starts its campaign, hits at each step, mends what was hit, and measures until the round is settled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from infra.chaos.consortium import Theatre, policy_parameters
from infra.chaos.matrix import BANK, REQUESTS, Cell, Scene
from infra.chaos.steps import Fault, Held
from infra.chaos.verify import faults_found, late_banks
from infra.embedded.process_tree import kill_family
from mintmark import mailbox
from mintmark.errors import StorageError

POLL_S = 0.2
STEP_S, RECOVERY_S = 120.0, 240.0
ASK_S = 2.0


@dataclass(frozen=True)
class Outcome:
    """What became of a cell; `seconds` from the fault to the next round's plan (or the registration), None: never."""

    cell: str
    outcome: str
    seconds: float | None


class Player:
    """One scene. The faults of a bank hit `bank-b`."""

    def __init__(self, theatre: Theatre, scene: Scene) -> None:
        self._theatre, self._scene, self._campaign = theatre, scene, scene.name
        self._store = theatre.coordinator.store
        self._asked, self._error = 0.0, ""
        self._armed: Cell | None = None
        self._again = False
        self.revived: list[str] = []

    def play(self) -> list[Outcome]:
        """All cells of the scene. What breaks a promise at the end is told of each: they shared the campaign."""
        self._start()
        seconds: dict[Cell, float | None] = {}
        rounds = self._scene.rounds
        order = [(cell, number) for number, cell in enumerate(self._scene.cells) if cell is not None]
        order += [(cell, rounds) for cell in self._scene.finals]
        try:
            for (cell, number), following in zip(order, [*order[1:], None], strict=True):
                if not self._error:
                    seconds[cell] = self._hit(cell, number, following)
            self._wait(self._registered, RECOVERY_S)
        finally:
            self._mend()
        told = self._verdict()
        return [Outcome(cell.name, told, seconds.get(cell)) for cell, _ in order]

    def _start(self) -> None:
        from flows.deployments import start_campaign

        self._await_servers()
        start_campaign(self._theatre.endpoints.prefect_api, self._parameters())

    def _parameters(self) -> dict[str, Any]:
        return dict(policy_parameters(self._campaign, rounds=self._scene.rounds, **self._scene.terms))

    def _await_servers(self) -> None:
        """What was killed at a campaign's very end may not be back yet."""
        servers = ("ministack", "prefect", "mlflow")
        probes = {name: partial(self._theatre.server_answers, name) for name in servers}
        self._theatre.group.wait_all_ready(probes, RECOVERY_S, on_ready=lambda _: None)

    def _verdict(self) -> str:
        self._await_servers()
        finished = self._registered()
        broken = faults_found(self._theatre, self._campaign, finished=finished)
        if broken:
            return "BROKEN: " + "; ".join(broken)
        late = "; ".join(late_banks(self._theatre.coordinator, self._campaign))
        if finished:
            return "same bytes" + (f" ({late})" if late else "")
        return f"error: {self._error}" if self._error else "BROKEN: no end"

    def _hit(self, cell: Cell, number: int, following: tuple[Cell, int] | None) -> float | None:
        """Wait for the step, hit, arm what is `following` before anybody goes on, and wait until the campaign has: until
        the next round is planned, or the step that follows reached."""
        stage = self._theatre.stage
        if self._armed is not cell:
            self._arm(cell, number)
        if not self._wait(lambda: stage.held() is not None or self._registered(), STEP_S) or stage.held() is None:
            stage.disarm()
            return None
        held, at = stage.held(), time.monotonic()
        assert held is not None
        actions: dict[str, Callable[[Cell, Held], None]] = {
            "kill": self._kill,
            "store": self._fail_store,
            "clock": self._skew,
            "cut off": self._cut,
            "twins": self._twin,
        }
        if cell.kind in actions:
            actions[cell.kind](cell, held)
        if following is not None:
            self._arm(*following)
        stage.let_go(held)
        done = self._wait(
            lambda: self._went_on(number) or (following is not None and stage.held() is not None), RECOVERY_S
        )
        self._mend()
        return round(time.monotonic() - at, 1) if done else None

    def _arm(self, cell: Cell, number: int) -> None:
        bank, full = BANK if cell.at_bank else "", cell.kind == "disk"
        self._theatre.stage.arm(Fault(self._campaign, number, cell.step, bank, disk_full=full))
        self._armed = cell

    def _kill(self, cell: Cell, held: Held) -> None:
        group, victim = self._theatre.group, cell.victim
        if victim == "flow":
            pid = self._theatre.stage.noted("flow", self._campaign)
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        elif victim == "child":
            kill_family(group.below(BANK))
        else:
            name = BANK if victim == "worker" else victim
            group.kill(name)
            group.restart(name)

    def _fail_store(self, cell: Cell, held: Held) -> None:
        party, _, mode = cell.victim.partition(" ")
        self._theatre.consortium.proxies[party][0].fail(mode, REQUESTS[mode])  # type: ignore[arg-type]

    def _skew(self, cell: Cell, held: Held) -> None:
        self._theatre.stage.set_clock(cell.victim, cell.seconds)

    def _cut(self, cell: Cell, held: Held) -> None:
        for proxy in self._theatre.consortium.proxies[cell.victim]:
            proxy.fail("refuse")

    def _twin(self, cell: Cell, held: Held) -> None:
        self._start_another()

    def _start_another(self) -> None:
        """Another run of the same campaign, as somebody starts it in the UI."""
        deployment = self._theatre.ask("GET", "/deployments/name/campaign/mintmark")
        body = {"parameters": self._parameters(), "state": {"type": "SCHEDULED"}}
        self._theatre.ask("POST", f"/deployments/{deployment['id']}/create_flow_run", body)

    def _mend(self) -> None:
        for proxies in self._theatre.consortium.proxies.values():
            for proxy in proxies:
                proxy.mend()
        for party in ("coordinator", *self._theatre.banks):
            self._theatre.stage.set_clock(party, 0.0)

    def _wait(self, done: Callable[[], bool], within_s: float) -> bool:
        """Wait until it is done; False when the campaign has failed for good before, or time is up."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if done():
                return True
            self.revived += self._theatre.group.revive()
            if self._failed():
                return done()
            time.sleep(POLL_S)
        return False

    def _went_on(self, number: int) -> bool:
        """Whether the campaign is past this round: the next one is planned, or the model registered."""
        if number == self._scene.rounds:
            return self._registered()
        with suppress(StorageError):
            key = mailbox.plan_key(self._campaign, number + 1, 0)
            return key in self._store.list(key)
        return False

    def _registered(self) -> bool:
        with suppress(StorageError):
            key = mailbox.registration_key(self._campaign)
            return key in self._store.list(key)
        return False

    def _failed(self) -> bool:
        """Whether the campaign's newest run has failed: such a one is not started again."""
        if time.monotonic() - self._asked < ASK_S:
            return bool(self._error)
        self._asked = time.monotonic()
        with suppress(httpx.HTTPError):
            body = {"flows": {"name": {"any_": ["campaign"]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 50}
            runs = [run for run in self._theatre.ask("POST", "/flow_runs/filter", body) if self._ours(run)]
            states = {run["state_type"] for run in runs}
            if runs and states <= {"FAILED", "CRASHED", "CANCELLED"} and runs[0]["state_type"] == "FAILED":
                self._error = str(runs[0]["state"]["message"])
            if runs and runs[0]["state_type"] == "COMPLETED" and not self._again and not self._registered():
                self._again = True  # MLflow was away: as people do, start the campaign again to register its model
                self._start_another()
        return bool(self._error)

    def _ours(self, run: dict[str, object]) -> bool:
        parameters = run["parameters"]
        return isinstance(parameters, dict) and parameters.get("campaign") == self._campaign
