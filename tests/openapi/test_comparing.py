"""Where a route table and an OpenAPI document disagree."""

from __future__ import annotations

from typing import Any

import openapi_tables
import pytest

from gateway.openapi import deviations, document_of

DOCUMENT = document_of(
    {
        "openapi": "3.1.1",
        "paths": {
            "/orders": {"get": {}, "post": {"security": [{"oauth": ["write"]}]}},
            "/orders/{id}": {"get": {}},
            "/health": {"get": {"security": []}},
        },
    }
)
ORDERS: dict[str, Any] = {"match": {"path": {"exact": "/orders"}, "methods": ["GET"]}}
WRITE: dict[str, Any] = {
    "match": {"path": {"exact": "/orders"}, "methods": ["POST"]},
    "require": {"permissions": {"all": ["write"]}},
}
ONE: dict[str, Any] = {
    "match": {"path": {"template": "/orders/{n}"}, "methods": ["GET"]}
}
HEALTH: dict[str, Any] = {
    "match": {"path": {"exact": "/health"}, "methods": ["GET"]},
    "protected": False,
}
RIGHT = {"orders": ORDERS, "write": WRITE, "one": ONE, "health": HEALTH}


def entries(**changes: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the right routes with some changed, added, or left out (None)."""
    every = {**RIGHT, **changes}
    return [
        {"name": name, "service": "up", **route}
        for name, route in every.items()
        if route is not None
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"orders": ORDERS | {"protected": False}}, ["laxer GET /orders orders"]),
        ({"orders": ORDERS | {"protected": "optional"}}, ["laxer GET /orders orders"]),
        ({"write": WRITE | {"require": {}}}, ["laxer POST /orders write"]),
        (
            {"write": WRITE | {"require": {"permissions": {"all": ["other"]}}}},
            ["laxer POST /orders write", "stricter POST /orders write"],
        ),
        ({"health": HEALTH | {"protected": True}}, ["stricter GET /health health"]),
        (
            {"orders": ORDERS | {"require": {"roles": {"any": ["a"]}}}},
            ["stricter GET /orders orders"],
        ),
        (
            {"health": HEALTH | {"clients": {"allow": ["10.0.0.0/8"]}}},
            ["stricter GET /health health"],
        ),
        ({"orders": ORDERS | {"session": {"check_database": "always"}}}, []),
        ({"one": None}, ["missing GET /orders/x None"]),
        ({"write": None}, ["missing POST /orders None"]),
        (
            {"one": {"path": "/orders"}},
            ["shadow POST /orders/x one"],
        ),
        (
            {"admin": {"path": "/admin", "protected": False}},
            ["shadow GET /admin admin"],
        ),
        ({"admin": {"path": "/admin", "service": "other"}}, []),
        (
            {"fixed": {"path": "/fixed", "service": None, "respond": {"status": 204}}},
            [],
        ),
    ],
)
def test_deviations(changes: dict[str, Any], expected: list[str]) -> None:
    """Each kind of disagreement. How fresh the core's word is doesn't count."""
    table = openapi_tables.table_of(entries(**changes))
    found = [
        f"{one.kind} {one.method} {one.path} {one.route}"
        for one in deviations(DOCUMENT, table)
    ]
    assert found == expected


def test_shadows_of_a_service_that_no_operation_reaches() -> None:
    """They are found if the service is named."""
    other = {"path": "/admin", "service": "other"}
    table = openapi_tables.table_of(entries(admin=other))
    (found,) = deviations(DOCUMENT, table, ["other"])
    assert (found.kind, found.route, found.loc) == ("shadow", "admin", None)


def test_hosts_count() -> None:
    """A route for another host doesn't take the operation: the document lacks it."""
    document = document_of(
        {
            "openapi": "3.1.1",
            "servers": [{"url": "https://api.example.com"}],
            "paths": {"/a": {"get": {}}},
        }
    )
    at = {"path": {"exact": "/a"}, "methods": ["GET"]}
    right = {"name": "r", "service": "up", "match": at | {"hosts": ["api.example.com"]}}
    wrong = {"name": "w", "service": "up", "match": at | {"hosts": ["b.example.com"]}}
    found = deviations(document, openapi_tables.table_of([right, wrong]))
    assert [(one.kind, one.route) for one in found] == [("shadow", "w")]
    found = deviations(document, openapi_tables.table_of([wrong]), ["up"])
    assert [one.kind for one in found] == ["shadow", "missing"]
