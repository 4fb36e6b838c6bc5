"""Where everything is at a bank: one folder, one settings file, read once where a process starts.

bank.toml              who this bank is, whom it trusts, where the mailbox and the Prefect API are
policy.toml            what it allows (policy.py); without it nothing leaves
schema.toml            the features the consortium agreed on
identity/signing.key   the bank's own key, never leaves; identity/storage.toml: its S3 credentials
identity/bank.pem      its certificate for the gateway before Prefect, with bank.key and authority.pem (docs/gateway.md)
data/                  its transactions
ledger/, anchor/       what it has spent; put the anchor on another disk
outbox/                what was drawn and sent, so that a retry sends the same bytes
cache/                 coded rows and scores between rounds (cache.py); may be deleted at any time
deployed/              the model that scores transactions, and what was said of it; never leaves (personalise.py)
checks/                what back-tests and drift found; never leaves (backtest.py, serving/drift.py)
champion/              the consortium's champion, kept so that scoring needs no network (serving/champions.py)
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mintmark.agreed import Name
from mintmark.errors import DataError
from mintmark.mailbox import pool_name
from mintmark.roster import PublicKey
from mintmark.s3 import S3Location
from mintmark.settings import StorageKey, read_toml


class BankSettings(BaseModel):
    """The contents of `bank.toml`. Relative paths start at the bank's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bank: Name
    coordinator_key: PublicKey = Field(description="The coordinator's signing key: compare it out of band when joining")
    storage_endpoint: Annotated[str, Field(pattern=r"^https?://")]
    storage_bucket: str
    prefect_api: Annotated[str, Field(pattern=r"^https?://")]
    data: Path = Path("data/transactions.parquet")
    anchor: Path = Path("anchor/ledger.anchor")
    signing_key: str = "file:identity/signing.key"
    poll_s: Annotated[float, Field(ge=0.1, le=600)] = Field(
        1.0, description="How often to ask for the bell, in seconds"
    )
    certificate: Path | None = Field(None, description="Shown to the gateway before the Prefect API (PEM)")
    certificate_key: Path | None = None
    gateway_ca: Path | None = Field(None, description="Who vouches for the gateway; nobody else is believed (PEM)")

    @model_validator(mode="after")
    def _whole_identity(self) -> BankSettings:
        given = [one is not None for one in (self.certificate, self.certificate_key, self.gateway_ca)]
        if any(given) and not all(given):
            raise ValueError("expected certificate, certificate_key and gateway_ca, or none of them")
        if any(given) and not self.prefect_api.startswith("https://"):
            raise ValueError("expected prefect_api to start with https:// where a certificate is shown")
        return self


class Home:
    """A bank's folder and the paths in it."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.settings = read_toml(self.path / "bank.toml", BankSettings)
        self.ledger = self.path / "ledger" / "ledger.jsonl"
        self.anchor = self.path / self.settings.anchor
        self.outbox = self.path / "outbox"
        self.cache = self.path / "cache"
        self.deployed = self.path / "deployed"
        self.champion = self.path / "champion"
        self.policy = self.path / "policy.toml"
        self.schema = self.path / "schema.toml"
        self.data = self.path / self.settings.data

    def sums(self, release_digest: str) -> Path:
        """Where the noised sums of a release are kept, so that a retry sends the same."""
        return self.outbox / f"{release_digest}.sums"

    def update(self, plan_digest: str) -> Path:
        """Where the sealed answer to a plan is kept."""
        return self.outbox / f"{plan_digest}.update"

    @property
    def pool(self) -> str:
        """The bank's own Prefect work pool."""
        return pool_name(self.settings.bank)

    @property
    def signing_key_uri(self) -> str:
        """The key's URI, a relative file made absolute."""
        scheme, _, where = self.settings.signing_key.partition(":")
        return f"file:{self.path / where}" if scheme == "file" else self.settings.signing_key

    def gateway_tls(self) -> ssl.SSLContext | None:
        """How to call the gateway with the bank's certificate; None where Prefect is called directly.

        Raises `DataError` for files that are missing or do not belong together.
        """
        asked = self.settings
        if asked.certificate is None or asked.certificate_key is None or asked.gateway_ca is None:
            return None
        try:
            context = ssl.create_default_context(cafile=str(self.path / asked.gateway_ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(self.path / asked.certificate, self.path / asked.certificate_key)
        except OSError as error:
            raise DataError(
                f"{self.path / 'bank.toml'}: expected certificate, certificate_key and gateway_ca to be PEM files that "
                f"belong together, got {type(error).__name__}; ask the coordinator for them"
            ) from None
        return context

    def storage(self) -> S3Location:
        """Where the mailbox is, with the bank's own credentials."""
        key = read_toml(self.path / "identity" / "storage.toml", StorageKey)
        return S3Location(self.settings.storage_endpoint, self.settings.storage_bucket, key.access_key, key.secret_key)
