"""A bank's worker and child with hooks at the bank's steps: what the fault matrix starts in place of `mintmark-bank work`.

python -m infra.chaos.bank HOME          the worker
python -m infra.chaos.bank --home HOME   its child
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from infra.chaos.steps import VARIABLE, Stage


def command(home: Path) -> list[str]:
    """What starts the worker of a bank."""
    return [sys.executable, "-m", "infra.chaos.bank", str(home)]


def run_worker(home: Path) -> None:
    """The bank's worker, with a child that stops at steps."""
    from bank_node import worker
    from bank_node.settings import Home

    opened = Home(home)
    child = [sys.executable, "-P", "-m", "infra.chaos.bank", "--home", str(opened.path)]
    settings = opened.settings
    worker.run_worker(opened.path, opened.pool, settings.prefect_api, settings.poll_s, command=child)


def run_child(arguments: list[str]) -> int:
    """The bank's child, in a process whose steps can be held."""
    from bank_node import child, local_round
    from mintmark.privacy.ledger import Entry, EntryKind, Ledger
    from mintmark.s3 import S3Store

    stage, at = Stage(Path(os.environ[VARIABLE])), dict[str, Any]()
    check, append, put, answer = (
        vars(local_round)["check_own_updates"],
        Ledger.append,
        S3Store.put_once,
        local_round.answer_plan,
    )

    def reach(step: str) -> None:
        stage.reach(at["campaign"], at["round"], step, at["bank"])

    def checked(bank: Any, ledger: Ledger, plan: Any) -> None:
        at.update(campaign=plan.campaign.name, round=plan.round, bank=bank.name)
        check(bank, ledger, plan)
        reach("consent")

    def appended(ledger: Ledger, entry: Entry) -> None:
        charges = entry.kind is EntryKind.CHARGE
        if charges:
            reach("charge")
        append(ledger, entry)
        reach("charged" if charges else "drawn")

    def sent(store: S3Store, key: str, data: bytes) -> bool:
        reach("send")
        written = put(store, key, data)
        reach("sent")
        return written

    def answered(home: Path, plan_key: str, plan_digest: str, now: datetime) -> Any:
        return answer(home, plan_key, plan_digest, now + timedelta(seconds=stage.clock(home.name)))

    hooked: dict[str, Callable[..., Any]] = {"check_own_updates": checked, "answer_plan": answered}
    vars(local_round).update(hooked)
    Ledger.append = appended  # type: ignore[assignment,method-assign]
    S3Store.put_once = sent  # type: ignore[assignment,method-assign]
    return child.main(arguments)


def main() -> int:
    """`HOME` runs the worker, `--home HOME` its child."""
    if sys.argv[1] == "--home":
        return run_child(sys.argv[1:])
    run_worker(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
