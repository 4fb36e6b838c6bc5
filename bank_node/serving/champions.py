"""The champion at a bank: taken from the mailbox, checked, and kept in `champion/`, so that scoring needs no network.

    record          the coordinator's signed message: the newest that this bank has seen; an older one is refused
    <digest>.model  the model's released sums, named by their SHA-256, which the signed record names

Both are checked every time they are read, so the folder need not be trusted. The record is written last: a champion that
fails any check leaves the one before it in place.

    current = refresh_champion(store, coordinator_key, folder, schema)   # (Champion, SharedModel)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bank_node.personal.shared_model import SharedModel, fetch_shared_model
from mintmark.canonical import digest
from mintmark.champion import MAX_CHAMPION_BYTES, Champion, newest_champion
from mintmark.errors import DataError, ProtocolError
from mintmark.mailbox import ObjectStore, champion_key, get_required, model_key
from mintmark.messages import MAX_ARTIFACT_BYTES, ModelArtifact
from mintmark.privacy.ledger import write_durably
from mintmark.schema import FeatureSchema

RECORD = "record"


def seen_champion(folder: Path, coordinator_key: bytes) -> Champion | None:
    """The newest champion that this bank has taken, None before the first. Raises `ProtocolError`: a changed file."""
    message = _read(folder / RECORD, MAX_CHAMPION_BYTES)
    return None if message is None else Champion.read(message, coordinator_key)


def refresh_champion(
    store: ObjectStore, coordinator_key: bytes, folder: Path, schema: FeatureSchema
) -> tuple[Champion, SharedModel]:
    """The champion in force and its model, taken from the mailbox when it is new.

    Raises:
        DataError: none was promoted yet, or it was made with another schema than the bank's.
        ProtocolError: forged, set back, or not the model that the campaign made.
        StorageError: the mailbox cannot be reached; `kept_champion` may have one.
    """
    seen = seen_champion(folder, coordinator_key)
    newest = newest_champion(store, coordinator_key, seen=seen.number if seen else 0)
    if newest is None:
        raise DataError(
            "expected a champion in the mailbox, got none: the consortium has promoted no model yet; "
            "score with your own model, or with a campaign's by its name"
        )
    if seen and newest.number == seen.number and newest != seen:
        raise ProtocolError(f"champion {seen.number}: expected the record that was seen before, got another one")
    model = champion_model(store, coordinator_key, newest, folder, schema)
    if newest != seen:
        write_durably(folder / RECORD, get_required(store, champion_key(newest.number), max_bytes=MAX_CHAMPION_BYTES))
    return newest, model


def kept_champion(folder: Path, coordinator_key: bytes, schema: FeatureSchema) -> tuple[Champion, SharedModel]:
    """The champion that was taken last, without the mailbox. Raises `DataError` when there is none."""
    seen = seen_champion(folder, coordinator_key)
    encoded = None if seen is None else _read(folder / f"{seen.model_digest}.model", MAX_ARTIFACT_BYTES)
    if seen is None or encoded is None:
        raise DataError(f"{folder}: expected a champion kept from before, got none: the mailbox must be reached once")
    _check_schema(seen, schema)
    return seen, _decoded(encoded, seen, schema)


def champion_model(
    store: ObjectStore, coordinator_key: bytes, champion: Champion, folder: Path, schema: FeatureSchema
) -> SharedModel:
    """The model of a champion, today's or a past one: kept from before, or taken from the mailbox and kept."""
    _check_schema(champion, schema)
    path = folder / f"{champion.model_digest}.model"
    encoded = _read(path, MAX_ARTIFACT_BYTES)
    if encoded is not None and digest(encoded) == champion.model_digest:
        return _decoded(encoded, champion, schema)
    key = model_key(champion.campaign, champion.model_digest)
    model = _decoded(get_required(store, key, max_bytes=MAX_ARTIFACT_BYTES), champion, schema)
    made = fetch_shared_model(store, coordinator_key, champion.campaign, schema)
    if _finished(model) != made.digest:
        raise ProtocolError(
            f"champion {champion.number}: expected the model that campaign {champion.campaign} made, got another one"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(path, model.artifact.encode())
    return model


def _finished(model: SharedModel) -> str:
    """The digest of the model after its training rounds: champions are named with their evaluation's sums as well."""
    artifact = model.artifact
    return replace(artifact, history=artifact.history[: artifact.campaign.rounds]).digest()


def _decoded(encoded: bytes, champion: Champion, schema: FeatureSchema) -> SharedModel:
    if digest(encoded) != champion.model_digest:
        raise ProtocolError(
            f"champion {champion.number}: expected the model {champion.model_digest[:12]}..., got {digest(encoded)[:12]}..."
        )
    artifact = ModelArtifact.decode(encoded)
    if (artifact.campaign.name, artifact.campaign.schema_digest) != (champion.campaign, champion.schema_digest):
        raise ProtocolError(
            f"champion {champion.number}: its model is of another campaign or schema than its record says"
        )
    return SharedModel(artifact, schema)


def _check_schema(champion: Champion, schema: FeatureSchema) -> None:
    if champion.schema_digest != schema.digest():
        raise DataError(
            f"champion {champion.number} was made with the schema {champion.schema_digest[:12]}..., this bank's "
            f"schema.toml is {schema.digest()[:12]}...: take the schema that campaign {champion.campaign} was agreed on"
        )


def _read(path: Path, max_bytes: int) -> bytes | None:
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        return None
    if len(data) > max_bytes:
        raise DataError(f"{path}: expected at most {max_bytes} bytes, got more; remove it, it is made anew")
    return data
