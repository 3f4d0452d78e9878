"""Fields that routes set, add and remove: which ones they may, and what arrives."""

from __future__ import annotations

from typing import Any

import pytest
from faults import FaultUpstream, answer
from gateway_under_test import gateway

from gateway import config
from gateway.headers import IDENTITY_NAMES
from gateway.headers.edits import (
    check_reply_edit,
    check_reply_value,
    check_request_edit,
    compile_edits,
)

OF_CONNECTIONS = [
    *("Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Upgrade"),
    *("Transfer-Encoding", "Content-Length", "HTTP2-Settings", "connection"),
    *("Sec-WebSocket-Key", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol"),
]
OF_REQUESTS = [
    *("Host", "Expect", "Via", "X-Request-Id", "X-Forwarded-For", "X-Forwarded-Proto"),
    *("X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix", "Forwarded"),
    *("X-Forwarded-User", "X-Real-IP", "True-Client-IP", "X-Envoy-Anything"),
    *("X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override", "Proxy"),
    *("Proxy-Authorization", "rid", "fdi-version", "anti-csrf", "st-auth-mode"),
    *("X_Debug", "X.A", "", "X A", "-X", "X-A:", "é"),
]
OF_REPLIES = [
    *("Access-Control-Allow-Origin", "access-control-expose-headers", "Date", "Via"),
    *("X-Request-Id", "front-token", "anti-csrf", "st-access-token", "X_A", "X A", ""),
]


@pytest.mark.parametrize("name", [*OF_CONNECTIONS, *OF_REQUESTS, *IDENTITY_NAMES])
def test_fields_of_requests_that_are_the_gateways(name: str) -> None:
    """Identity, the way of the request and its framing aren't a route's to change."""
    with pytest.raises(ValueError, match=r"\w"):
        check_request_edit(name)


@pytest.mark.parametrize("name", [*OF_CONNECTIONS, *OF_REPLIES, *IDENTITY_NAMES])
def test_fields_of_replies_that_are_the_gateways(name: str) -> None:
    """CORS, sessions and framing aren't a route's to change."""
    with pytest.raises(ValueError, match=r"\w"):
        check_reply_edit(name)


@pytest.mark.parametrize(
    "name",
    ["X-From", "Authorization", "Cookie", "Origin", "Accept-Encoding", "User-Agent"],
)
def test_other_fields_of_requests(name: str) -> None:
    """A route may send a service's own credentials, for example."""
    check_request_edit(name)


@pytest.mark.parametrize(
    "name",
    [
        *("Strict-Transport-Security", "Content-Security-Policy", "Server", "X-Frame"),
        *("Cache-Control", "Set-Cookie", "Vary", "Content-Type", "Location"),
    ],
)
def test_other_fields_of_replies(name: str) -> None:
    """HSTS, CSP and a service's name are what routes change most."""
    check_reply_edit(name)


@pytest.mark.parametrize(
    "value", ["sAccessToken=x", "__Host-sRefreshToken=", "=sFrontToken=x"]
)
def test_cookies_of_sessions_are_not_set(value: str) -> None:
    """A fixed session would sign every client in as one user."""
    with pytest.raises(ValueError, match="session"):
        check_reply_value("set-cookie", value)
    check_reply_value("Set-Cookie", "theme=dark")


@pytest.mark.parametrize(
    ("section", "edits", "path"),
    [
        ("request", {"set": {"Host": "a"}}, "set.Host"),
        ("request", {"remove": ["X-User-Id"]}, "remove[0]"),
        ("request", {"add": {"X-Forwarded-For": "1"}}, "add.X-Forwarded-For"),
        ("request", {"set": {"X-A": "a\r\nX-B: b"}}, "set.X-A"),
        ("request", {"set": {"X-A": "é"}}, "set.X-A"),
        ("request", {"set": {"X-A": "a"}, "remove": ["x-a"]}, "remove"),
        ("request", {"set": {"X-A": "a", "x-a": "b"}}, "set.x-a"),
        ("response", {"set": {"Access-Control-Allow-Origin": "*"}}, None),
        ("response", {"add": {"Set-Cookie": "sAccessToken=x"}}, "add.Set-Cookie"),
        ("response", {"remove": ["X-Request-Id"]}, "remove[0]"),
    ],
)
@pytest.mark.parametrize("place", ["routes", "services", "defaults"])
def test_mistakes(
    place: str, section: str, edits: dict[str, Any], path: str | None
) -> None:
    """`check` names the field and the reason, wherever the edit stands."""
    keys = {section: {"headers": edits}}
    route = {"path": "/a", "service": "s", **(keys if place == "routes" else {})}
    data = {
        "version": 1,
        "services": {
            "s": {"targets": ["http://s"], **(keys if place == "services" else {})}
        },
        "routes": [route],
        "defaults": keys if place == "defaults" else {},
    }
    with pytest.raises(config.InvalidConfig) as caught:
        config.parse(data)
    (finding,) = caught.value.findings
    assert finding.message
    if path is not None:
        assert finding.path.endswith(f"{section}.headers.{path}")


def test_what_is_nearer_counts() -> None:
    """A route sets what its service removes, and removes what the defaults set."""

    def headers(**edits: Any) -> dict[str, Any]:
        return {"response": {"headers": edits}}

    settings = config.parse(
        {
            "version": 1,
            "defaults": headers(set={"X-A": "d", "X-B": "d", "X-C": "d"}),
            "services": {
                "s": {"targets": ["http://s"], **headers(remove=["x-b", "Server"])}
            },
            "groups": [
                {
                    "service": "s",
                    **headers(add={"X-C": "g", "X-D": "g"}),
                    "routes": [
                        {"path": "/a", **headers(remove=["X-A"], set={"x-D": "r"})},
                        {"path": "/b"},
                    ],
                }
            ],
        }
    )
    routes = config.effective_routes(settings)
    one, other = (
        route.settings.response.headers.over((settings.defaults.response.headers,))
        for route in routes
    )
    assert one.set == {"X-C": "d", "x-D": "r"}
    assert one.add == {"X-C": "g"}
    assert {name.lower() for name in one.remove} == {"x-a", "x-b", "server"}
    assert other.set == {"X-A": "d", "X-C": "d"}
    assert other.add == {"X-C": "g", "X-D": "g"}


def test_caches() -> None:
    """Fields for caches are apart: with new tokens, they aren't sent."""
    edits = compile_edits({"Cache-Control": "public", "X-A": "a"}, {}, ())
    assert edits.added == b"Cache-Control: public\r\nX-A: a\r\n"
    assert edits.added_uncached == b"X-A: a\r\n"


EDITS = {
    "request": {
        "headers": {
            "set": {"X-From": "edge"},
            "add": {"X-Tag": "b"},
            "remove": ["X-Debug", "Cookie"],
        },
        "allow_field_names": ["X_Debug", "X_From", "X_Other"],
    },
    "response": {
        "headers": {
            "set": {"Strict-Transport-Security": "max-age=31536000", "Vary": "Accept"},
            "add": {"X-Tag": "b"},
            "remove": ["Server", "X-Powered-By"],
        }
    },
}


async def test_requests_and_replies_are_edited() -> None:
    """The client's spelling doesn't matter, and other routes aren't changed."""
    reply = (
        b"HTTP/1.1 200 OK\r\nserver: svc\r\nX-Powered-By: PHP\r\nX-Tag: a\r\n"
        b"Strict-Transport-Security: max-age=0\r\nVary: Origin\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    sent = [
        *(
            ("x-from", "evil"),
            ("X_From", "evil"),
            ("X-Debug", "evil"),
            ("X_DEBUG", "evil"),
        ),
        *(("Cookie", "a=evil"), ("X-Tag", "a"), ("X_Other", "kept")),
    ]
    async with (
        FaultUpstream(answer(reply)) as upstream,
        gateway(
            upstream.url, route=EDITS, more_routes=[{"path": "/b", "protected": False}]
        ) as gw,
    ):
        edited = await gw.ask("GET", "/a", *sent)
        plain = await gw.ask("GET", "/b", *sent)
        first, second = upstream.requests
    assert b"evil" not in first.head
    assert b"\r\nX-From: edge\r\n" in first.head
    assert b"\r\nX-Tag: a\r\n" in first.head
    assert b"\r\nX-Tag: b\r\n" in first.head
    assert b"\r\nX_Other: kept\r\n" in first.head
    assert edited.all("Server") == edited.all("X-Powered-By") == []
    assert edited.one("Strict-Transport-Security") == "max-age=31536000"
    assert edited.all("X-Tag") == ["a", "b"]
    assert edited.all("Vary") == ["Accept", "Origin"]
    assert second.field(b"x-from") == b"evil"
    assert second.field(b"Cookie") == b"a=evil"
    assert plain.all("Server") == ["svc"]
    assert plain.all("Vary") == ["Origin"]


@pytest.mark.parametrize("has_new_tokens", [False, True])
async def test_what_caches_may_keep(has_new_tokens: bool) -> None:
    """A route's Cache-Control counts, but never with new tokens."""
    headers = {"set": {"Cache-Control": "public, max-age=60"}}
    route = {"protected": True, "response": {"headers": headers}}
    reply = b"HTTP/1.1 200 OK\r\nCache-Control: no-cache\r\nContent-Length: 0\r\n\r\n"
    async with (
        FaultUpstream(answer(reply)) as upstream,
        gateway(upstream.url, route=route) as gw,
    ):
        if has_new_tokens:
            gw.verifier.new_tokens = ((b"st-access-token", b"new"),)
        got = await gw.ask("GET", "/a", ("Authorization", "Bearer ann"))
    expected = "no-store" if has_new_tokens else "public, max-age=60"
    assert got.all("Cache-Control") == [expected]
