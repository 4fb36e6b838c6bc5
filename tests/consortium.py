"""n banks, a coordinator and a mailbox in memory: the whole protocol without a server. Attacks are spoken through it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bank_node.bank import Bank, Refused
from bank_node.enrol import DEFAULT_POLICY, create_home
from bank_node.local_round import send_update
from bank_node.policy import RefusalReason, read_policy
from bank_node.settings import BankSettings, Home
from mintmark.envelope import generate_sealing_key, generate_signer, load_signer
from mintmark.mailbox import MemoryStore, ObjectStore, plan_key, update_key
from mintmark.messages import ModelArtifact, open_update_frame, update_info
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit, RoundPlan
from mintmark.privacy.ledger import Ledger
from mintmark.roster import Member, rows_band
from mintmark.schema import Feature, FeatureKind, FeatureSchema, Scope
from mintmark.settings import StorageKey
from tasks.aggregation import settle_round
from tasks.collect import wait_for_updates
from tasks.coordinator import Coordinator, CoordinatorSettings, publish_roster
from tasks.dispatch import publish_plan

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
POLICY = DEFAULT_POLICY.replace("smallest_rows = 1000", "smallest_rows = 10")
SCHEMA = FeatureSchema(
    name="tiny",
    features=(
        Feature("amount", FeatureKind.LOG, 1, 1000, Scope.ROW),
        Feature("hour", FeatureKind.INTEGER, 0, 23, Scope.ROW),
        Feature("payments", FeatureKind.INTEGER, 0, 50, Scope.CUSTOMER),
    ),
    label="fraud",
    customer="card",
    bank="bank",
    test="test",
)


def payments(rows: int, seed: int, customers: int = 0, prefix: int = 0) -> dict[str, np.ndarray]:
    """Columns of SCHEMA: fraud is likelier for large amounts at night; some hours are missing."""
    rng = np.random.default_rng(seed)
    amount, hour = rng.lognormal(3, 1.2, rows), rng.integers(0, 24, rows).astype(float)
    risk = 1 / (1 + np.exp(-(-4.5 + 0.9 * np.log(amount) - 3 + 2.5 * (hour < 6))))
    hour[rng.random(rows) < 0.05] = np.nan
    card = prefix + (np.arange(rows) if not customers else rng.integers(0, customers, rows))
    columns = {"amount": amount, "hour": hour, "payments": rng.integers(0, 60, rows).astype(float)}
    test = rng.random(rows) < 0.25
    return columns | {"fraud": (rng.random(rows) < risk).astype(np.int8), "card": card, "test": test}


class Consortium:
    """Banks of `sizes` rows. `store_for(bank)` may wrap the shared store, to play a faulty or hostile one."""

    def __init__(
        self,
        root: Path,
        sizes: tuple[int, ...] = (1500, 900, 600),
        *,
        policy: str = POLICY,
        data: Callable[[int, int], dict[str, np.ndarray]] | None = None,
        schema: FeatureSchema = SCHEMA,
    ) -> None:
        self.store, self.now, self.root, self.schema = MemoryStore(), START, root, schema
        settings = CoordinatorSettings(
            consortium="test",
            storage_endpoint="http://127.0.0.1:1",
            storage_bucket="mailbox",
            prefect_ui="http://127.0.0.1:1",
            mlflow="http://127.0.0.1:1",
        )
        self.coordinator = Coordinator(settings, schema, generate_signer(), generate_sealing_key(), self.store)
        self.columns = {
            f"bank-{number}": data(number, rows) if data else payments(rows, seed=number, prefix=number * 10**6)
            for number, rows in enumerate(sizes)
        }
        self.banks = {name: self._join(name, policy) for name in self.columns}
        members = tuple(
            Member(
                bank=name,
                signing_key=bank.signer.public_key.hex(),
                rows_band=rows_band(len(self.columns[name]["fraud"])),
                valid_from=START - timedelta(days=1),
                valid_until=START + timedelta(days=365),
            )
            for name, bank in self.banks.items()
        )
        self.roster = publish_roster(self.coordinator, members)

    def campaign(
        self,
        *,
        name: str = "cards",
        learner: str = "guided_boosting",
        rounds: int = 3,
        epsilon: float | None = 4.0,
        rule: str = "weighted_mean",
        byzantine: int = 0,
        trim: float = 0.0,
        quorum: int = 3,
        quorum_share: float = 0.0,
        unit: PrivacyUnit = PrivacyUnit.CUSTOMER,
        clip: float = 0.5,
        seed: int = 1,
    ) -> str:
        """Publish the model before the first round; returns its digest."""
        terms = Campaign(
            name=name,
            seed=seed,
            learner=learner,
            schema_digest=self.schema.digest(),
            rounds=rounds,
            privacy=PrivacyTerms(epsilon=epsilon, delta=1e-6, unit=unit, clip=clip),
            aggregation=AggregationTerms(rule=rule, banks=len(self.banks), byzantine=byzantine, trim=trim),
            cohort=tuple(sorted(self.banks)),
            quorum=quorum,
            quorum_share=quorum_share,
        )
        return self.coordinator.publish_model(ModelArtifact(terms))

    def plan(self, model_digest: str, campaign: str = "cards", attempt: int = 0, deadline_s: float = 60.0) -> RoundPlan:
        settled = len(self.coordinator.model(campaign, model_digest).history)
        return publish_plan(self.coordinator, campaign, settled, model_digest, attempt, self.now, deadline_s)

    def answer(
        self, name: str, plan: RoundPlan, *, digest: str | None = None, store: ObjectStore | None = None
    ) -> None:
        """The bank's steps 3 to 7. Raises `Refused`."""
        bank = self.banks[name] if store is None else dataclasses.replace(self.banks[name], store=store)
        key = plan_key(plan.campaign.name, plan.round, plan.attempt)
        with self.ledger(name) as ledger:
            send_update(bank, ledger, key, digest or plan.digest(), self.now)

    def refusal(self, name: str, plan: RoundPlan, **kwargs: str) -> RefusalReason | None:
        """Why the bank refuses, or None when it answered."""
        try:
            self.answer(name, plan, **kwargs)  # type: ignore[arg-type]
        except Refused as refused:
            return refused.reason
        return None

    def sums_sent(self, name: str, plan: RoundPlan) -> bytes:
        """The noised sums that the bank answered a plan with, opened as the coordinator opens them."""
        key = update_key(name, plan.campaign.name, plan.round, plan.attempt)
        message = self.store.get(key, max_bytes=10**6) or b""
        statement, sealed = open_update_frame(message, self.banks[name].signer.public_key, 10**4)
        return self.coordinator.sealing_key.open(sealed, info=update_info(statement))

    def ledger(self, name: str):  # type: ignore[no-untyped-def]
        home = self.banks[name].home
        return Ledger.open(home.ledger, home.anchor)

    def settle(self, plan: RoundPlan) -> str:
        """Close the round with whoever answered by its end; returns the next model's digest."""
        clock = iter([plan.opens_at, plan.closes_at])
        answered = wait_for_updates(self.coordinator, plan, now=lambda: next(clock), pause=lambda _: None)
        return settle_round(self.coordinator, plan, answered, self.now + timedelta(seconds=1))

    def run(self, model_digest: str, rounds: int, campaign: str = "cards") -> str:
        """So many rounds with every bank answering; returns the last model's digest."""
        for _ in range(rounds):
            plan = self.plan(model_digest, campaign)
            for name in self.banks:
                self.answer(name, plan)
            model_digest = self.settle(plan)
            self.now += timedelta(seconds=10)
        return model_digest

    def _join(self, name: str, policy: str) -> Bank:
        path = self.root / name
        settings = BankSettings(
            bank=name,
            coordinator_key=self.coordinator.signer.public_key.hex(),
            storage_endpoint="http://127.0.0.1:1",
            storage_bucket="mailbox",
            prefect_api="http://127.0.0.1:1/api",
        )
        create_home(path, settings, self.schema, StorageKey(access_key="none", secret_key="none"), policy)
        columns = {key: pa.array(value, from_pandas=True) for key, value in self.columns[name].items()}
        pq.write_table(pa.table(columns), path / "data" / "transactions.parquet")
        home = Home(path)
        return Bank(home, read_policy(home.policy), self.schema, load_signer(home.signing_key_uri), self.store)
