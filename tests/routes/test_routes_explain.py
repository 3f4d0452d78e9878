"""Why a route takes a request, and why the others don't."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_routes import REQUEST_PATHS, RULES, without_dead

from gateway import config, routes
from gateway.routes import (
    Conditional,
    Matched,
    MethodNotAllowed,
    NearMiss,
    NoRoute,
    RouteTable,
)
from gateway.routes.explain import Candidate, explain

HOSTS = st.sampled_from(["", "h.ex", "x.ex", "a.h.ex", "other.org", "ex"])


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    rules=st.lists(RULES, min_size=1, max_size=8),
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT"]),
    host=HOSTS,
    path=REQUEST_PATHS,
)
def test_the_winner_is_that_of_match(
    rules: list[Any], method: str, host: str, path: str
) -> None:
    """One route at most has no reason to lose, and it is the one that matches.

    A route that comes before it in the table has a part that the request lacks; one
    with the host, path and method of the request comes after it.
    """
    _, table = without_dead(rules)
    found = explain(table, method, host, path, (), b"")
    outcome = table.match(method, host, path)
    if isinstance(outcome, Conditional):
        outcome = outcome.resolve((), b"")
    assert found.outcome == outcome
    winner = outcome.route if isinstance(outcome, Matched | NearMiss) else None
    assert [one.route for one in found.candidates] == list(table.routes)
    assert [one.number for one in found.candidates] == [
        *range(1, len(table.routes) + 1)
    ]
    assert {one.route for one in found.candidates if one.lost is None} == (
        set() if winner is None else {winner}
    )
    near = [one for one in found.candidates if one.is_near]
    assert isinstance(outcome, NoRoute) <= (not near)
    if winner is None or any(len(one.hosts or ()) > 1 for one in table.routes):
        return  # a route is listed once, by the most specific of its hosts
    for one in found.candidates:
        if one.route is winner:
            break
        assert not (one.is_near and one.has_method and one.has_condition)


def table(*rules: dict[str, Any]) -> RouteTable:
    return routes.compile(
        config.parse(
            {
                "version": 1,
                "services": {"up": {"targets": ["http://up"]}},
                "routes": [{"service": "up", **rule} for rule in rules],
            }
        )
    )


def matching(kind: str, path: str, **more: Any) -> dict[str, Any]:
    return {"match": {"path": {kind: path}, **more}}


LOSES = {
    "another path": ("GET", matching("prefix", "/a"), matching("prefix", "/b")),
    "another host": (
        "GET",
        matching("prefix", "/"),
        matching("prefix", "/a", hosts=["h.ex"]),
    ),
    "an exact path comes first": (
        "GET",
        matching("exact", "/a/b"),
        matching("template", "/{x}/b"),
    ),
    "a literal segment comes before a {name}": (
        "GET",
        matching("template", "/a/{x}"),
        matching("template", "/{x}/b"),
    ),
    "a {name} comes before a regex": (
        "GET",
        matching("template", "/{x}/b"),
        matching("regex", "/.*"),
    ),
    "a regex comes before a prefix that ends there": (
        "GET",
        matching("regex", "/.*"),
        matching("prefix", "/"),
    ),
    "a regex with a longer literal beginning comes first": (
        "GET",
        matching("regex", "/a/b.*"),
        matching("regex", "/a/[b-z].*"),
    ),
    "a regex earlier in the file comes first": (
        "GET",
        matching("regex", "/[a-y]/b"),
        matching("regex", "/[a-z]/b"),
    ),
    "a route that lists the method comes first": (
        "GET",
        matching("prefix", "/a", methods=["GET"]),
        matching("prefix", "/a"),
    ),
    "another method": (
        "GET",
        matching("prefix", "/a"),
        matching("prefix", "/a", methods=["POST"]),
    ),
    "its fields or query aren't there": (
        "GET",
        matching("prefix", "/a"),
        matching("prefix", "/a", query={"v": "2"}),
    ),
}


@pytest.mark.parametrize(("reason", "rules"), LOSES.items(), ids=LOSES)
def test_why_a_route_loses(reason: str, rules: tuple[str, Any, Any]) -> None:
    """The first route takes `/a/b`; the second one has the reason."""
    method, first, second = rules
    first_one, second_one = (
        candidate(table(first, second), method, index) for index in (0, 1)
    )
    assert first_one.lost is None
    assert second_one.lost == reason


def candidate(routes: RouteTable, method: str, index: int) -> Candidate:
    """Return the candidate of the route at *index* of the file, for `/a/b`."""
    found = explain(routes, method, "", "/a/b", (), b"")
    (one,) = (one for one in found.candidates if one.route.index == index)
    return one


def test_a_route_with_a_condition_that_holds_comes_first() -> None:
    """And one whose host is given in full comes before all of others."""
    rules = table(
        matching("prefix", "/a"),
        matching("prefix", "/a", query={"v": "2"}),
        matching("exact", "/a/b", hosts=["*.ex"]),
    )
    found = explain(rules, "GET", "", "/a/b", (), b"?v=2")
    assert {one.route.index: one.lost for one in found.candidates} == {
        0: "a route with a condition comes first",
        1: None,
        2: "another host",
    }
    found = explain(rules, "GET", "h.ex", "/a/b", (), b"?v=2")
    assert {one.lost for one in found.candidates if one.route.index < 2} == {
        "a more specific host comes first"
    }


def test_a_place_that_lacks_the_method_decides() -> None:
    """405: routes with shorter paths aren't tried, and are told so."""
    rules = table(matching("prefix", "/a", methods=["POST"]), matching("prefix", "/"))
    found = explain(rules, "GET", "", "/a/b", (), b"")
    assert isinstance(found.outcome, MethodNotAllowed)
    assert [one.lost for one in found.candidates] == [
        "another method, and its place decides",
        "a literal segment comes before a prefix that ends there",
    ]
