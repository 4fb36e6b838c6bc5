"""The campaign's flow with hooks at its steps: what the fault matrix deploys in place of `flows.campaign`."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from flows import campaign as campaign_flow
from flows import federated_round as round_flow
from infra.chaos.steps import VARIABLE, Stage
from mintmark.s3 import S3Store
from tasks import collect

stage = Stage(Path(os.environ[VARIABLE]))
_at: dict[str, Any] = {"campaign": "", "round": 0}
_STEPS_OF_KEYS = {"manifests": ("manifest", "closed"), "models": ("", "settled"), "registration": ("registered", "")}


class SkewedClock(datetime):
    """The coordinator's clock, as far off as the harness says."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(seconds=stage.clock("coordinator"))


def _reach(step: str) -> None:
    if step:
        stage.reach(_at["campaign"], _at["round"], step)


def _around(module: Any, name: str, before: str, after: str) -> None:
    inner = getattr(module, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        _reach(before)
        result = inner(*args, **kwargs)
        _reach(after)
        return result

    vars(module)[name] = wrapped


def _dispatch(inner: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(coordinator: Any, campaign: str, round: int, *rest: Any) -> Any:
        _at.update(campaign=campaign, round=round)
        stage.note("flow", campaign)
        _reach("plan")
        plan = inner(coordinator, campaign, round, *rest)
        _reach("planned")
        return plan

    return wrapped


def _put_once(inner: Callable[[S3Store, str, bytes], bool]) -> Callable[[S3Store, str, bytes], bool]:
    def wrapped(store: S3Store, key: str, data: bytes) -> bool:
        kind = key.split("/")[3] if key.startswith("public/campaigns/") else ""
        before, after = _STEPS_OF_KEYS.get(kind, ("", ""))
        _reach(before)
        written = inner(store, key, data)
        _reach(after if _at["campaign"] else "")
        return written

    return wrapped


vars(round_flow)["dispatch_plan"] = _dispatch(vars(round_flow)["dispatch_plan"])
_around(round_flow, "ring_banks", "ring", "rung")
_around(campaign_flow, "register_model", "register", "")
S3Store.put_once = _put_once(S3Store.put_once)  # type: ignore[assignment,method-assign]
for module in (round_flow, collect, campaign_flow):
    vars(module)["datetime"] = SkewedClock

run_campaign = campaign_flow.run_campaign
