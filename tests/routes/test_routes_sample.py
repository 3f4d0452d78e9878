"""The sample `config/routes.yaml` is valid and does what its comments state."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import settings
from gateway.identity import CheckDatabase, Protection
from gateway.routes import Matched, Route, RouteTable

SAMPLE = Path(__file__).parents[2] / "config" / "routes.yaml"


@pytest.fixture(scope="module")
def table() -> RouteTable:
    return settings.load(SAMPLE, {}).table


def route_for(table: RouteTable, method: str, path: str) -> Route:
    outcome = table.match(method, "localhost", path)
    assert isinstance(outcome, Matched), outcome
    return outcome.route


def test_sample_causes_no_warning() -> None:
    """The sample causes no warning without variables: its defaults suit `make dev`."""
    assert settings.load(SAMPLE, {}).warnings == ()


@pytest.mark.parametrize(
    ("path", "service", "protection", "upstream_path"),
    [
        ("/catalog", "catalog", Protection.PUBLIC, "/catalog"),
        ("/catalog/7", "catalog", Protection.PUBLIC, "/catalog/7"),
        ("/orders/7", "orders", Protection.REQUIRED, "/orders/7"),
        ("/orders/all", "orders", Protection.REQUIRED, "/orders/all"),
        ("/whoami", "whoami", Protection.REQUIRED, "/"),
        ("/whoami/a/b", "whoami", Protection.REQUIRED, "/a/b"),
        ("/whoami/admin", "whoami", Protection.REQUIRED, "/admin"),
        ("/hello", "whoami", Protection.OPTIONAL, "/hello"),
        ("/", "page", Protection.PUBLIC, "/"),
        ("/account/reset-password", "page", Protection.PUBLIC, None),
    ],
)
def test_sample_routes(
    table: RouteTable,
    path: str,
    service: str,
    protection: Protection,
    upstream_path: str | None,
) -> None:
    """Each request reaches the stated service under the stated protection."""
    route = route_for(table, "GET", path)
    assert route.service.name == service
    assert route.session.protection is protection
    assert route.upstream_path(path) == (upstream_path or path)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PURGE"])
def test_sample_guards_its_restricted_paths_for_every_method(
    table: RouteTable, method: str
) -> None:
    """No method bypasses a requirement through the wider route."""
    everything = route_for(table, method, "/orders/all").session.requirements
    assert everything.permissions_all == ("orders:read-all",)
    admin = route_for(table, method, "/whoami/admin/x").session.requirements
    assert admin.roles_any == ("admin",)


def test_sample_asks_the_core_about_writes(table: RouteTable) -> None:
    """An order can't be placed with a session that was signed out at the core."""
    session = route_for(table, "POST", "/orders").session
    assert session.check_database is CheckDatabase.ON_WRITE


def test_sample_has_no_other_public_path(table: RouteTable) -> None:
    """Only the stated routes are public; unlisted paths match no route."""
    public = {r.path for r in table.routes if r.session.protection.value == "public"}
    assert public == {"/catalog", "/", "/page", "/account"}
    for path in ("/catalogue", "/ordersx", "/demo", "/admin", "/orders.json"):
        assert not isinstance(table.match("GET", "localhost", path), Matched)
