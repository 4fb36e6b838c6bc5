"""A bank's worker and a Prefect server in hostile hands: nothing but the bank's own function runs, called with two strings.

Every attack leaves a canary file if it works. `test_the_canaries_sing_on_a_stock_worker` plays them on Prefect's own
process worker, where they do.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import InfrastructureNotFound
from prefect.utilities.dispatch import lookup_type
from prefect.workers.base import BaseWorker
from pydantic import ValidationError
from worker_stage import (
    DIGEST,
    ROOT,
    SENT,
    Answers,
    BankProcess,
    PrefectServer,
    clean_environment,
    end_bank,
    honest,
    plan_key,
    start_bank,
    the_server,
)

from bank_node import bell
from bank_node.child import PlanParameters
from bank_node.worker import BankJobConfiguration, BankWorker
from mintmark.errors import ProtocolError

OPEN_TEMPLATE = {
    "job_configuration": {"command": "{{ command }}", "env": "{{ env }}"},
    "variables": {"properties": {"command": {"type": "string"}, "env": {"type": "object"}}},
}
MODULE = "canary_of_a_state"


@dataclass(frozen=True)
class Attack:
    """What a hostile server sets; `parameters` are the attacker's own."""

    deployment: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    template: dict[str, Any] = field(default_factory=lambda: OPEN_TEMPLATE)
    parameters: dict[str, Any] = field(default_factory=dict)


def _environment(canary: Path) -> dict[str, Any]:
    folder = canary.parent / "path"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(f"open({str(canary)!r}, 'w').close()")
    return {"env": {"PYTHONPATH": str(folder)}}


class _Bomb:
    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._canary}",)


def _pickled(canary: Path) -> str:
    stored = canary.parent / "result.pickle"
    stored.write_bytes(pickle.dumps(_Bomb(canary)))
    return str(stored)


COMMAND_ATTACKS: dict[str, Callable[[Path], Attack]] = {
    "the deployment's command": lambda canary: Attack({"job_variables": {"command": f"touch {canary}"}}),
    "the run's command": lambda canary: Attack(run={"job_variables": {"command": f"touch {canary}"}}),
    "the deployment's environment": lambda canary: Attack({"job_variables": _environment(canary)}),
    "the pool's template": lambda canary: Attack(
        template={"job_configuration": {"command": f"touch {canary}"}, "variables": {"properties": {}}}
    ),
}
# These sing on a stock worker too, each after the five seconds in which Prefect's engine starts.
ENGINE_ATTACKS: dict[str, Callable[[Path], Attack]] = {
    "a shell script as pull step": lambda canary: Attack(
        {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": f"touch {canary}"}}]}
    ),
    "any function as pull step": lambda canary: Attack(
        {"pull_steps": [{"subprocess.getoutput": {"cmd": f"touch {canary}"}}]}
    ),
    "any function as entrypoint": lambda canary: Attack(
        {"entrypoint": "subprocess.getoutput"}, parameters={"cmd": f"touch {canary}"}
    ),
}
STATE_ATTACKS: dict[str, Callable[[Path], Attack]] = {
    "a state that names a module": lambda canary: Attack(
        data={"storage_key": "k", "serializer": {"type": "pickle", "picklelib": MODULE}}
    ),
    "a result stored as a pickle": lambda canary: Attack(
        data={"storage_key": _pickled(canary), "serializer": {"type": "pickle"}}
    ),
    "a state that names a class": lambda canary: Attack(
        data={"__class__": "subprocess.Popen", "data": {"args": ["touch", str(canary)]}}
    ),
}
PARAMETER_ATTACKS: dict[str, Callable[[Path], Attack]] = {
    "one parameter more": lambda canary: Attack(parameters=honest() | {"command": f"touch {canary}"}),
    "a block in a parameter": lambda canary: Attack(
        parameters=honest() | {"plan_digest": {"$ref": {"block_document_id": str(uuid4())}}}
    ),
    "a class in a parameter": lambda canary: Attack(
        parameters=honest() | {"plan_key": {"__class__": "subprocess.Popen", "data": {"args": ["touch", str(canary)]}}}
    ),
    "a path out of the campaigns": lambda canary: Attack(
        parameters=honest() | {"plan_key": f"public/campaigns/../../{canary}"}
    ),
    "a name that writes log lines": lambda canary: Attack(run={"name": "x\nERROR forged \x1b[2J"}),
}
ATTACKS = COMMAND_ATTACKS | ENGINE_ATTACKS | STATE_ATTACKS | PARAMETER_ATTACKS


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> PrefectServer:
    """The session's Prefect server."""
    return the_server(pytestconfig, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def importable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module that leaves a canary beside it when it is imported."""
    folder = tmp_path_factory.mktemp("importable")
    leave = f"open({str(folder / 'canary')!r}, 'w').close()\n"
    (folder / f"{MODULE}.py").write_text(f"{leave}def dumps(*_): ...\ndef loads(*_): ...\n")
    return folder


@pytest.fixture(scope="module")
def bank(server: PrefectServer, importable: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BankProcess]:
    """A worker that serves the pool `attacked`, and could import what the attacks name."""
    server.create_pool("attacked")
    home = tmp_path_factory.mktemp("bank")
    started = start_bank(server, "attacked", home, PYTHONPATH=os.pathsep.join((str(ROOT), str(importable))))
    yield started
    end_bank(started)


def play(server: PrefectServer, pool: str, attack: Attack, parameters: dict[str, Any]) -> str:
    """Rewrite the pool's template, deploy and ring as the attack says; the run's id."""
    server.call("PATCH", f"/work_pools/{pool}", {"base_job_template": attack.template})
    return server.ring(pool, parameters, attack.deployment, attack.run, attack.data)


@pytest.mark.servers
def test_the_canaries_sing_on_a_stock_worker(server: PrefectServer, tmp_path: Path) -> None:
    """The attacks by command, environment and template run their code in Prefect's own process worker."""
    pools = {True: "stock", False: "stock-rewritten"}
    for pool in pools.values():
        server.create_pool(pool, kind="process")
    canaries = []
    for number, attack in enumerate(COMMAND_ATTACKS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        canaries.append(folder / "canary")
        played = attack(canaries[-1])
        play(server, pools[played.template is OPEN_TEMPLATE], played, played.parameters)
    environment = clean_environment(tmp_path, PREFECT_API_URL=server.url)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--run-once", "--pool"]
    workers = [subprocess.Popen([*command, pool], env=environment, cwd=tmp_path) for pool in pools.values()]
    for worker in workers:
        worker.wait()
    assert [canary for canary in canaries if not canary.exists()] == []


@pytest.mark.servers
def test_a_state_sings_when_prefect_parses_it(
    server: PrefectServer, importable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's own client imports the module that a run's state names, as soon as it parses the run."""
    server.create_pool("parsed")
    run_id = play(server, "parsed", STATE_ATTACKS["a state that names a module"](tmp_path / "canary"), {})
    monkeypatch.syspath_prepend(importable)
    FlowRun.model_validate(server.call("GET", f"/flow_runs/{run_id}"))
    (importable / "canary").unlink()


@pytest.mark.servers
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_runs_nothing_and_the_bank_goes_on(
    name: str, server: PrefectServer, bank: BankProcess, importable: Path, tmp_path: Path
) -> None:
    """An attacker's run is refused unread; the same attack around honest parameters is an honest run and no more."""
    attack = ATTACKS[name](tmp_path / "canary")
    before = len(bank.calls())

    refused = server.final(play(server, "attacked", attack, attack.parameters))
    served = server.final(play(server, "attacked", attack, honest()))

    assert refused == ("FAILED", "Refused", "Refused: bad_parameters")
    assert served == ("COMPLETED", "Completed", "Update sent")
    (call,) = bank.calls()[before:]
    assert (call["key"], call["digest"], call["home"]) == (plan_key(SENT), DIGEST, str(bank.home))
    assert not (tmp_path / "canary").exists()
    assert not (importable / "canary").exists()
    assert bank.process.poll() is None
    assert "forged" not in bank.log()
    assert "Traceback" not in bank.log()


@pytest.mark.parametrize(
    "wrong",
    [
        {"plan_key": "public/campaigns/cards-7/plans/0001-00\n"},
        {"plan_key": "public/campaigns/../plans/0001-00"},
        {"plan_key": "public/campaigns/Cards/plans/0001-00"},
        {"plan_key": "public/campaigns/" + "c" * 41 + "/plans/0001-00"},
        {"plan_key": "public/campaigns/cards-7/plans/٠٠٠١-٠٠"},
        {"plan_key": ["public/campaigns/cards-7/plans/0001-00"]},
        {"plan_digest": DIGEST.upper()},
        {"plan_digest": DIGEST + "0"},
        {"plan_digest": int("1" * 64)},
        {"plan_digest": None},
        {"home": "/"},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_parameters_out_of_their_patterns_are_refused(wrong: dict[str, Any]) -> None:
    """A plan's key and digest are two strings of one shape each; nothing is converted and nothing more is taken."""
    assert PlanParameters.model_validate(honest())
    with pytest.raises(ValidationError):
        PlanParameters.model_validate(honest() | wrong)


def test_the_job_configuration_is_empty_whatever_is_put_in() -> None:
    """Neither template, values, deployment nor flow reach the configuration, and no client is asked for more."""
    hostile = {"job_configuration": {"command": "touch canary", "env": {"PYTHONPATH": "."}}, "variables": {}}
    built = asyncio.run(BankJobConfiguration.from_template_and_values(hostile, {"command": "touch canary"}))
    resolved = asyncio.run(
        BankJobConfiguration.resolve_for_flow_run(object(), client=None, work_pool=hostile, worker_name="bank")
    )
    resolved.prepare_for_flow_run(object(), hostile, hostile, hostile, "bank", uuid4())
    assert built == resolved == BankJobConfiguration(command=None, env={}, labels={}, name=None)


def test_the_worker_is_known_to_prefect_and_cannot_be_started_by_it() -> None:
    """Prefect finds the type by its entry point; its launcher, which gives no child, cannot build a worker."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "bank_node.worker" in project["entry-points"]["prefect.collections"].values()
    assert lookup_type(BaseWorker, "mintmark-bank").__name__ == BankWorker.__name__
    with pytest.raises(TypeError, match="command"):
        BankWorker("bank")  # type: ignore[call-arg]


def test_a_worker_runs_nothing_ad_hoc_and_kills_only_its_own_child() -> None:
    """Submitting a flow raises, and the number of a process of the bank is not one that the worker would kill."""
    worker = BankWorker("bank", command=["false"], environment={}, note=Path("nowhere"))
    for submit in (worker._submit_adhoc_run, worker._initiate_run):
        with pytest.raises(NotImplementedError):
            asyncio.run(submit(object(), object()))
    with pytest.raises(InfrastructureNotFound):
        asyncio.run(worker.kill_infrastructure(str(os.getpid()), BankJobConfiguration()))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(307, headers={"location": "http://127.0.0.1:1/inside"}), httpx.HTTPStatusError),
        (httpx.Response(200, stream=httpx.ByteStream(b"[" * (bell.MAX_ANSWER_BYTES + 1))), ProtocolError),
        (httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"")), ProtocolError),
        (httpx.Response(200, content=b"[" * 100_000), ValueError),
        (httpx.Response(200, json={"state": {"type": "A LINE\nOF LOG"}}), ValueError),
    ],
    ids=["redirect", "too long", "compressed", "nested without end", "of another shape"],
)
def test_a_strange_answer_ends_in_an_error_after_one_request(answer: httpx.Response, error: type[Exception]) -> None:
    """Redirects are not followed, long and compressed answers not read, and what does not parse is an error."""
    client = Answers(answer)
    with pytest.raises(error):
        asyncio.run(bell.Bell(client, "bank").due())
    assert len(client.asked) == 1
