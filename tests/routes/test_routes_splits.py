"""Which of a route's two services gets a request, and what holds for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway import config, routes
from gateway.http.fields import Fields
from gateway.identity import Principal, SessionIdentity
from gateway.routes import NearMiss, RouteTable, rows
from gateway.routes.split import Split

FIELDS = (
    (b"X-Canary", b"always"),
    (b"Cookie", b"canary=never; room=blue"),
)


def compiled(*rules: Mapping[str, Any]) -> RouteTable:
    """Return the table of *rules* over the services `app` and `canary`."""
    services = {name: {"targets": [f"http://{name}"]} for name in ("app", "canary")}
    return routes.compile(
        config.parse(
            {
                "version": 1,
                "services": services,
                "routes": [{"service": "app", **rule} for rule in rules],
            }
        )
    )


def split(weight: float = 0.5, **keys: Any) -> Split:
    """Return the split of a route."""
    rule = {"path": "/", "split": {"to": "canary", "weight": weight, **keys}}
    (route,) = compiled(rule).routes
    assert isinstance(route.detour, Split)
    return route.detour


def user(name: str) -> Principal:
    return SessionIdentity(
        user_id=name,
        recipe_user_id=name,
        session_handle=f"session-{name}",
        tenant_id="public",
        claims={},
        expires_at=0,
    )


def never_drawn() -> float:
    raise AssertionError("what is sticky isn't drawn")


def of_users(one: Split, count: int = 2000) -> set[str]:
    """Return the users whose requests go to the other service."""
    names = [f"user-{number}" for number in range(count)]
    return {n for n in names if one.takes((), user(n), "10.0.0.1", never_drawn)}


@pytest.mark.parametrize("weight", [0.05, 0.3, 0.9])
def test_the_share_of_the_users(weight: float) -> None:
    """Within four standard deviations of the weight, and always the same users."""
    taken = of_users(split(weight))
    deviation = (weight * (1 - weight) * 2000) ** 0.5
    assert abs(len(taken) - weight * 2000) < 4 * deviation
    assert of_users(split(weight)) == taken


def test_a_greater_weight_keeps_those_who_are_there() -> None:
    few, more, all_of_them = (of_users(split(weight)) for weight in (0.1, 0.5, 1))
    assert few < more < all_of_them
    assert len(all_of_them) == 2000


def test_who_is_taken_is_known() -> None:
    """Another gateway, or the next version, must not move users: these are pinned."""
    numbers = {3, 32, 47, 67, 88}
    assert of_users(split(0.05), 100) == {f"user-{number}" for number in numbers}


@pytest.mark.parametrize(
    ("sticky", "fields", "principal"),
    [
        ("user", (), None),
        ("session", (), None),
        ("cookie:lobby", FIELDS, user("ann")),
        ("header:X-Shard", FIELDS, user("ann")),
    ],
)
def test_a_request_without_the_value_stays(
    sticky: str, fields: Fields, principal: Principal | None
) -> None:
    """Else the pages of one anonymous client would come from both services."""
    one = split(1, sticky=sticky)
    assert not one.takes(fields, principal, "10.0.0.1", never_drawn)


@pytest.mark.parametrize(
    "sticky", ["user", "session", "tenant", "client", "cookie:room", "header:x-canary"]
)
def test_a_request_with_the_value_is_split(sticky: str) -> None:
    assert split(1, sticky=sticky).takes(FIELDS, user("ann"), "::1", never_drawn)


@pytest.mark.parametrize(("drawn", "taken"), [(0.0, True), (0.25, False), (0.9, False)])
def test_without_stickiness_each_request_is_drawn(drawn: float, taken: bool) -> None:
    assert split(0.25, sticky="none").takes((), None, "", lambda: drawn) is taken


@pytest.mark.parametrize(
    ("weight", "override", "taken"),
    [
        (0, "header:x-canary", True),
        (1, "cookie:canary", False),
        (0, "cookie:room", False),
        (1, "cookie:room", True),
        (1, "header:missing", True),
    ],
)
def test_a_client_may_choose(weight: float, override: str, taken: bool) -> None:
    """`always` and `never`; any other value is ignored."""
    one = split(weight, override=override)
    assert one.takes(FIELDS, user("ann"), "", never_drawn) is taken


def test_without_weight_there_is_no_split() -> None:
    table = compiled({"path": "/", "split": {"to": "canary", "weight": 0}})
    assert [route.detour for route in table.routes] == [None]
    assert [one.name for one in table.services()] == ["app"]


def test_the_table_shows_both_services() -> None:
    table = compiled({"path": "/", "split": {"to": "canary", "weight": 0.05}})
    assert [one.name for one in table.services()] == ["app", "canary"]
    (row,) = rows(table)
    assert row.upstream == "http://app:80; 0.05 to http://canary:80"


def test_a_redirect_of_either_service_is_mapped() -> None:
    """Each service's own authority is replaced in its own replies."""
    one = split()
    assert {name for name, _ in one.route.mapping.authorities} == {"canary"}


def test_guards_of_either_service_hold_for_both() -> None:
    """The canary may read `/Admin` as `/admin`, which another route guards."""
    half = {"to": "canary", "weight": 0.5}
    table = compiled(
        {"path": "/", "protected": "optional", "split": half},
        {"path": "/admin", "service": "canary", "name": "guard"},
    )
    miss = table.match("GET", "", "/Admin")
    assert isinstance(miss, NearMiss)
    assert miss.guard.name == "guard"
