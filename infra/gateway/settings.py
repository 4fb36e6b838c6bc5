"""`gateway.toml`: where the gateway listens, where Prefect is, and which certificate is which bank's.

    port = 4201
    certificate = "gateway.pem"            # relative paths start at the folder of gateway.toml
    certificate_key = "gateway.key"
    bank_authority = "authority.pem"       # signs the banks' certificates
    credential_file = "prefect-credential" # holds PREFECT_SERVER_API_AUTH_STRING, user:password

    [banks]                                # SHA-256 of the certificate; two while a bank changes over
    bank-a = ["5e0c..."]

The file decides who is who: it must belong to root or to whom the gateway runs as, and nobody else may write it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mintmark.agreed import Name
from mintmark.errors import DataError
from mintmark.mailbox import pool_name
from mintmark.settings import read_toml

Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MAX_CREDENTIAL_BYTES = 1024


class GatewaySettings(BaseModel):
    """The contents of `gateway.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 4201
    prefect_api: Annotated[str, Field(pattern=r"^https?://[^?#]+$")] = "http://127.0.0.1:4200/api"
    certificate: Path = Path("gateway.pem")
    certificate_key: Path = Path("gateway.key")
    bank_authority: Path = Path("authority.pem")
    credential_file: Path = Path("prefect-credential")
    requests_per_s: Annotated[float, Field(gt=0, le=10_000)] = Field(20.0, description="Of each bank, in the long run")
    banks: Annotated[dict[Name, Annotated[list[Fingerprint], Field(max_length=4)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_bank_a_certificate(self) -> GatewaySettings:
        listed = [one for fingerprints in self.banks.values() for one in fingerprints]
        if len(set(listed)) != len(listed):
            raise ValueError("expected each certificate once, got one listed twice")
        return self

    def bank_of(self) -> dict[str, str]:
        """The bank of each certificate's fingerprint."""
        return {one: bank for bank, fingerprints in self.banks.items() for one in fingerprints}

    def pools(self) -> dict[str, str]:
        """The one work pool of each bank."""
        return {bank: pool_name(bank) for bank in self.banks}


def read_settings(path: Path) -> GatewaySettings:
    """The settings, paths made absolute. Raises `DataError` for a file that others may write, or that is unsound."""
    guarded(path, stat.S_IWGRP | stat.S_IWOTH, "written")
    settings = read_toml(path, GatewaySettings)
    places = ("certificate", "certificate_key", "bank_authority", "credential_file")
    return settings.model_copy(update={name: path.resolve().parent / getattr(settings, name) for name in places})


def read_credential(path: Path) -> str:
    """The server's credential, from a file that its owner alone may read."""
    guarded(path, stat.S_IRWXG | stat.S_IRWXO, "read or written")
    text = path.read_text()[: MAX_CREDENTIAL_BYTES + 1].strip()
    if ":" not in text or len(text) > MAX_CREDENTIAL_BYTES or not text.isprintable():
        raise DataError(f"{path}: expected one line user:password, as PREFECT_SERVER_API_AUTH_STRING has it")
    return text


def guarded(path: Path, refused: int, what: str) -> None:
    """Raises `DataError` unless the file belongs to root or us and has none of the `refused` permissions."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, got {type(error).__name__}") from None
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & refused:
        raise DataError(f"{path}: expected a file that only its owner, root or you, has {what}; try: chmod 600 {path}")
