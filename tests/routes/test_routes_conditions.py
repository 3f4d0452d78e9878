"""Routes that ask for fields and query parameters: which one applies."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config, routes
from gateway.config import InvalidConfig
from gateway.routes import Conditional, Matched, NearMiss, Outcome, RouteTable
from gateway.routes.condition import condition

STRICT = {"roles": {"all": ["admin"]}}


def table(*rules: dict[str, Any], **gateway: Any) -> RouteTable:
    """Return the table of these routes, all of one service."""
    filled = [{"upstream": "http://up", **rule} for rule in rules]
    data = {
        "version": 1,
        "routes": filled,
        "gateway": gateway,
        "supertokens": {"recipes": {"userroles": {}}},
    }
    return routes.compile(config.parse(data))


def when(**headers: str) -> dict[str, Any]:
    """Return a condition on fields; `x_y` stands for the field `x-y`."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"match": {"headers": names}}


def found(
    routes: RouteTable, target: str, *fields: tuple[bytes, bytes], method: str = "GET"
) -> str:
    """Return the name of the route for a request, or the kind of refusal."""
    path, _, query = target.partition("?")
    outcome: Outcome | Conditional = routes.match(method, "h", path)
    if isinstance(outcome, Conditional):
        outcome = outcome.resolve(fields, query.encode())
    if isinstance(outcome, Matched):
        return outcome.route.name
    return type(outcome).__name__


BETA = (b"X-Beta", b"1")


@pytest.mark.parametrize(
    ("fields", "holds"),
    [
        ([], False),
        ([BETA], True),
        ([(b"x-BETA", b"1")], True),
        ([(b"X-Beta", b"2")], False),
        ([BETA, BETA], False),
        ([(b"X-Beta", b"1, 1")], False),
        ([(b"X-Beta2", b"1")], False),
    ],
)
def test_fields(fields: list[tuple[bytes, bytes]], holds: bool) -> None:
    """A field must be there once, in any case, with the whole value."""
    beta = condition({"X-Beta": ("1",)}, {})
    assert beta is not None
    assert beta.holds(tuple(fields), b"") is holds


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        ("", False),
        ("?v=2", True),
        ("v=2", True),
        ("a=1&v=2", True),
        ("v=3", True),
        ("v=2&v=3", True),
        ("v=2&v=9", False),
        ("%76=%32", True),
        ("v", False),
        ("v=2;x", False),
        ("v=\xff", False),
    ],
)
def test_queries(query: str, holds: bool) -> None:
    """Every value of the parameter must be one of the condition's, decoded."""
    two = condition({}, {"v": ("2", "3")})
    assert two is not None
    assert two.holds((), query.encode("latin-1")) is holds


def test_any_value() -> None:
    """`"*"` asks only whether the field or the parameter is there."""
    (one,) = table(
        {"path": "/", "match": {"headers": {"X-A": "*"}, "query": {"q": "*"}}}
    ).routes
    assert one.condition is not None
    assert one.condition.holds(((b"X-A", b"any"),), b"q")
    assert not one.condition.holds(((b"X-A", b"any"),), b"")
    assert not one.condition.holds((), b"q")


def test_a_route_with_a_condition_comes_before_the_one_without() -> None:
    """Of routes with one path, those with a condition come first, in file order."""
    both = table(
        {"name": "plain", "path": "/a"},
        {"name": "beta", "path": "/a", **when(X_Beta="1")},
        {"name": "gamma", "path": "/a", "methods": ["GET"], **when(X_Gamma="*")},
    )
    gamma = (b"X-Gamma", b"x")
    assert found(both, "/a") == "plain"
    assert found(both, "/a/b", BETA) == "beta"
    assert found(both, "/a", gamma) == "gamma"
    assert found(both, "/a", gamma, method="HEAD") == "gamma"
    assert found(both, "/a", gamma, method="POST") == "plain"
    assert found(both, "/a", gamma, BETA) == "beta"
    assert [route.name for route in both.routes] == ["beta", "gamma", "plain"]


def test_without_its_condition_a_route_does_not_match() -> None:
    """Then the next place decides, up to the one whose routes have no condition."""
    nested = table(
        {"name": "root", "path": "/"},
        {"name": "a", "path": "/a", **when(X_Beta="1")},
        {"name": "exact", "path": {"exact": "/a/b"}, **when(X_Beta="2")},
        {"name": "listed", "path": "/c", "methods": ["GET"]},
        {"name": "c", "path": "/c", **when(X_Beta="1")},
    )
    assert found(nested, "/a/b", (b"X-Beta", b"2")) == "exact"
    assert found(nested, "/a/b", BETA) == "a"
    assert found(nested, "/a/b") == "root"
    assert found(nested, "/c", BETA, method="POST") == "c"
    assert found(nested, "/c", method="POST") == "MethodNotAllowed"
    assert found(table({"path": "/a", **when(X_Beta="1")}), "/a") == "NoRoute"


@pytest.mark.parametrize("paths", [{}, {"case": "insensitive"}], ids=str)
def test_conditions_do_not_open_a_guard(paths: dict[str, str]) -> None:
    """Another spelling of a guarded path is a near miss, whatever the fields say."""
    data = {
        "version": 1,
        "supertokens": {"recipes": {"userroles": {}}},
        "services": {"s": {"targets": ["http://up"], "paths": paths}},
        "routes": [
            {"name": "root", "path": "/", "service": "s"},
            {"name": "beta", "path": "/", "service": "s", **when(X_Beta="1")},
            {"name": "guard", "path": "/admin", "service": "s", "require": STRICT},
        ],
    }
    guarded = routes.compile(config.parse(data))
    assert found(guarded, "/a") == "root"
    assert found(guarded, "/a", BETA) == "beta"
    expected = "guard" if paths else "NearMiss"
    assert found(guarded, "/ADMIN") == expected
    assert found(guarded, "/ADMIN", BETA) == expected


def test_a_guard_with_a_condition_guards() -> None:
    """A stricter route counts as a guard even if it asks for a field."""
    guarded = table(
        {"name": "root", "path": "/"},
        {"name": "guard", "path": "/admin", "require": STRICT, **when(X_Beta="1")},
    )
    assert found(guarded, "/ADMIN") == "NearMiss"
    miss = guarded.near_miss("GET", "h", "/ADMIN")
    assert isinstance(miss, NearMiss)
    assert miss.guard.name == "guard"


def test_the_same_condition_twice_can_never_match() -> None:
    """A second route with the path and condition of an earlier one is an error."""
    twice = {"path": "/a", **when(X_Beta="1")}
    with pytest.raises(InvalidConfig, match="can never match"):
        table(twice, {**twice, "methods": ["GET"]})
    table({**twice, "methods": ["GET"]}, twice)
