"""A whole consortium on one machine: servers, a coordinator, and a folder, a key, S3 credentials and a worker a bank.

Nothing here is special to the demonstration but the place: the bank's worker, the flows and the protocol are those of a
real consortium. Everything lives under one directory and listens on 127.0.0.1 or on a socket only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bank_node import enrol
from bank_node.settings import BankSettings
from infra.embedded.attacker import worker_command
from infra.embedded.dataset import write_bank_files
from infra.embedded.object_storage import Credentials, create_user
from infra.embedded.processes import ProcessGroup
from infra.embedded.servers import Endpoints, start_servers
from mintmark import mailbox
from mintmark.envelope import load_signer
from mintmark.roster import Member, rows_band
from mintmark.schema import FeatureSchema, dump_schema
from mintmark.settings import StorageKey
from mintmark.table import Columns
from tasks import coordinator as coordinator_home
from tasks.coordinator import HOME_VARIABLE, Coordinator, CoordinatorSettings, open_coordinator

BUCKET = "mintmark"
POLL_S = 0.25
POLLS_PER_S = 20.0
"""How often all banks together ask the one server at most: a poll costs it 5 ms of a core."""
VALID_FOR = timedelta(days=365)

POLICY = """\
learners = ["guided_boosting", "logistic_regression"]
units = ["customer", "transaction"]
smallest_cohort = {smallest_cohort}
smallest_rows = 1
smallest_customers = 1
state_budget = true
[budget]
delta = 1e-6
epsilon_per_round = {epsilon}
epsilon_per_campaign = {epsilon}
epsilon_per_year = {epsilon_per_year}
"""


class EmbeddedConsortium:
    """Start with `start`; end by stopping the process group it was given."""

    def __init__(
        self,
        group: ProcessGroup,
        state: Path,
        schema: FeatureSchema,
        banks: Mapping[str, Columns],
        epsilon: float,
        attacks: Mapping[str, str] | None = None,
    ) -> None:
        """`attacks` names, for each bank that lies, what it does (`infra.embedded.attacker`)."""
        self.attacks = attacks or {}
        self._group, self.state, self.schema = group, state, schema
        self.banks = tuple(sorted(banks))
        self._epsilon = epsilon
        self._training_rows = {bank: int((~columns[schema.test].astype(bool)).sum()) for bank, columns in banks.items()}
        self._files = write_bank_files(banks, schema, state / "data")
        self.schema_file = state / "schema.toml"
        self.schema_file.write_text(dump_schema(schema))

    def bank_home(self, bank: str) -> Path:
        return self.state / "banks" / bank

    @property
    def coordinator_home(self) -> Path:
        return self.state / "coordinator"

    def start(
        self, environment: Mapping[str, str], say: Callable[[str], None], *, postgresql: bool = True
    ) -> tuple[Endpoints, Coordinator]:
        """Servers, folders, roster, deployments, workers. Returns when campaigns can be started."""
        root = Credentials.random()
        endpoints = start_servers(
            self._group,
            self.state,
            bucket=BUCKET,
            storage_root=root,
            on_ready=say,
            base_env=environment,
            postgresql=postgresql,
        )
        from flows.deployments import COORDINATOR_POOL, deploy  # after the servers: Prefect takes a second to load

        # First of all, because a campaign waits for it: its worker, and then each flow run, load Prefect anew.
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", COORDINATOR_POOL, "--type", "process"]
        own = {HOME_VARIABLE: str(self.coordinator_home), "PREFECT_API_URL": endpoints.prefect_api}
        self._group.start("coordinator", command, env={**environment, **own, "PREFECT_WORKER_QUERY_SECONDS": "2"})
        coordinator = self._make_folders(endpoints, root)
        for bank in self.banks:
            self._group.start(bank, self.worker_command(bank), env=environment)
        deploy(endpoints.prefect_api, self.banks)
        say(f"{len(self.banks)} banks and the coordinator")
        return endpoints, coordinator

    def worker_command(self, bank: str) -> list[str]:
        """What starts a bank's worker."""
        if bank in self.attacks:
            return worker_command(self.attacks[bank], self.bank_home(bank))
        return [sys.executable, "-m", "bank_node.cli", "work", "--home", str(self.bank_home(bank))]

    def endpoints_for(self, party: str, endpoints: Endpoints) -> Endpoints:
        """Where the coordinator or a bank finds the servers."""
        return endpoints

    def _make_folders(self, endpoints: Endpoints, root: Credentials) -> Coordinator:
        """The coordinator's and every bank's folder, with S3 users that reach their own prefix only, and the roster."""
        settings = CoordinatorSettings(
            consortium="demo",
            storage_endpoint=self.endpoints_for("coordinator", endpoints).s3,
            storage_bucket=BUCKET,
            prefect_ui=endpoints.prefect_ui,
            mlflow=endpoints.mlflow,
        )
        user = create_user(
            endpoints.s3, root, "coordinator", BUCKET,
            read_prefixes=("public/", "from/"), write_prefixes=("public/",), list_prefixes=("public/", "from/"),
        )  # fmt: skip
        coordinator_home.create_home(self.coordinator_home, settings, self.schema, _storage_key(user))
        signing_key = load_signer(f"file:{self.coordinator_home / 'identity' / 'signing.key'}").public_key.hex()
        now = datetime.now(UTC)
        members = []
        for bank in self.banks:
            card = self._make_bank(endpoints, root, bank, signing_key)
            members.append(
                Member(
                    bank=bank,
                    signing_key=card.signing_key,
                    rows_band=rows_band(self._training_rows[bank]),
                    valid_from=now - timedelta(minutes=1),
                    valid_until=now + VALID_FOR,
                )
            )
        coordinator = open_coordinator(self.coordinator_home)
        coordinator_home.publish_roster(coordinator, tuple(members))
        return coordinator

    def _make_bank(
        self, endpoints: Endpoints, root: Credentials, bank: str, coordinator_key: str
    ) -> enrol.EnrolmentCard:
        own = mailbox.bank_prefix(bank)
        user = create_user(
            endpoints.s3, root, bank, BUCKET,
            read_prefixes=("public/", own), write_prefixes=(own,), list_prefixes=("public/", own),
        )  # fmt: skip
        seen = self.endpoints_for(bank, endpoints)
        settings = BankSettings(
            bank=bank,
            coordinator_key=coordinator_key,
            storage_endpoint=seen.s3,
            storage_bucket=BUCKET,
            prefect_api=seen.prefect_api,
            poll_s=max(POLL_S, len(self.banks) / POLLS_PER_S),
        )
        policy = POLICY.format(
            smallest_cohort=min(3, len(self.banks)), epsilon=self._epsilon, epsilon_per_year=3 * self._epsilon
        )
        card = enrol.create_home(self.bank_home(bank), settings, self.schema, _storage_key(user), policy)
        self._files[bank].rename(self.bank_home(bank) / settings.data)
        return card


def _storage_key(user: Credentials) -> StorageKey:
    return StorageKey(access_key=user.access_key, secret_key=user.secret_key)
