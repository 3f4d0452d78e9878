"""`request.encoded_slash` and `request.merge_slashes`: which route takes which path."""

from __future__ import annotations

from typing import Any

import pytest
from faults import FaultUpstream, answer
from gateway_under_test import NoAuth, gateway
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway import config, routes
from gateway.errors import BadTarget
from gateway.resources import Router
from gateway.routes import Matched

KEEP = {"request": {"encoded_slash": "keep"}}
REPEATED = {"request": {"merge_slashes": False}}
BOTH = {"request": {"encoded_slash": "keep", "merge_slashes": False}}


def router(*rules: dict[str, Any], **gateway_keys: Any) -> Router:
    """Return the resources of these routes to one service, public by default."""
    settings = config.parse(
        {
            "version": 1,
            "gateway": gateway_keys,
            "defaults": {"protected": False},
            "services": {"app": {"targets": ["http://app"]}},
            "routes": [{"service": "app", **rule} for rule in rules],
        }
    )
    table = routes.compile(settings)
    return Router(table=table, auth=NoAuth(), user_path="/user")


def found(resources: Router, path: str, method: str = "GET") -> tuple[str, str]:
    """Return what becomes of a request: its outcome, and the path that is matched."""
    try:
        resource = resources.find(method, path.encode(), b"gw")
    except BadTarget:
        return "400", ""
    outcome = resource.outcome
    if isinstance(outcome, Matched):
        return outcome.route.path, resource.target.path
    return type(outcome).__name__, resource.target.path


@pytest.mark.parametrize(
    ("keys", "path", "expected"),
    [
        ({}, "/a/x%2Fy", ("400", "")),
        ({}, "/a//x", ("/a", "/a/x")),
        (KEEP, "/a/x%2Fy", ("/a", "/a/x%2Fy")),
        (KEEP, "/a/x%2fy", ("/a", "/a/x%2fy")),
        (KEEP, "/a//x", ("/a", "/a/x")),
        (KEEP, "/a//x%2Fy", ("/a", "/a/x%2Fy")),
        (KEEP, "/a%2Fx", ("400", "")),
        (KEEP, "/b/x%2Fy", ("400", "")),
        (KEEP, "/user%2Fx", ("400", "")),
        (REPEATED, "/a//x", ("/a", "/a//x")),
        (REPEATED, "//a//x", ("/a", "/a//x")),
        (REPEATED, "/a/x", ("/a", "/a/x")),
        (REPEATED, "/a//x%2Fy", ("400", "")),
        (REPEATED, "/b//x", ("/b", "/b/x")),
        (BOTH, "/a//x%2Fy", ("/a", "/a//x%2Fy")),
        (BOTH, "http://gw/a/x", ("/a", "/a/x")),
    ],
)
def test_a_route_takes_the_slashes_that_it_keeps(
    keys: dict[str, Any], path: str, expected: tuple[str, str]
) -> None:
    """Every other route refuses `%2F` and merges `//`, as if no route kept them."""
    assert found(router({"path": "/a", **keys}, {"path": "/b"}), path) == expected


def test_a_preflight_is_for_the_route_of_another_method() -> None:
    """OPTIONS isn't allowed there, but the path is one that the route takes."""
    resources = router({"path": "/a", "methods": ["GET"], **KEEP})
    assert found(resources, "/a/x%2Fy", "OPTIONS")[0] == "MethodNotAllowed"
    target = resources.find("OPTIONS", b"/a/x%2Fy", b"gw").target
    assert resources.method_allowed(target, "GET")
    assert not resources.method_allowed(target, "PUT")


GUARDED = ({"path": "/a", **BOTH}, {"path": "/a/admin", "protected": True})


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/admin", "/a/admin"),
        ("/a/admin%2Fx", "NearMiss"),
        ("/a/admin%2fx", "NearMiss"),
        ("/a//admin", "NearMiss"),
        ("/a//admin%2Fx", "NearMiss"),
        ("/a//ADMIN%2Fx", "NearMiss"),
        ("/a/x%2Fadmin", "/a"),
        ("/a/x//admin", "/a"),
        ("/a/adminx%2Fy", "/a"),
        # Below the guard the default holds: the guard itself keeps nothing.
        ("/a/admin//x", "/a/admin"),
    ],
)
@pytest.mark.parametrize("paths", [None, "exact"])
def test_near_misses(path: str, expected: str, paths: object) -> None:
    """Decoded or merged, the path must not be that of a stricter route.

    `paths: exact` doesn't say how a service reads slashes that no other route keeps.
    """
    services = {"targets": ["http://app"], **({"paths": paths} if paths else {})}
    settings = config.parse(
        {
            "version": 1,
            "defaults": {"protected": False},
            "services": {"app": services},
            "routes": [{"service": "app", **x} for x in GUARDED],
        }
    )
    if paths == "exact" and "ADMIN" in path:
        expected = "/a"
    resources = Router(table=routes.compile(settings), auth=NoAuth(), user_path="/user")
    assert found(resources, path)[0] == expected


def test_near_misses_that_are_forwarded() -> None:
    """`gateway.near_misses: forward` takes this guard away, too."""
    resources = router(*GUARDED, near_misses="forward")
    assert found(resources, "/a/admin%2Fx") == ("/a", "/a/admin%2Fx")


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["admin", "x", "%2F", "%2f", "/", ".."]), max_size=7))
def test_no_spelling_passes_the_guard(parts: list[str]) -> None:
    """However slashes are written, what decodes to a guarded path isn't forwarded."""
    raw = "/a/" + "".join(parts)
    outcome, path = found(router(*GUARDED), raw)
    if outcome == "/a":
        decoded = path.replace("%2F", "/").replace("%2f", "/")
        while "//" in decoded:
            decoded = decoded.replace("//", "/")
        assert ".." not in decoded.split("/")
        assert not f"{decoded}/".startswith("/a/admin/")


async def test_the_service_gets_the_path_byte_for_byte() -> None:
    """The path that is matched is the one that is sent, after a rewrite as well."""
    route = {"path": "/a", "rewrite": {"strip_prefix": "/a"}, **BOTH}
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, route=route) as gw,
    ):
        for path in ("/a/@s%2fn?q=%2F", "/a/x//y", "/a//evil.com/x", "/a/..%2Fx"):
            await gw.ask("GET", path)
        lines = [request.line.split(b" ")[1] for request in upstream.requests]
        assert lines == [b"/@s%2fn?q=%2F", b"/x//y", b"/evil.com/x"]


def test_the_sample_of_keys() -> None:
    """A mistake in the value is named at its place."""
    with pytest.raises(config.InvalidConfig) as caught:
        router({"path": "/a", "request": {"encoded_slash": "merge"}})
    finding = caught.value.findings[0]
    assert finding.path == "routes[0].request.encoded_slash"
