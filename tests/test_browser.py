"""A person's way through the pages, in a real browser: fill the form, submit, watch the rounds, look at the artifacts, go
on to MLflow and back.

With MINTMARK_SCREENSHOTS=DIRECTORY the pictures of docs/operating.md are made anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.embedded.consortium import EmbeddedConsortium
from infra.embedded.demo import environment_for
from infra.embedded.processes import ProcessGroup
from infra.embedded.servers import Endpoints
from mintmark.synthetic import simulate

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'mintmark[browser]'")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on PATH: apt-get install chromium"),
]

FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader"]
PATIENCE_MS = 180_000
CAMPAIGN = "cards-2026-w14"


@dataclass(frozen=True)
class Running:
    endpoints: Endpoints
    consortium: EmbeddedConsortium


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A consortium of three small banks."""
    state = tmp_path_factory.mktemp("state")
    environment = environment_for(state)
    (state / "tmp").mkdir()
    schema, columns = simulate(seed=3, banks=3, rows=12_000)
    with ProcessGroup(state / "logs") as group:
        consortium = EmbeddedConsortium(group, state, schema, columns, epsilon=4.0)
        endpoints, _ = consortium.start(environment, lambda _: None)
        yield Running(endpoints, consortium)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        page.screenshot(path=str(tmp_path / "last.png"))  # what a failure looked like
        browser.close()


def photograph(page: Any, name: str, *, width: int = 1280, height: int = 860) -> None:
    """Keep a picture for the docs, when they are asked for."""
    if folder := os.environ.get("MINTMARK_SCREENSHOTS"):
        page.wait_for_timeout(2500)  # the pages fade in
        page.screenshot(path=str(Path(folder) / f"{name}.png"), clip={"x": 0, "y": 0, "width": width, "height": height})


def test_campaign_by_hand(running: Running, page: Any) -> None:
    """The form refuses what is out of bounds and says why; what is submitted runs, is told round by round and bank by bank,
    in pictures too, leads to its model in MLflow, and from there back; the terminal tells the same."""
    prefect = running.endpoints.prefect_ui
    _submit(page, prefect)
    _watch(page)
    run = page.url.split("?")[0]
    _look_at_artifacts(page, run)
    _go_to_mlflow_and_back(page, run)
    told = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status", CAMPAIGN, "--home", str(running.consortium.coordinator_home)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "120", "NO_COLOR": "1"},
    ).stdout
    assert "4 of 4 rounds settled" in told
    assert len(re.findall(r"bank-[abc] │ accepted +│ +4 │", told)) == 3


def _submit(page: Any, prefect: str) -> None:
    page.goto(f"{prefect}/deployments")
    page.get_by_role("link", name="mintmark", exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.get_by_text("What the whole campaign may cost every customer").wait_for()
    field = page.locator("textarea").first
    field.fill(CAMPAIGN)
    epsilon, rounds = page.locator("input[type=number]").nth(0), page.locator("input[type=number]").nth(1)
    photograph(page, "campaign-form")
    epsilon.fill("12")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("12 is greater than the maximum of 10").first.wait_for()
    photograph(page, "campaign-refused")
    epsilon.fill("4")
    rounds.fill("3")
    for last in (False, False, True):  # on a busy machine the page may still judge what stood there before
        page.get_by_role("button", name="Submit").click()
        try:
            page.wait_for_url("**/deployments/deployment/*?tab=Runs", timeout=PATIENCE_MS / 3)
            break
        except sync_api.TimeoutError:
            if last:
                raise
    page.get_by_role("link", name=CAMPAIGN, exact=True).first.click()  # called so once it has begun


def _watch(page: Any) -> None:
    page.wait_for_url("**/runs/flow-run/**")
    page.get_by_text(f"campaign:{CAMPAIGN}", exact=True).first.wait_for()
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text(f"{CAMPAIGN}-round-01").first.wait_for()
    photograph(page, "campaign-run")
    page.get_by_text("Completed", exact=True).first.wait_for()


def _look_at_artifacts(page: Any, run: str) -> None:
    shown = {
        "rounds": "Each round: whose update counts",
        "banks": "its own signed word",
        "shares": "How much each bank's update weighed",
        "curves": "How good the finished model is",
    }
    for name, sentence in shown.items():
        _open_artifact(page, run, name)
        page.get_by_text(sentence).first.wait_for()
        if name in ("shares", "curves"):
            width = "() => [...document.images].some(image => image.naturalWidth > 500)"
            page.wait_for_function(width)
        photograph(page, f"campaign-{name}", height=495)


def _open_artifact(page: Any, run: str, name: str) -> None:
    page.goto(run)
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text(f"{CAMPAIGN}-{name}", exact=True).first.click()
    page.wait_for_url("**/artifacts/artifact/**")


def _go_to_mlflow_and_back(page: Any, run: str) -> None:
    _open_artifact(page, run, "summary")
    link = page.get_by_role("link", name=re.compile("demo-fraud, version 1"))
    photograph(page, "campaign-summary", height=495)
    page.goto(link.get_attribute("href"))
    page.get_by_text("Version 1").first.wait_for()
    photograph(page, "campaign-model", width=950, height=760)
    page.get_by_role("link", name=re.compile(CAMPAIGN)).first.click()
    back = page.get_by_role("link", name="The campaign's flow run in Prefect")
    assert back.get_attribute("href") == run  # it opens beside this page
