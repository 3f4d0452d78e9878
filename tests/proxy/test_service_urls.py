"""What a service says of its own address, as its client sees it."""

from __future__ import annotations

from typing import Any

import pytest
from faults import FaultUpstream, answer
from gateway_under_test import gateway
from wire import WireReply, ask

APP = {"path": "/app", "rewrite": {"strip_prefix": "/app"}}
BY_PROXY = {"trusted_proxies": ["127.0.0.1"]}
HTTPS = ("X-Forwarded-Proto", "https")


def replies(*fields: str, status: str = "307 Temporary Redirect") -> Any:
    """Return a service that replies with *fields*; `SELF` is its own address."""

    async def behaviour(peer: Any) -> None:
        own = f"127.0.0.1:{upstream.port}"
        lines = "".join(f"{field}\r\n".replace("SELF", own) for field in fields)
        reply = f"HTTP/1.1 {status}\r\n{lines}Content-Length: 0\r\n\r\n"
        await answer(reply.encode())(peer)

    upstream = FaultUpstream(behaviour)
    return upstream


async def reply_of(
    *fields: str, route: dict[str, Any], sent: tuple[tuple[str, str], ...] = ()
) -> WireReply:
    """Return the client's view of a service's reply with *fields*."""
    async with (
        replies(*fields) as upstream,
        gateway(upstream.url, route=route, settings=BY_PROXY) as gw,
    ):
        host = "api.example.com"
        return await ask(gw.port, "GET", "/app/items", *sent, host=host)


@pytest.mark.parametrize(
    ("location", "route", "public"),
    [
        ("http://SELF/items/", APP, "https://api.example.com/app/items/"),
        ("https://SELF/items/", APP, "https://api.example.com/app/items/"),
        ("//SELF/items/", APP, "//api.example.com/app/items/"),
        ("/items/", APP, "/app/items/"),
        ("/app/items/", APP, "/app/items/"),
        ("/items/", {}, "/items/"),
        ("http://SELF/app/items/", {}, "https://api.example.com/app/items/"),
        ("https://elsewhere.example.com/", APP, "https://elsewhere.example.com/"),
        (
            "http://api.example.com/items/",
            {**APP, "host_header": "preserve"},
            "https://api.example.com/app/items/",
        ),
        (
            "http://svc.internal/items/",
            {**APP, "host_header": "svc.internal"},
            "https://api.example.com/app/items/",
        ),
        (
            "/items/",
            {**APP, "rewrite": {"strip_prefix": "/app", "redirects": False}},
            "/items/",
        ),
    ],
)
async def test_redirects(location: str, route: dict[str, Any], public: str) -> None:
    """FastAPI and Flask redirect to the address that they were called at.

    The client gets the address that it used, and nothing of the network inside.
    """
    reply = await reply_of(f"Location: {location}", route=route, sent=(HTTPS,))
    assert reply.one("Location") == public


async def test_a_redirect_names_the_internal_address_if_that_is_wanted() -> None:
    """`redirects: false` forwards a redirect unchanged, without a rewrite as well."""
    route = {"rewrite": {"redirects": False}}
    reply = await reply_of("Location: http://SELF/x", route=route)
    assert (reply.one("Location") or "").startswith("http://127.0.0.1:")


async def test_content_location_and_refresh() -> None:
    """Both hold URLs as Location does; other fields with URLs stay."""
    reply = await reply_of(
        "Content-Location: /items/1",
        "Refresh: 5; url=http://SELF/items",
        "Link: </items>; rel=next",
        route=APP,
    )
    assert reply.one("Content-Location") == "/app/items/1"
    assert reply.one("Refresh") == "5; url=http://api.example.com/app/items"
    assert reply.one("Link") == "</items>; rel=next"


@pytest.mark.parametrize(
    ("cookies", "cookie"),
    [
        (None, "a=b; Path=/; Domain=127.0.0.1; HttpOnly"),
        (False, "a=b; Path=/; Domain=127.0.0.1; HttpOnly"),
        (True, "a=b; Path=/app; HttpOnly"),
        ({"path": False}, "a=b; Path=/; HttpOnly"),
        ({"domain": "keep"}, "a=b; Path=/app; Domain=127.0.0.1; HttpOnly"),
        ({"domain": "example.com"}, "a=b; Path=/app; Domain=example.com; HttpOnly"),
    ],
)
async def test_cookies(cookies: object, cookie: str) -> None:
    """`rewrite.cookies` maps Path and Domain; by default cookies aren't touched."""
    rewrite = {"strip_prefix": "/app"}
    if cookies is not None:
        rewrite["cookies"] = cookies  # type: ignore[assignment] # as in a file
    reply = await reply_of(
        "Set-Cookie: a=b; Path=/; Domain=127.0.0.1; HttpOnly",
        "Set-Cookie: sAccessToken=x; Path=/",
        route={"path": "/app", "rewrite": rewrite},
    )
    assert reply.all("Set-Cookie") == [cookie]


async def test_connection_removes_a_location() -> None:
    """A field that Connection names is dropped before anything is mapped."""
    reply = await reply_of("Connection: Location", "Location: /x", route=APP)
    assert reply.one("Location") is None


# --- where a request comes from -----------------------------------------------


@pytest.mark.parametrize(
    ("rewrite", "sent", "prefix", "port"),
    [
        ({}, (), None, None),
        ({"strip_prefix": "/app"}, (), b"/app", b"80"),
        ({"strip_prefix": "/app"}, (HTTPS,), b"/app", b"443"),
        (
            {"strip_prefix": "/app"},
            (("X-Forwarded-Prefix", "/outer/"), ("X-Forwarded-Port", "8443")),
            b"/outer/app",
            b"8443",
        ),
        ({}, (("X-Forwarded-Prefix", "/outer/"),), b"/outer/", None),
        ({"strip_prefix": "/app", "replace_prefix": "/v2"}, (), None, b"80"),
        ({"strip_prefix": "/app", "replace_prefix": "/app"}, (), None, b"80"),
    ],
)
async def test_prefix_and_port(
    rewrite: dict[str, str],
    sent: tuple[tuple[str, str], ...],
    prefix: bytes | None,
    port: bytes | None,
) -> None:
    """A rewritten request says which path and port the client used.

    A prefix is sent if the service's paths behind it are the public ones.
    """
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(
            upstream.url, route={"path": "/app", "rewrite": rewrite}, settings=BY_PROXY
        ) as gw,
    ):
        assert (await ask(gw.port, "GET", "/app/x", *sent)).status == 200
        received = upstream.requests[0]
        assert received.field(b"X-Forwarded-Prefix") == prefix
        assert received.field(b"X-Forwarded-Port") == port


@pytest.mark.parametrize("trusted", [[], ["127.0.0.1"]], ids=["stranger", "proxy"])
async def test_real_ip_and_forwarded_are_never_the_clients(trusted: list[str]) -> None:
    """A14: with the options, both come from the gateway alone, even behind a proxy."""
    settings = {
        "trusted_proxies": trusted,
        "forwarded": {"real_ip": True, "rfc7239": True},
    }
    spoofed = [
        (name, "6.6.6.6")
        for name in ("X-Real-IP", "x-real-ip", "X_Real_IP", "Forwarded")
    ]
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, settings=settings) as gw,
    ):
        assert (await ask(gw.port, "GET", "/x", *spoofed)).status == 200
        received = upstream.requests[0]
        assert b"6.6.6.6" not in received.head
        assert received.field(b"X-Real-IP") == b"127.0.0.1"
        assert (
            received.field(b"Forwarded") == b"for=127.0.0.1;host=localhost;proto=http"
        )


@pytest.mark.parametrize(
    ("default", "service", "route", "host"),
    [
        (None, None, None, b"127.0.0.1:"),
        ("preserve", None, None, b"localhost"),
        ("preserve", "upstream", None, b"127.0.0.1:"),
        ("preserve", "upstream", "a.example", b"a.example"),
    ],
)
async def test_host_header(
    default: str | None, service: str | None, route: str | None, host: bytes
) -> None:
    """The route's value counts before the service's, and that before the default."""
    async with FaultUpstream(answer()) as upstream:
        parts: dict[str, Any] = {"defaults": {}, "service": {}, "route": {}}
        for name, value in zip(parts, (default, service, route), strict=True):
            if value is not None:
                parts[name]["host_header"] = value
        async with gateway(upstream.url, **parts) as gw:
            assert (await gw.ask("GET", "/x")).status == 200
        received = upstream.requests[0].field(b"Host") or b""
        assert received.startswith(host)
