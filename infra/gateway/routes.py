"""The routes of Prefect's API that a bank may use, and nothing else: a table, and how a request finds its place in it.

A path is compared as it came, byte by byte: no decoding, no case folding, no dots, no doubled or trailing slash. What
is sent on is written anew from the table and the parsed identifiers, so that nothing else in a path or query travels.

    found = match("GET", b"/api/work_pools/mintmark-bank-a", b"")
    found.route.template, found.path    # ("/work_pools/{pool}", "/work_pools/mintmark-bank-a")
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from infra.gateway import asked, told

PREFIX = "/api"
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_KINDS = {"pool": r"mintmark-[a-z0-9][a-z0-9-]{0,39}", "run": _UUID, "deployment": _UUID, "client": _UUID}


@dataclass(frozen=True)
class Route:
    """One method on one path: the body it needs, if any, and what passes of the answer (None: there is none)."""

    method: str
    template: str
    asks: type[asked.Asked] | None
    tells: TypeAdapter[Any] | None
    query: str = ""

    @property
    def pattern(self) -> re.Pattern[bytes]:
        """Of path and query as they came."""
        target = re.escape(PREFIX + self.template + (f"?{self.query}" if self.query else ""))
        for kind, form in _KINDS.items():
            target = target.replace(rf"\{{{kind}\}}", f"(?P<{kind}>{form})")
        return re.compile(target.encode())


@dataclass(frozen=True)
class Found:
    """A request's route and the identifiers in its path."""

    route: Route
    ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The path to ask upstream, without prefix and query."""
        return self.route.template.format(**self.ids)

    @property
    def pool(self) -> str | None:
        """The work pool in the path."""
        return self.ids.get("pool")

    @property
    def run(self) -> UUID | None:
        """The flow run in the path."""
        return UUID(self.ids["run"]) if "run" in self.ids else None


def _told(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


ROUTES = (
    # What the bank's worker says (bank_node/bell.py).
    Route("POST", "/work_pools/{pool}/workers/heartbeat", asked.WorkerBeat, None),
    Route("POST", "/work_pools/{pool}/get_scheduled_flow_runs", asked.Due, _told(list[told.DueRun])),
    Route("POST", "/flow_runs/filter", asked.DueInPool, _told(list[told.ToldRun])),
    Route("POST", "/flow_runs/{run}/set_state", asked.Proposal, _told(told.Ruling)),
    Route("GET", "/flow_runs/{run}", None, _told(told.ToldRun)),
    Route("POST", "/events", asked.Events, None),
    # What Prefect's client says on its own.
    Route("GET", "/csrf-token", None, _told(told.ToldToken), query="client={client}"),
    Route("GET", "/admin/version", None, _told(str)),
    # What a worker built on Prefect's own loops says besides.
    Route("GET", "/work_pools/{pool}", None, _told(told.ToldPool)),
    Route("POST", "/work_pools/{pool}/queues/filter", asked.Queues, _told(list[told.ToldQueue])),
    Route("GET", "/deployments/{deployment}", None, _told(told.ToldDeployment)),
    Route("PATCH", "/flow_runs/{run}", asked.RunChange, None),
    Route("PATCH", "/flow_runs/{run}/labels", asked.Labels, None),
    Route("POST", "/logs/", asked.Logs, None),
)
CHANNELS = ("/work_pools/{pool}/workers/connect", "/events/in")
"""The websockets."""

_TABLE = [(route, route.pattern) for route in ROUTES]
_CHANNEL_TABLE = [(route, route.pattern) for route in (Route("WS", path, None, None) for path in CHANNELS)]


def match(method: str, raw_path: bytes, query: bytes) -> Found | None:
    """The route of a request, or None. The method `WS` finds a websocket."""
    target = raw_path + (b"?" + query if query else b"")
    for route, pattern in _CHANNEL_TABLE if method == "WS" else _TABLE:
        if route.method == method and (hit := pattern.fullmatch(target)):
            return Found(route, {name: value.decode() for name, value in hit.groupdict().items()})
    return None
