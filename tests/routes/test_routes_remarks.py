"""The table's lint: probable mistakes, each shown by an example path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway import config, routes
from gateway.config import Config
from gateway.routes import Kind, Matched, RouteTable, remarks

ROLE = {"require": {"roles": {"any": ["support"]}}}


def parsed(
    *rules: Mapping[str, Any],
    app: Mapping[str, Any] | None = None,
    others: Mapping[str, Any] | None = None,
    **sections: Any,
) -> Config:
    """Return the configuration of *rules*; a rule without a service gets `app`."""
    return config.parse(
        {
            "version": 1,
            "supertokens": {"recipes": {"userroles": {}}},
            "services": {
                "app": {"targets": ["http://app"], **(app or {})},
                **(others or {}),
            },
            "routes": [{"service": "app", **rule} for rule in rules],
            **sections,
        }
    )


def remarks_in(table: RouteTable) -> list[tuple[Kind, str, str, str]]:
    """Return each remark as its kind, both routes' names and the path."""
    return [
        (one.kind, one.route.name, one.other.name if one.other else "", one.path)
        for one in remarks(table)
    ]


BROAD = {"name": "broad", "path": "/"}
OPEN = {"name": "open", "path": "/", "protected": False}

CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[Any]]] = {
    "a guard that another spelling would pass": (
        [OPEN, {"name": "admin", "path": "/admin"}],
        {},
        [(Kind.SPELLING, "admin", "open", "/ADMIN")],
    ),
    "an exact guard": (
        [OPEN, {"name": "a", "match": {"path": {"exact": "/a"}}}],
        {},
        [(Kind.SPELLING, "a", "open", "/a/")],
    ),
    "an exact guard with a final slash": (
        [OPEN, {"name": "a", "match": {"path": {"exact": "/a/"}}}],
        {},
        [(Kind.SPELLING, "a", "open", "/a")],
    ),
    "a template's guard, by each route around it": (
        [
            OPEN,
            {"name": "orders", "path": "/orders"},
            {
                "name": "refund",
                "match": {"path": {"template": "/orders/{id}/refund"}},
                **ROLE,
            },
        ],
        {},
        [
            (Kind.SPELLING, "orders", "open", "/ORDERS"),
            (Kind.SPELLING, "refund", "orders", "/orders/x/refund/"),
            (Kind.SPELLING, "refund", "open", "/ORDERS/x/refund"),
        ],
    ),
    "a regex's guard": (
        [OPEN, {"name": "keys", "match": {"path": {"regex": "/v[0-9]+/keys"}}}],
        {},
        [(Kind.SPELLING, "keys", "open", "/v0/keys/")],
    ),
    "no guard of a service that reads exactly": (
        [OPEN, {"name": "admin", "path": "/admin"}],
        {"app": {"paths": "exact"}},
        [],
    ),
    "a guard whose service reads as its routes match": (
        [OPEN, {"name": "admin", "path": "/admin"}],
        {
            "app": {
                "paths": {
                    "case": "insensitive",
                    "final_slash": "ignored",
                    "parameters": "cut",
                    "extension": "kept",
                    "final_dots": "kept",
                }
            }
        },
        [],
    ),
    "open below a guard": (
        [BROAD, {"name": "logo", "path": "/logo", "protected": False}],
        {},
        [(Kind.OPEN_BELOW_GUARD, "logo", "broad", "/logo")],
    ),
    "optional below a guard, of another service": (
        [
            BROAD,
            {
                "name": "hello",
                "path": "/hello",
                "protected": "optional",
                "service": "other",
            },
        ],
        {"others": {"other": {"targets": ["http://other"]}}},
        [(Kind.OPEN_BELOW_GUARD, "hello", "broad", "/hello")],
    ),
    "asks for something else than the route around it": (
        [
            {"name": "a", "path": "/a", "require": {"tenants": ["red"]}},
            {"name": "b", "path": "/a/b", **ROLE},
        ],
        {"app": {"paths": "exact"}},
        [(Kind.ASKS_OTHER, "b", "a", "/a/b")],
    ),
    "asks for less than the route around it": (
        [{**BROAD, **ROLE}, {"name": "a", "path": "/a"}],
        {},
        [(Kind.ASKS_LESS, "a", "broad", "/a")],
    ),
    "asks for as much": (
        [{**BROAD, **ROLE}, {"name": "a", "path": "/a", **ROLE}],
        {},
        [],
    ),
    "public by defaults only": (
        [{"name": "a", "path": "/a"}, {"name": "b", "path": "/b", "protected": False}],
        {"defaults": {"protected": False}},
        [(Kind.PUBLIC_BY_DEFAULT, "a", "", "/a")],
    ),
    "a host that falls to a wildcard's route": (
        [
            {
                "name": "v1",
                "match": {"path": {"prefix": "/v1"}, "hosts": ["api.a.example"]},
            },
            {
                "name": "rest",
                "match": {"path": {"prefix": "/"}, "hosts": ["*.a.example"]},
            },
        ],
        {},
        [(Kind.OTHER_HOST, "rest", "v1", "/")],
    ),
    "a host that has the wildcard's path, too": (
        [
            {
                "name": "own",
                "match": {"path": {"prefix": "/"}, "hosts": ["x.a.example"]},
            },
            {
                "name": "rest",
                "match": {"path": {"prefix": "/v1"}, "hosts": ["*.a.example"]},
            },
        ],
        {},
        [],
    ),
}


@pytest.mark.parametrize(("rules", "sections", "expected"), CASES.values(), ids=CASES)
def test_remarks(
    rules: list[dict[str, Any]], sections: dict[str, Any], expected: list[Any]
) -> None:
    """Each kind of remark is reported where it applies, and nowhere else."""
    assert remarks_in(routes.compile(parsed(*rules, **sections))) == expected


def test_a_remark_s_path_is_one_that_the_laxer_route_takes() -> None:
    """A remark's path is one that the laxer route takes with `near_misses: forward`."""
    rules = CASES["a template's guard, by each route around it"][0]
    table = routes.compile(parsed(*rules, gateway={"near_misses": "forward"}))
    all_remarks = remarks(table)
    assert all_remarks
    for one in all_remarks:
        outcome = table.match("POST", "", one.path)
        assert isinstance(outcome, Matched)
        assert outcome.route is one.other


@pytest.mark.parametrize(
    ("gateway", "text"),
    [
        ({}, "depends on how this service reads paths: /ADMIN is 404"),
        ({"near_misses": "forward"}, "may be passed: /ADMIN is forwarded by open"),
    ],
)
def test_check_warns_once_for_each_service(gateway: dict[str, Any], text: str) -> None:
    """`check` warns once per service, at the line to change, and names the guards."""
    settings = parsed(
        OPEN,
        {"name": "admin", "path": "/admin"},
        {"name": "keys", "path": "/keys"},
        gateway=gateway,
    )
    (warning,) = routes.warnings(settings, routes.compile(settings))
    assert warning.loc == ("services", "app")
    assert warning.see == ("routes", 1)
    assert "admin, keys" in warning.message
    assert text in warning.message
    assert "paths: exact" in warning.hint


def test_a_warning_about_an_unnamed_service_is_at_the_laxer_route() -> None:
    """A route with its own `upstream` has no entry in services: it gets the warning."""
    settings = config.parse(
        {
            "version": 1,
            "supertokens": {},
            "routes": [
                {"path": "/", "upstream": "http://app", "protected": False},
                {"path": "/admin", "upstream": "http://app"},
            ],
        }
    )
    (warning,) = routes.warnings(settings, routes.compile(settings))
    assert warning.loc == ("routes", 0, "upstream")
