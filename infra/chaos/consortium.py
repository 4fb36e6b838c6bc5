"""The one-machine consortium with hooked processes, and a proxy between every party and every server it talks to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from typing_extensions import override

from bank_node.settings import Home
from infra.chaos import bank
from infra.chaos.proxy import FaultProxy
from infra.chaos.steps import VARIABLE, Stage
from infra.chaos.supervisor import Supervisor
from infra.embedded.consortium import BUCKET, EmbeddedConsortium
from infra.embedded.demo import environment_for
from infra.embedded.servers import Endpoints, answers
from mintmark.s3 import S3Location, S3Store
from mintmark.settings import StorageKey, read_toml
from mintmark.synthetic import simulate
from tasks.coordinator import Coordinator

BANKS, ROWS, SEED = 4, 12_000, 7
EPSILON = 0.3
FLOW = "infra.chaos.flow.run_campaign"


class HookedConsortium(EmbeddedConsortium):
    """Every party has its own proxies, before S3 and before Prefect: `proxies[party]`."""

    def __init__(self, stack: ExitStack, *args: Any) -> None:
        super().__init__(*args)
        self._stack = stack
        self.proxies: dict[str, tuple[FaultProxy, FaultProxy]] = {}

    @override
    def worker_command(self, bank_name: str) -> list[str]:
        return bank.command(self.bank_home(bank_name))

    @override
    def endpoints_for(self, party: str, endpoints: Endpoints) -> Endpoints:
        s3, prefect = (self._stack.enter_context(FaultProxy(url)) for url in (endpoints.s3, endpoints.prefect_ui))
        self.proxies[party] = s3, prefect
        return replace(endpoints, s3=s3.url, prefect_api=f"{prefect.url}/api")


@dataclass(frozen=True)
class Theatre:
    """All that a cell of the matrix works with. `coordinator` reaches the store directly, past any fault."""

    group: Supervisor
    consortium: HookedConsortium
    endpoints: Endpoints
    coordinator: Coordinator
    stage: Stage

    @property
    def banks(self) -> tuple[str, ...]:
        return self.consortium.banks

    def home(self, bank_name: str) -> Home:
        return Home(self.consortium.bank_home(bank_name))

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The Prefect API's answer. Raises `httpx.HTTPError`."""
        response = httpx.request(method, self.endpoints.prefect_api + path, json=body, timeout=20, trust_env=False)
        return response.raise_for_status().json() if response.content else None

    def server_answers(self, name: str) -> bool:
        probes = {
            "ministack": f"{self.endpoints.s3}/_ministack/health",
            "prefect": f"{self.endpoints.prefect_api}/health",
            "mlflow": f"{self.endpoints.mlflow}/health",
        }
        return name not in probes or answers(probes[name])


def open_theatre(stack: ExitStack, state: Path, group: Supervisor, say: Any) -> Theatre:
    """Start everything, with the hooked flow deployed; ends when the stack and the group do."""
    folder = state / "chaos"
    folder.mkdir(parents=True)
    schema, tables = simulate(SEED, banks=BANKS, rows=ROWS)
    consortium = HookedConsortium(stack, group, state, schema, tables, EPSILON)
    environment = environment_for(state) | {VARIABLE: str(folder)}
    endpoints, coordinator = consortium.start(environment, say)
    theatre = Theatre(group, consortium, endpoints, _direct(coordinator, consortium, endpoints), Stage(folder))
    _hook_the_flow(theatre)
    _allow_many_campaigns(theatre)
    _keep_users(theatre, state)
    return theatre


def _direct(coordinator: Coordinator, consortium: HookedConsortium, endpoints: Endpoints) -> Coordinator:
    key = read_toml(consortium.coordinator_home / "identity" / "storage.toml", StorageKey)
    return replace(coordinator, store=S3Store(S3Location(endpoints.s3, BUCKET, key.access_key, key.secret_key)))


def _hook_the_flow(theatre: Theatre) -> None:
    deployment = theatre.ask("GET", "/deployments/name/campaign/mintmark")
    with httpx.Client(base_url=theatre.endpoints.prefect_api, timeout=20, trust_env=False) as client:
        for wait_s in (1.0, 2.0, 4.0, None):  # a server that has just started may answer 503
            response = client.patch(f"/deployments/{deployment['id']}", json={"entrypoint": FLOW})
            if response.status_code != 503 or wait_s is None:
                break
            time.sleep(wait_s)
    response.raise_for_status()


def _allow_many_campaigns(theatre: Theatre) -> None:
    for name in theatre.banks:
        path = theatre.home(name).policy
        lines = path.read_text().splitlines()
        path.write_text("\n".join("epsilon_per_year = 100.0" if "per_year" in line else line for line in lines) + "\n")


def _keep_users(theatre: Theatre, state: Path) -> None:
    """The store writes its users to disk when it ends cleanly, once: real stores have theirs on disk anyway."""
    theatre.group.restart("ministack", cleanly=True)
    for file in (state / "s3-users").iterdir():
        if file.name != "iam.json":
            file.unlink()
    theatre.group.wait_ready("ministack", lambda: theatre.server_answers("ministack"), 60)


def policy_parameters(campaign: str, rounds: int = 3, **terms: Any) -> Mapping[str, Any]:
    """What a campaign of the matrix is started with."""
    expert = {"rule": "weighted_mean", "seed": SEED, "liars": 0, "quorum": BANKS, "deadline_s": 90.0}
    return {"campaign": campaign, "rounds": rounds, "epsilon": EPSILON, "expert": expert | terms}
