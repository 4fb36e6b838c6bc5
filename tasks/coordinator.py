"""The coordinator's own things: its folder, keys and mailbox. Read once, where a flow's process starts.

coordinator.toml                  where the mailbox, Prefect and MLflow are
schema.toml                       the features the consortium agreed on
promotion.toml, approvers.toml    when a model may become champion, and who approves it (docs/promotion.md)
model_card.toml                   what the evidence pack says of the model's purpose and limits
identity/signing.key, sealing.key the coordinator's keys; identity/storage.toml: its S3 credentials
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mintmark import mailbox
from mintmark.canonical import digest
from mintmark.envelope import (
    SealingKey,
    Signer,
    generate_sealing_key,
    generate_signer,
    load_sealing_key,
    load_signer,
    save_sealing_key,
    save_signer,
)
from mintmark.errors import DataError, ProtocolError
from mintmark.mailbox import ObjectStore
from mintmark.messages import MAX_ARTIFACT_BYTES, ModelArtifact
from mintmark.roster import MAX_ROSTER_BYTES, Member, Roster
from mintmark.s3 import PATIENT_ATTEMPTS, S3Location, S3Store
from mintmark.schema import FeatureSchema, dump_schema, parse_schema
from mintmark.settings import StorageKey, dump_toml, read_toml, write_private
from tasks.shipped import shipped

HOME_VARIABLE = "MINTMARK_COORDINATOR_HOME"


class CoordinatorSettings(BaseModel):
    """The contents of `coordinator.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    consortium: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    storage_endpoint: Annotated[str, Field(pattern=r"^https?://")]
    storage_bucket: str
    prefect_ui: Annotated[str, Field(pattern=r"^https?://")]
    mlflow: Annotated[str, Field(pattern=r"^https?://")]
    alerts_per_day: Annotated[int, Field(ge=1)] | None = None  # that all banks together can look at
    reference: Annotated[str, Field(min_length=1)] | None = None  # a Parquet file, see `tasks/reference.py`


@dataclass(frozen=True)
class Coordinator:
    """What every step works with."""

    settings: CoordinatorSettings
    schema: FeatureSchema
    signer: Signer
    sealing_key: SealingKey
    store: ObjectStore
    reference: Path | None = None

    def roster(self) -> Roster:
        """The newest roster in the mailbox, verified. Raises `ProtocolError` when there is none."""
        versions = self.store.list("public/rosters/")
        if not versions:
            raise ProtocolError("mailbox: expected a signed roster, got none; enrol the banks first")
        return self._read_roster(versions[-1])

    def members(self) -> tuple[Member, ...]:
        """Everybody in the newest roster; nobody when there is none yet."""
        return self.roster().members if self.store.list("public/rosters/") else ()

    def roster_at(self, version: int) -> Roster:
        return self._read_roster(mailbox.roster_key(version))

    def model(self, campaign: str, model_digest: str) -> ModelArtifact:
        """The model of that digest. Raises `ProtocolError` when the mailbox holds another under its name."""
        key = mailbox.model_key(campaign, model_digest)
        encoded = mailbox.get_required(self.store, key, max_bytes=MAX_ARTIFACT_BYTES)
        if digest(encoded) != model_digest:
            raise ProtocolError(f"mailbox: expected the model {model_digest}, got {digest(encoded)}")
        return ModelArtifact.decode(encoded)

    def publish_model(self, artifact: ModelArtifact) -> str:
        """Put the model under its digest, and return that."""
        encoded = artifact.encode()
        name = digest(encoded)
        mailbox.put_same(self.store, mailbox.model_key(artifact.campaign.name, name), encoded)
        return name

    def _read_roster(self, key: str) -> Roster:
        message = mailbox.get_required(self.store, key, max_bytes=MAX_ROSTER_BYTES)
        return Roster.read(message, self.signer.public_key)


def create_home(home: Path, settings: CoordinatorSettings, schema: FeatureSchema, storage_key: StorageKey) -> None:
    """Make the coordinator's folder with new keys. Raises `DataError` if it holds anything."""
    if home.exists() and any(home.iterdir()):
        raise DataError(f"{home}: expected a new folder, got one that holds files; a key is never overwritten")
    (home / "identity").mkdir(mode=0o700, parents=True)
    save_signer(generate_signer(), home / "identity" / "signing.key")
    save_sealing_key(generate_sealing_key(), home / "identity" / "sealing.key")
    write_private(home / "identity" / "storage.toml", dump_toml(storage_key))
    (home / "coordinator.toml").write_text(dump_toml(settings))
    (home / "schema.toml").write_text(dump_schema(schema))
    for name in ("promotion.toml", "approvers.toml", "model_card.toml"):
        (home / name).write_text(shipped(name).read_text())


def publish_roster(coordinator: Coordinator, members: tuple[Member, ...]) -> Roster:
    """Sign and publish the next version of the roster."""
    version = len(coordinator.store.list("public/rosters/")) + 1
    roster = Roster(version=version, sealing_key=coordinator.sealing_key.public_key.hex(), members=members)
    mailbox.put_same(coordinator.store, mailbox.roster_key(version), roster.signed(coordinator.signer))
    return roster


@lru_cache(maxsize=1)
def open_coordinator(home: Path) -> Coordinator:
    """Read the folder, and make the store prove that it is write-once before anything is trusted to it."""
    settings = read_toml(home / "coordinator.toml", CoordinatorSettings)
    key = read_toml(home / "identity" / "storage.toml", StorageKey)
    where = S3Location(settings.storage_endpoint, settings.storage_bucket, key.access_key, key.secret_key)
    reference = home / settings.reference if settings.reference else None
    if reference is not None and not reference.is_file():  # better said before a campaign than after it
        raise DataError(f"coordinator.toml: expected the reference set at {reference}, got no such file: put it there")
    store = S3Store(where, PATIENT_ATTEMPTS)
    mailbox.prove_write_once(store, f"public/proofs/{time.time_ns():020d}")
    return Coordinator(
        settings=settings,
        schema=parse_schema((home / "schema.toml").read_text()),
        signer=load_signer(f"file:{home / 'identity' / 'signing.key'}"),
        sealing_key=load_sealing_key(f"file:{home / 'identity' / 'sealing.key'}"),
        store=store,
        reference=reference,
    )


def home_from(environ: dict[str, str]) -> Path:
    """The coordinator's folder, from the environment of a starting process. Raises `DataError` when it is not named."""
    try:
        return Path(environ[HOME_VARIABLE])
    except KeyError:
        raise DataError(f"expected {HOME_VARIABLE} to name the coordinator's folder, got nothing") from None
