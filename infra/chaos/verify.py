"""What must hold after a campaign, whatever was done to it: same bytes, nothing lost, nothing charged or sent twice.

Everything is read from where it lies: the mailbox, the banks' ledgers, MLflow, and what passed the proxies. The model is
made again in memory, without a fault, from the plans and the updates that the manifests name.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import httpx

from infra.chaos.consortium import Theatre
from mintmark import mailbox
from mintmark.errors import QuorumError
from mintmark.mailbox import MemoryStore
from mintmark.messages import MAX_ARTIFACT_BYTES, ModelArtifact, open_update_frame, update_info
from mintmark.plan import RoundPlan
from mintmark.privacy.ledger import EntryKind, Ledger
from mintmark.round import Manifest
from tasks.aggregation import read_manifest, settle_round
from tasks.coordinator import Coordinator
from tasks.dispatch import read_plans
from tasks.runs import ROUND_TAG

MAX_BYTES = MAX_ARTIFACT_BYTES


def faults_found(theatre: Theatre, campaign: str, *, finished: bool) -> list[str]:
    """Every promise that is broken, in words; empty when all hold."""
    plans = read_plans(theatre.coordinator, campaign)
    found = _ledgers(theatre, campaign, plans) + _sent(theatre, campaign) + _drawn_once(theatre, plans)
    found += _model(theatre, campaign, plans)
    return found + (_registered(theatre, campaign, 1 + max(plan.round for plan in plans)) if finished else [])


def _model(theatre: Theatre, campaign: str, plans: list[RoundPlan]) -> list[str]:
    """The models in the mailbox are those, and only those, that an undisturbed coordinator makes of the same updates."""
    real = theatre.coordinator
    quiet = replace(real, store=_copy_without_results(real, campaign, plans))
    there = {key.rpartition("/")[2] for key in real.store.list(f"public/campaigns/{campaign}/models/")}
    if not plans:  # nothing follows yet but the model without a round
        return [f"{len(there)} models without a plan"] if len(there) > 1 else []
    made = {quiet.publish_model(ModelArtifact(plans[0].campaign))}
    found = []
    for plan in plans:
        manifest = read_manifest(real, plan)
        if manifest is None:
            continue
        judged = _heard_of(manifest)
        try:
            made.add(settle_round(quiet, plan, dict.fromkeys(judged, 0.0), manifest.closed_at))
        except QuorumError:
            if manifest.settled:
                found.append(f"round {plan.round} is called settled without a quorum")
    if there != made:
        found.append(f"models differ: {len(there - made)} that do not follow, {len(made - there)} missing")
    return found


def _heard_of(manifest: Manifest) -> list[str]:
    return [update.bank for update in manifest.accepted] + [rejection.bank for rejection in manifest.rejected]


def _copy_without_results(real: Coordinator, campaign: str, plans: list[RoundPlan]) -> MemoryStore:
    store = MemoryStore()
    keys = real.store.list("public/rosters/") + real.store.list(f"public/campaigns/{campaign}/plans/")
    for plan in plans:
        manifest = read_manifest(real, plan)
        banks = _heard_of(manifest) if manifest else []
        keys += [mailbox.update_key(bank, campaign, plan.round, plan.attempt) for bank in banks]
    for key in keys:
        store.put_once(key, mailbox.get_required(real.store, key, max_bytes=MAX_BYTES))
    return store


def _ledgers(theatre: Theatre, campaign: str, plans: list[RoundPlan]) -> list[str]:
    """Each question is charged once and drawn once, and whatever lies in the mailbox was charged."""
    found = []
    releases = {plan.release_digest(): plan.round for plan in plans}
    for bank in theatre.banks:
        home = theatre.home(bank)
        with Ledger.open(home.ledger, home.anchor) as ledger:
            own = [entry for entry in ledger.entries if entry.campaign == campaign]
        for kind in EntryKind:
            times = Counter(entry.release_digest for entry in own if entry.kind is kind)
            found += [f"{bank}: {kind} {n} times for round {releases.get(name)}" for name, n in times.items() if n != 1]
            found += [f"{bank}: {kind} for no question that was asked" for name in times if name not in releases]
        drawn = {entry.round for entry in own if entry.kind is EntryKind.DRAWN}
        for key in theatre.coordinator.store.list(f"from/{bank}/{campaign}/"):
            if int(key.rpartition("/")[2].partition("-")[0]) not in drawn:
                found.append(f"{bank}: {key} is in the mailbox and not in the ledger")
    return found


def _sent(theatre: Theatre, campaign: str) -> list[str]:
    """No key was written twice: what the proxies saw the store take."""
    puts = Counter(path for proxies in theatre.consortium.proxies.values() for path in proxies[0].puts)
    part = f"/{campaign}/"
    return [f"{path} was written {times} times" for path, times in puts.items() if part in path and times > 1]


def _drawn_once(theatre: Theatre, plans: list[RoundPlan]) -> list[str]:
    """All updates of a bank that answer one question hold the same noised sums."""
    found, coordinator = [], theatre.coordinator
    keys = {member.bank: bytes.fromhex(member.signing_key) for member in coordinator.roster().members}
    sums: dict[tuple[str, int], set[bytes]] = {}
    for plan in plans:
        for bank in theatre.banks:
            key = mailbox.update_key(bank, plan.campaign.name, plan.round, plan.attempt)
            message = coordinator.store.get(key, max_bytes=MAX_BYTES)
            if message is not None:
                statement, sealed = open_update_frame(message, keys[bank], 10**6)
                drawn = coordinator.sealing_key.open(sealed, info=update_info(statement))
                sums.setdefault((bank, plan.round), set()).add(drawn)
    found += [f"{bank} drew {len(draws)} times for round {n}" for (bank, n), draws in sums.items() if len(draws) > 1]
    return found


def _registered(theatre: Theatre, campaign: str, rounds: int) -> list[str]:
    """One model version in MLflow, one run of the campaign and one below it for each of its rounds."""
    tagged = f"tags.`mintmark.campaign` = '{campaign}'"
    versions = _mlflow(theatre, "GET", f"model-versions/search?{urlencode({'filter': tagged})}").get(
        "model_versions", []
    )
    experiments = _mlflow(theatre, "POST", "experiments/search", {"max_results": 100})["experiments"]
    ids = [one["experiment_id"] for one in experiments]
    body = {"experiment_ids": ids, "filter": tagged, "max_results": 100}
    runs = _mlflow(theatre, "POST", "runs/search", body).get("runs", [])
    found = [] if len(versions) == 1 else [f"expected one model version, got {len(versions)}"]
    tags = [{tag["key"]: tag["value"] for tag in run["data"].get("tags", [])} for run in runs]
    below = sorted(int(own[ROUND_TAG]) for own in tags if ROUND_TAG in own)
    if len(tags) - len(below) != 1:
        found.append(f"expected one MLflow run, got {len(tags) - len(below)}")
    return found + (
        [] if below == list(range(rounds)) else [f"expected a run for each of {rounds} rounds, got {below}"]
    )


def _mlflow(theatre: Theatre, method: str, path: str, body: Any = None) -> dict[str, Any]:
    url = f"{theatre.endpoints.mlflow}/api/2.0/mlflow/{path}"
    response = httpx.request(method, url, json=body, timeout=30, trust_env=False)
    answer: dict[str, Any] = json.loads(response.raise_for_status().text)
    return answer


def late_banks(coordinator: Coordinator, campaign: str) -> list[str]:
    """Who was named late, and whose late update was named lost, by round and attempt, for the table."""
    told = []
    for plan in read_plans(coordinator, campaign):
        manifest: Manifest | None = read_manifest(coordinator, plan)
        for word, banks in (("late", manifest.late), ("lost", manifest.lost)) if manifest else ():
            told += [f"round {plan.round}.{plan.attempt}: {', '.join(banks)} {word}"] if banks else []
    return told
