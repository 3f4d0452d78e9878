"""Route tables as OpenAPI documents."""

from __future__ import annotations

from typing import Any

import openapi_tables
from hypothesis import given
from hypothesis import strategies as st

from gateway.openapi import deviations, document_of, exported
from gateway.openapi.importing import routes_of
from gateway.routes.difference import differences

PATHS = st.sampled_from(
    [
        {"exact": "/a"},
        {"exact": "/a/b"},
        {"template": "/t/{id}"},
        {"template": "/{x}/c"},
    ]
)
NEEDS = st.sampled_from(
    [
        {"protected": False},
        {"protected": "optional"},
        {},
        {"require": {"permissions": {"all": ["a", "b"]}}},
        {"require": {"permissions": {"any": ["a", "b"]}}},
    ]
)
METHODS = st.sampled_from([["GET"], ["POST", "PUT"], ["DELETE"]])


@given(
    st.dictionaries(
        st.tuples(PATHS.map(lambda path: next(iter(path.items()))), METHODS.map(tuple)),
        NEEDS,
        min_size=1,
    )
)
def test_a_document_and_its_routes_say_the_same(
    table: dict[Any, dict[str, Any]],
) -> None:
    """The routes that are made of it let the same requests through."""
    entries = [
        {
            "service": "up",
            "match": {"path": dict([path]), "methods": [*methods]},
            **needs,
        }
        for (path, methods), needs in table.items()
    ]
    before = openapi_tables.table_of(entries)
    made = exported(before, "t")
    assert made.left_out == ()
    document = document_of(made.document)
    after = openapi_tables.table_of(routes_of(document, "up"))
    assert differences(before, after) == []
    assert deviations(document, before) == []


def test_what_a_document_cannot_say() -> None:
    """It is left out and named, or said in words."""
    table = openapi_tables.table_of(
        [
            {"name": "any", "service": "up", "path": "/any"},
            {"name": "r", "service": "up", "path": {"regex": "/x[0-9]"}},
            {
                "name": "c",
                "service": "up",
                "match": {"path": "/c", "headers": {"X-Beta": "*"}},
            },
            {
                "name": "admin",
                "service": "other",
                "match": {
                    "path": {"template": "/admin/{id}"},
                    "methods": ["GET", "PURGE"],
                    "hosts": ["api.example.com"],
                },
                "require": {"roles": {"any": ["admin"]}},
            },
        ]
    )
    made = exported(table, "t")
    assert made.left_out == (
        "r: a pattern",
        "c: a condition on fields or query",
        "admin: the method PURGE",
    )
    paths = made.document["paths"]
    assert sorted(paths) == ["/admin/{id}", "/any"]
    assert sorted(paths["/any"]) == ["delete", "get", "patch", "post", "put"]
    operation = paths["/admin/{id}"]["get"]
    assert operation["x-gateway-require"] == ["roles any of admin"]
    assert operation["servers"] == [{"url": "//api.example.com"}]
    assert [one["name"] for one in operation["parameters"]] == ["id"]
    assert exported(table, "t", ["other"]).document["paths"].keys() == {"/admin/{id}"}
