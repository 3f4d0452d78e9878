"""OpenAPI documents: what is read of them, and what is refused with its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.config import Loc
from gateway.identity import Protection, Requirements
from gateway.openapi import BadDocument, Operation, Site, document_of

PUBLIC, OPTIONAL, REQUIRED = (
    Protection.PUBLIC,
    Protection.OPTIONAL,
    Protection.REQUIRED,
)


def document(paths: object = None, **keys: object) -> dict[str, Any]:
    return {"openapi": "3.1.1", "paths": paths or {}, **keys}


def only(data: Mapping[str, Any]) -> Operation:
    (operation,) = document_of(data).operations
    return operation


@pytest.mark.parametrize(
    ("of_operation", "of_document", "protection", "requirements"),
    [
        ({}, {}, REQUIRED, Requirements()),
        ({"security": None}, {}, REQUIRED, Requirements()),
        ({}, {"security": []}, PUBLIC, Requirements()),
        ({"security": []}, {"security": [{"oauth": []}]}, PUBLIC, Requirements()),
        ({"security": [{}]}, {}, OPTIONAL, Requirements()),
        ({"security": [{"oauth": ["a"]}, {}]}, {}, OPTIONAL, Requirements()),
        ({"security": [{"oauth": []}]}, {"security": []}, REQUIRED, Requirements()),
        (
            {"security": [{"oauth": ["a", "b"], "key": ["c", "a"]}]},
            {},
            REQUIRED,
            Requirements(permissions_all=("a", "b", "c")),
        ),
        (
            {"security": [{"oauth": ["a"]}, {"key": ["b"]}]},
            {},
            REQUIRED,
            Requirements(permissions_any=("a", "b")),
        ),
        (
            {"security": [{"oauth": ["a"]}, {"key": []}]},
            {},
            REQUIRED,
            Requirements(),
        ),
        (
            {},
            {"security": [{"oauth": ["a", "b"]}, {"key": ["c"]}]},
            REQUIRED,
            Requirements(
                alternatives=(
                    (
                        Requirements(permissions_all=("a", "b")),
                        Requirements(permissions_all=("c",)),
                    ),
                )
            ),
        ),
    ],
)
def test_security(
    of_operation: dict[str, Any],
    of_document: dict[str, Any],
    protection: Protection,
    requirements: Requirements,
) -> None:
    """Only an empty list is public. What isn't said is protected."""
    found = only(document({"/a": {"get": of_operation}}, **of_document))
    assert (found.protection, found.requirements) == (protection, requirements)


@pytest.mark.parametrize(
    ("servers", "sites"),
    [
        ([], [Site(None, "")]),
        ([{"url": "/"}], [Site(None, "")]),
        ([{"url": "v1/"}], [Site(None, "/v1")]),
        (
            [{"url": "https://API.example.com:8443/v1/"}],
            [Site("api.example.com", "/v1")],
        ),
        (
            [{"url": "//a.example"}, {"url": "/b"}],
            [Site("a.example", ""), Site(None, "/b")],
        ),
        ([{"url": "/a"}, {"url": "/a/"}], [Site(None, "/a")]),
        (
            [
                {
                    "url": "https://{place}.example/{v}",
                    "variables": {"place": {"default": "eu"}, "v": {"default": 2}},
                }
            ],
            [Site("eu.example", "/2")],
        ),
    ],
)
def test_servers(servers: list[Any], sites: list[Site]) -> None:
    """Their hosts and paths, with the defaults of variables; ports don't count."""
    found = only(document({"/a": {"get": {}}}, servers=servers))
    assert [*found.sites] == sites


def test_the_nearest_servers_count() -> None:
    """Those of the operation, then of its path, then of the document."""
    one, two, three = ([{"url": f"/{name}"}] for name in ("one", "two", "three"))
    data = document(
        {
            "/a": {"servers": two, "get": {"servers": three}, "put": {}},
            "/b": {"get": {}},
        },
        servers=one,
    )
    sites = [operation.sites[0].prefix for operation in document_of(data).operations]
    assert sites == ["/three", "/two", "/one"]


def test_references_within_the_document_are_followed() -> None:
    """JSON pointers, with `~1` for a slash."""
    data = document(
        {"/a": {"$ref": "#/components/pathItems/of~1a"}},
        components={"pathItems": {"of/a": {"post": {"operationId": "make"}}}},
    )
    assert (only(data).name, only(data).method, only(data).path) == (
        "make",
        "POST",
        "/a",
    )


def test_methods_that_are_not_forwarded_are_left_out() -> None:
    """They are named, so that nobody looks for them."""
    found = document_of(document({"/a": {"trace": {}, "get": {}, "x-odd": {}}}))
    assert [one.method for one in found.operations] == ["GET"]
    assert found.left_out == ("TRACE /a",)


@pytest.mark.parametrize(
    ("data", "loc", "part"),
    [
        ({}, (), "3.0, 3.1 or 3.2"),
        ({"openapi": "4.0.0"}, ("openapi",), "3.0, 3.1 or 3.2"),
        ({"swagger": "2.0"}, ("swagger",), "Swagger"),
        (document([]) | {"paths": []}, ("paths",), "keys"),
        (document({"a": {}}), ("paths", "a"), "begins with /"),
        (document({"/a": None}), ("paths", "/a"), "keys"),
        (document({"/a": {"get": []}}), ("paths", "/a", "get"), "keys"),
        (
            document({"/a": {"$ref": "other.yaml#/a"}}),
            ("paths", "/a", "$ref"),
            "within the document",
        ),
        (
            document({"/a": {"$ref": "#/nowhere"}}),
            ("paths", "/a", "$ref"),
            "nothing at #/nowhere",
        ),
        (
            document({"/a": {"$ref": "#/paths/~1a"}}),
            ("paths", "/a"),
            "too many references",
        ),
        (
            document({"/a": {"get": {"security": {}}}}),
            ("paths", "/a", "get", "security"),
            "a list",
        ),
        (
            document({"/a": {"get": {}}}, security=[{"oauth": "a"}]),
            ("security", 0, "oauth"),
            "scopes",
        ),
        (
            document({"/a": {"get": {}}}, servers=[{"url": "https://{x}"}]),
            ("servers", 0, "url"),
            "no default",
        ),
        (
            document({"/a": {"get": {}}}, servers=[{"url": "https://[x"}]),
            ("servers", 0, "url"),
            "no URL",
        ),
        (
            document({"/a": {"get": {}}}, servers=[{"url": "/a?b=c"}]),
            ("servers", 0, "url"),
            "without query",
        ),
    ],
)
def test_what_is_no_document_is_refused_with_its_place(
    data: dict[str, Any], loc: Loc, part: str
) -> None:
    """Nothing is guessed: a wrong guess could leave an operation open."""
    with pytest.raises(BadDocument) as caught:
        document_of(data)
    (finding,) = caught.value.findings
    assert finding.loc == loc
    assert part in finding.message
