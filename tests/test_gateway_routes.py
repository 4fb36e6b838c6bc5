"""Every route of the installed Prefect server, asked through the gateway: what is not on the list is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fastapi.routing import APIWebSocketRoute, iter_route_contexts
from gateway_stage import POOL, RUN, Stage
from prefect.server.api.server import create_app

from infra.gateway.routes import CHANNELS, ROUTES, match


def shape(path: str) -> str:
    """The path with its parameters unnamed: the server's names and kinds for them are not ours."""
    return re.sub(r"{[^}]+}", "{}", path)


METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT")
ALLOWED = {(route.method, shape(route.template)) for route in ROUTES} | {("WS", shape(path)) for path in CHANNELS}


def installed() -> Iterator[tuple[str, str]]:
    """Method and path (from /api on) of every route and websocket of the installed server."""
    mounts = {getattr(route, "path", ""): route for route in create_app().routes}
    for context in iter_route_contexts(mounts["/api"].app.routes):
        route = context.original_route
        methods = ["WS"] if isinstance(route, APIWebSocketRoute) else sorted(getattr(route, "methods", {"GET"}))
        yield from ((method, route.path) for method in methods)


@pytest.fixture(scope="module")
def routes() -> list[tuple[str, str]]:
    return list(installed())


def own(path: str) -> str:
    """The path with identifiers of the bank itself, so that only the list can refuse it."""
    path = re.sub(r"{(work_pool_)?name}", POOL["bank-a"], path)
    return re.sub(r"{[^}]+}", str(RUN["bank-a"]), path)


def test_list_names_routes_that_the_installed_server_has(routes: list[tuple[str, str]]) -> None:
    """The server has some two hundred routes and every one of ours; a new version that moves one is noticed here."""
    shapes = {(method, shape(path)) for method, path in routes}
    assert len(shapes) > 150
    assert shapes >= ALLOWED


def test_every_other_route_of_the_server_is_refused(routes: list[tuple[str, str]]) -> None:
    """Whatever is not on the list is 404 for a good bank with its own identifiers, and never reaches the server."""
    stage, refused = Stage(), 0
    for method, path in routes:
        if (method, shape(path)) in ALLOWED:
            continue
        assert match(method, f"/api{own(path)}".encode(), b"") is None, (method, path)
        if method != "WS":
            assert stage.ask(method, f"/api{own(path)}").status_code == 404, (method, path)
        refused += 1
    assert refused > 150
    assert stage.prefect.asked == []


def test_every_other_method_on_every_path_is_refused(routes: list[tuple[str, str]]) -> None:
    """Nine methods on each of the server's paths: only the listed pairs are known."""
    for path in {path for _, path in routes}:
        for method in METHODS:
            found = match(method, f"/api{own(path)}".encode(), b"")
            assert (found is None) or (method, shape(path)) in ALLOWED, (method, path)


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc", "/openapi.json", "/ui-settings", "/v2/runs", "/metrics"])
def test_nothing_besides_the_api_is_there(path: str) -> None:
    """The UI, its settings and the API's description are not for banks."""
    stage = Stage()
    for prefix in ("", "/api"):
        assert stage.ask("GET", prefix + path).status_code == 404
    assert stage.prefect.asked == []
