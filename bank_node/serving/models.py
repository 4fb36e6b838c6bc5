"""Which model scores: the bank's own deployed one, the consortium's champion, or a campaign's, by name.

served = open_model(site, "champion")
newer = newer_model(site, served)     # None while it is still the one in force
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bank_node.personal.deployed import MAX_STATEMENT_BYTES, MODEL_FILE, load_deployed
from bank_node.personal.scorer import Scorer, Scores, SharedScorer
from bank_node.personal.shared_model import fetch_shared_model
from bank_node.serving.champions import champion_model, kept_champion, refresh_champion
from bank_node.settings import Home
from mintmark.canonical import digest
from mintmark.champion import all_champions
from mintmark.envelope import load_signer
from mintmark.errors import DataError, StorageError
from mintmark.mailbox import ObjectStore
from mintmark.schema import FeatureSchema, parse_schema

DEPLOYED, CHAMPION = "deployed", "champion"


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that scores. `digest` is the deployed model's statement's, or the global model's; `champion` its number.

    `note` says what was not as it should be, though the model is sound: the mailbox could not be reached.
    """

    alias: str
    campaign: str
    digest: str
    scorer: Scores
    champion: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Site:
    """What models are opened with: the bank's folder, and how its mailbox is reached (only when it is needed)."""

    home: Home
    reach: Callable[[], ObjectStore]

    @cached_property
    def schema(self) -> FeatureSchema:
        return parse_schema(self.home.schema.read_text())

    @property
    def coordinator_key(self) -> bytes:
        return bytes.fromhex(self.home.settings.coordinator_key)


def default_alias(home: Home) -> str:
    """The bank's own deployed model when there is one, else the champion."""
    return DEPLOYED if (home.deployed / MODEL_FILE).exists() else CHAMPION


def open_model(site: Site, alias: str) -> ServedModel:
    """The model of an alias or campaign. Raises `DataError` or `ProtocolError` when there is none that may be used."""
    if alias == DEPLOYED:
        return _deployed(site)
    if alias == CHAMPION:
        return _champion(site)
    shared = fetch_shared_model(site.reach(), site.coordinator_key, alias, site.schema)
    return ServedModel(alias, alias, shared.digest, SharedScorer(shared.text()))


def newer_model(site: Site, served: ServedModel) -> ServedModel | None:
    """The model now in force under the alias of `served`, ready to score; None when it is `served` itself.

    Raises `MintmarkError` when there is another that does not pass its checks, or the mailbox cannot be reached.
    """
    if served.alias == DEPLOYED:
        if _statement_digest(site.home) == served.digest:
            return None
        newer = _deployed(site)
    elif served.alias == CHAMPION:
        champion, shared = refresh_champion(site.reach(), site.coordinator_key, site.home.champion, site.schema)
        if (champion.number, champion.model_digest) == (served.champion, served.digest):
            return None
        newer = ServedModel(CHAMPION, champion.campaign, shared.digest, SharedScorer(shared.text()), champion.number)
    else:
        return None  # a campaign's finished model stays what it is
    return warmed(newer, site.schema)


def past_models(site: Site) -> tuple[dict[str, ServedModel], list[str]]:
    """The deployed model if there is one, and every model that was ever champion, by name, the newest last; and sentences
    on those that were made with another schema. Raises `DataError` when there is none of them."""
    found: dict[str, ServedModel] = {}
    left_out: list[str] = []
    if default_alias(site.home) == DEPLOYED:
        found[DEPLOYED] = _deployed(site)
    store, known = site.reach(), set()
    for champion in all_champions(store, site.coordinator_key):
        if champion.model_digest in known:
            continue  # a rollback names an older model again
        known.add(champion.model_digest)
        try:
            shared = champion_model(store, site.coordinator_key, champion, site.home.champion, site.schema)
        except DataError as error:
            left_out.append(str(error))
            continue
        scorer = SharedScorer(shared.text())
        found[f"{CHAMPION} {champion.number}"] = ServedModel(
            CHAMPION, champion.campaign, shared.digest, scorer, champion.number
        )
    if not found:
        raise DataError("; ".join(left_out) or "expected a past champion or a deployed model to test, got neither")
    return found, left_out


def warmed(served: ServedModel, schema: FeatureSchema) -> ServedModel:
    """The model, once asked, so that the first payment does not wait for it."""
    served.scorer.contributions(np.full((1, len(schema.features)), np.nan))
    return served


def _deployed(site: Site) -> ServedModel:
    found = _statement_digest(site.home)
    deployed = load_deployed(site.home.deployed, load_signer(site.home.signing_key_uri).public_key)
    if deployed.terms.schema_digest != site.schema.digest():
        raise DataError(
            "the deployed model was made for another schema than schema.toml: make it anew with mintmark-bank personalise"
        )
    return ServedModel(DEPLOYED, deployed.terms.campaign, found, Scorer(deployed))


def _statement_digest(home: Home) -> str:
    """What names the deployed model as a whole: its statement names every text."""
    try:
        with open(home.deployed / MODEL_FILE, "rb") as file:
            return digest(file.read(MAX_STATEMENT_BYTES + 1))
    except OSError:
        return ""


def _champion(site: Site) -> ServedModel:
    note = ""
    try:
        champion, shared = refresh_champion(site.reach(), site.coordinator_key, site.home.champion, site.schema)
    except StorageError as error:
        champion, shared = kept_champion(site.home.champion, site.coordinator_key, site.schema)
        note = f"{error}; going on with champion {champion.number}, kept from before"
    return ServedModel(CHAMPION, champion.campaign, shared.digest, SharedScorer(shared.text()), champion.number, note)
