"""Tells Prefect how a campaign goes, beside it and never in its way: artifacts, tags, an event a step.

A thread of its own looks into the mailbox, as anybody could, and writes what changed since it last looked: however fast the
rounds are, Prefect is asked as rarely as it is slow. What goes wrong here is logged once, and the campaign goes on.

    with told_in_prefect(coordinator, "cards-7"):
        ...                                          # rounds; at the end, good or bad, everything is told once more
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.events import emit_event
from prefect.runtime import flow_run

from tasks.artifacts import Artifact, artifacts_of
from tasks.coordinator import Coordinator
from tasks.progress import RoundProgress
from tasks.status import CampaignStatus, StatusReader

PAUSE_S = 2.0
"""Between two looks, at least."""
IDLE_SHARE = 4
"""How many times longer than it took to tell is waited before telling again: SQLite has one writer."""
PICTURES_S = 30.0
"""Between two drawings of the pictures, at least: a third of a CPU-second, and as much again in what is sent and kept."""
GOODBYE_S = 30.0
"""How long the end of a campaign waits for the last telling."""

log = logging.getLogger(__name__)


@contextmanager
def told_in_prefect(coordinator: Coordinator, campaign: str) -> Iterator[None]:
    """Tell the campaign in the flow run that this is called in. Outside a flow run: nothing."""
    run_id = flow_run.get_id()
    if run_id is None:
        yield
        return
    ended, teller = threading.Event(), _Teller(coordinator, campaign, UUID(run_id))
    inside = contextvars.copy_context()  # the client's settings
    thread = threading.Thread(target=inside.run, args=(teller.tell_until, ended), name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(GOODBYE_S)


class _Teller:
    def __init__(self, coordinator: Coordinator, campaign: str, run_id: UUID) -> None:
        self._reader, self._campaign, self._run_id = StatusReader(coordinator, campaign), campaign, run_id
        self._known: dict[str, tuple[UUID, str | float, str]] = {}
        self._emitted: set[str] = set()
        self._tagged = False
        self._drawn, self._drawn_at = 0, -PICTURES_S

    def tell_until(self, ended: threading.Event) -> None:
        """Look and tell, again and again; once more when it has ended."""
        troubles: set[str] = set()
        pause = PAUSE_S
        while True:
            last = ended.wait(pause)
            began = time.monotonic()
            try:
                with get_client(sync_client=True) as client:
                    self._tell(client, last)
            except Exception as error:  # whatever it is, the campaign does not depend on it
                if (trouble := type(error).__name__) not in troubles:
                    log.warning("campaign %s: not told in Prefect, trying on: %s", self._campaign, trouble)
                troubles.add(type(error).__name__)
            if last:
                return
            pause = max(PAUSE_S, IDLE_SHARE * (time.monotonic() - began))

    def _tell(self, client: SyncPrefectClient, last: bool) -> None:
        status = self._reader.read()
        if status is None:
            return
        if not self._tagged:
            known = client.read_flow_run(self._run_id).tags
            client.update_flow_run(self._run_id, tags={*known, "mintmark", f"campaign:{self._campaign}"})
            self._tagged = True
        pictures = last or (status.closed != self._drawn and time.monotonic() - self._drawn_at >= PICTURES_S)
        if pictures:
            self._drawn, self._drawn_at = status.closed, time.monotonic()
        for artifact in artifacts_of(status, pictures=pictures):
            self._put(client, artifact)
        for name, occurred, payload in events_of(status):
            self._emit(name, occurred, payload)

    def _put(self, client: SyncPrefectClient, artifact: Artifact) -> None:
        identity, *told = self._known.get(artifact.key, (None,))
        if told == [artifact.data, artifact.description]:
            return
        if identity is None:
            wanted = ArtifactCreate(
                key=artifact.key,
                type=artifact.kind,
                data=artifact.data,
                description=artifact.description,
                flow_run_id=self._run_id,
            )
            identity = client.create_artifact(wanted).id
        else:  # not `update_artifact`: that would put every picture into the event feed, too
            changed = {"data": artifact.data, "description": artifact.description}
            client.request("PATCH", "/artifacts/{id}", path_params={"id": identity}, json=changed)
        self._known[artifact.key] = (identity, artifact.data, artifact.description)

    def _emit(self, name: str, occurred: datetime | None, payload: dict[str, Any]) -> None:
        label = f"mintmark/{self._campaign}/{name}/{payload.get('round', '')}/{payload.get('attempt', '')}"
        if label in self._emitted:
            return
        emit_event(
            name,
            resource={
                "prefect.resource.id": f"mintmark.campaign.{self._campaign}",
                "prefect.resource.name": self._campaign,
            },
            related=[{"prefect.resource.id": f"prefect.flow-run.{self._run_id}", "prefect.resource.role": "flow-run"}],
            occurred=occurred,
            payload=payload,
            id=uuid5(NAMESPACE_URL, label),  # told again after a restart, it is the same event
        )
        self._emitted.add(label)


def events_of(status: CampaignStatus) -> Iterator[tuple[str, datetime | None, dict[str, Any]]]:
    """The steps that the campaign has taken: name, when, and what there is to say. Every step comes again at every call."""
    for progress in status.rounds:
        place = {"campaign": status.campaign.name, "round": progress.round, "attempt": progress.plan.attempt}
        yield "mintmark.round.opened", progress.plan.opens_at, place | {"plan_digest": progress.plan.digest()}
        if not progress.waiting:
            yield "mintmark.round.answered", None, place | {"banks": len(progress.answered)}
        if progress.manifest is not None:
            yield "mintmark.round.closed", progress.manifest.closed_at, place | _outcome(progress)
    if status.model is not None:
        yield "mintmark.model.registered", None, {"campaign": status.campaign.name, "uri": status.model.uri}


def _outcome(progress: RoundProgress) -> dict[str, Any]:
    manifest = progress.manifest
    assert manifest is not None
    return {
        "accepted": [update.bank for update in manifest.accepted],
        "rejected": {rejection.bank: str(rejection.reason) for rejection in manifest.rejected},
        "late": list(manifest.late),
        "seconds": manifest.seconds,
    }
