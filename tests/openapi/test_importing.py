"""OpenAPI documents as routes: exactly what the document names, and as protected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openapi_tables
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import settings
from gateway.openapi import deviations, document_of, imported
from gateway.openapi.importing import routes_of

SEGMENTS = st.sampled_from(["orders", "{id}", "items", "{item-id}", "a.b", "{n}.{ext}"])
SECURITY: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        [],
        [{}],
        [{"oauth": []}],
        [{"oauth": ["read"]}],
        [{"oauth": ["read", "write"]}],
        [{"oauth": ["read"]}, {"key": ["admin"]}],
        [{"oauth": ["read", "write"]}, {"key": ["admin"]}],
    ]
)
METHODS = st.sampled_from(["get", "put", "post", "delete", "patch", "head", "options"])


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Documents whose paths differ in more than the names of parameters."""
    lists = draw(st.lists(st.lists(SEGMENTS, min_size=1, max_size=3), max_size=4))
    paths = {}
    for number, segments in enumerate(lists):
        paths["/" + "/".join((f"r{number}", *segments))] = {
            method: {"security": security}
            for method, security in draw(
                st.dictionaries(METHODS, SECURITY, min_size=1)
            ).items()
        }
    servers = st.sampled_from(
        ["/", "/v1", "https://api.example.com/v1", "https://b.example"]
    )
    return {
        "openapi": "3.1.1",
        "paths": paths,
        "servers": [{"url": url} for url in draw(st.lists(servers, max_size=3))],
    }


@given(documents())
def test_the_routes_agree_with_the_document(data: dict[str, Any]) -> None:
    """Nothing is laxer or stricter, and neither has what the other lacks."""
    document = document_of(data)
    if not document.operations:
        return
    table = openapi_tables.table_of(routes_of(document, "up"))
    assert deviations(document, table) == []
    names = [route.name for route in table.routes]
    assert len(set(names)) == len(names)


def test_text(tmp_path: Path) -> None:
    """The text is a file that another one includes; names that YAML has are quoted."""
    document = document_of(
        {
            "openapi": "3.0.3",
            "info": {"title": "Odd\nthings", "version": 2},
            "paths": {
                "/a": {"get": {"operationId": "true", "security": []}},
                "/{x}/b": {"post": {"security": [{"s": ["a: b", "${HOME}", "7"]}]}},
                "/ü": {"get": {}},
            },
        }
    )
    text = imported(document, "up", openapi_tables.TARGET, "odd.yaml")
    (tmp_path / "up.yaml").write_text(text.replace("/ü", "/%C3%BC"))
    own = tmp_path / "own.yaml"
    own.write_text(
        "version: 1\ninclude: [up.yaml]\nsupertokens: {recipes: {userroles: {}}}\n"
    )
    loaded = settings.load(own, {})
    first, second, _ = loaded.config.routes
    assert (first.name, first.protected) == ("true", False)
    assert second.require.permissions.all == ("a: b", "${HOME}", "7")
    assert text.startswith(
        "# Made of odd.yaml ('Odd\\nthings 2').\n# What it doesn't name has no route"
    )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a", {"exact": "/a"}),
        ("/", {"exact": "/"}),
        ("/a/{id}", {"template": "/a/{id}"}),
        ("/a/{order-id}/{1}", {"template": "/a/{order_id}/{p1}"}),
        ("/a/{x-y}/{x.y}", {"template": "/a/{x_y}/{x_y_2}"}),
        ("/a/{name}.{ext}", {"regex": r"/a/[^/]+\.[^/]+"}),
        ("/a(b)/v{n}", {"regex": r"/a\(b\)/v[^/]+"}),
    ],
)
def test_paths(path: str, expected: dict[str, str]) -> None:
    """Names of whole segments make a template, others a pattern."""
    document = document_of({"openapi": "3.1.1", "paths": {path: {"get": {}}}})
    (route,) = routes_of(document, "up")
    assert route["match"]["path"] == expected


def test_an_operation_without_security_is_protected_whatever_the_default_is() -> None:
    """`defaults.protected: false` of the including file opens none of them."""
    document = document_of({"openapi": "3.1.1", "paths": {"/a": {"get": {}}}})
    (route,) = routes_of(document, "up")
    assert route["protected"] is True
