"""Origins of CORS policies, in full, by patterns, or all; by route and by service."""

from __future__ import annotations

from typing import Any

import pytest
from faults import FaultUpstream, answer
from gateway_under_test import ORIGIN, gateway
from wire import WireReply

from gateway import config
from gateway.downstream.origins import AllowedOrigins

OTHER = "https://partner.example.net"
METHOD = ("Access-Control-Request-Method", "GET")
ANN = ("Authorization", "Bearer ann")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("https://a.b.example.com", True),
        ("https://a-b_1.example.com", True),
        ("https://example.com", False),
        ("https://.example.com", False),
        ("https://evilexample.com", False),
        ("https://app.example.com.evil.com", False),
        ("https://app.example.com:8443", False),
        ("http://app.example.com", False),
        ("https://app.exampleXcom", False),
        ("https://evil.com/.example.com", False),
        ("https://evil.com#.example.com", False),
        ("https://a@x.example.com", False),
        ("https://APP.example.com", False),
        ("https://app.example.com\n", False),
        ("null", False),
        ("*", False),
        ("", False),
        ("http://localhost:3000", True),
        ("http://localhost:3001", False),
        ("https://x.shop.example.net:8443", True),
    ],
)
def test_origins(origin: str, allowed: bool) -> None:
    """A pattern is for one label or more; scheme and port must be the same."""
    policy = AllowedOrigins(
        (
            "https://*.example.com",
            "http://localhost:3000",
            "https://*.shop.example.net:8443",
        )
    )
    assert (origin in policy) is allowed


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ("https://*.example.com", "https://*.example.com"),
        ("https://*.Example.com:443", "https://*.example.com"),
        ("http://*.localhost:3000", "http://*.localhost:3000"),
        ("https://app.example.com", "https://app.example.com"),
    ],
)
def test_patterns_in_the_file(value: str, canonical: str) -> None:
    """They are stored as browsers send origins."""
    parsed = config.parse({"version": 1, "cors": {"allow_origins": [value]}})
    assert parsed.cors.allow_origins == (canonical,)


@pytest.mark.parametrize(
    "value",
    [
        "*",
        "https://*",
        "https://*.com",
        "https://*.*.example.com",
        "https://a*.example.com",
        "https://*example.com",
        "*.example.com",
        "https://*.10.0.0.1",
        "https://*.example.com/",
        "*://*.example.com",
    ],
)
def test_patterns_that_are_refused(value: str) -> None:
    """`*` is for public routes, not for all of them."""
    with pytest.raises(config.InvalidConfig):
        config.parse({"version": 1, "cors": {"allow_origins": [value]}})


@pytest.mark.parametrize("protected", [True, "optional"])
@pytest.mark.parametrize("place", ["route", "service"])
def test_every_origin_is_for_public_routes(place: str, protected: object) -> None:
    """A route that reads sessions can't be opened to every page, whoever says so."""
    keys = {"cors": {"allow_origins": ["*"]}}
    data = {
        "version": 1,
        "services": {
            "s": {"targets": ["http://s"], **(keys if place == "service" else {})}
        },
        "routes": [
            {
                "path": "/a",
                "service": "s",
                "protected": protected,
                **(keys if place == "route" else {}),
            }
        ],
    }
    with pytest.raises(config.InvalidConfig) as caught:
        config.parse(data)
    (finding,) = caught.value.findings
    assert finding.path.endswith("cors.allow_origins")
    assert "public" in finding.message


def test_every_origin_stands_alone() -> None:
    """Another origin beside `*` would get no credentials, either."""
    keys = {"cors": {"allow_origins": ["*", OTHER]}, "protected": False}
    with pytest.raises(config.InvalidConfig, match="every origin"):
        config.parse(
            {"version": 1, "routes": [{"path": "/a", "upstream": "http://s", **keys}]}
        )


def granted(reply: WireReply) -> tuple[str | None, str | None]:
    """Return the origin that may read *reply*, and whether with credentials."""
    return (
        reply.one("Access-Control-Allow-Origin"),
        reply.one("Access-Control-Allow-Credentials"),
    )


async def test_policies_of_routes() -> None:
    """A route's keys come on top of `cors`; other routes keep that."""
    more: list[dict[str, Any]] = [
        {"path": "/open", "protected": False, "cors": {"allow_origins": ["*"]}},
        {
            "path": "/partner",
            "protected": True,
            "cors": {
                "allow_origins": ["https://*.example.net"],
                "expose_headers": ["X-Total"],
                "max_age": 5,
            },
        },
        {"path": "/fields", "protected": False, "cors": {"allow_headers": ["x-own"]}},
    ]
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, more_routes=more) as gw,
    ):
        for origin, path, expected in (
            (ORIGIN, "/", (ORIGIN, "true")),
            (OTHER, "/", (None, None)),
            (ORIGIN, "/open", ("*", None)),
            (OTHER, "/open", ("*", None)),
            ("null", "/open", ("*", None)),
            (ORIGIN, "/partner", (None, None)),
            (OTHER, "/partner", (OTHER, "true")),
            (ORIGIN, "/fields", (ORIGIN, "true")),
            (OTHER, "/fields", (None, None)),
        ):
            for _ in range(2):  # remembered, too
                reply = await gw.ask("GET", path, ("Origin", origin), ANN)
                assert granted(reply) == expected, (origin, path)
                assert "Origin" in reply.all("Vary")
            preflight = await gw.ask("OPTIONS", path, ("Origin", origin), METHOD)
            assert granted(preflight) == expected, (origin, path)
        refused = await gw.ask("GET", "/partner", ("Origin", OTHER))
        assert (refused.status, granted(refused)) == (401, (OTHER, "true"))
        exposed = (refused.one("Access-Control-Expose-Headers") or "").lower()
        assert "x-total" in exposed
        assert "front-token" in exposed
        preflight = await gw.ask("OPTIONS", "/partner", ("Origin", OTHER), METHOD)
        assert preflight.one("Access-Control-Max-Age") == "5"
        for path, allowed in (("/fields", True), ("/", False)):
            asked = ("Access-Control-Request-Headers", "x-own")
            preflight = await gw.ask("OPTIONS", path, ("Origin", ORIGIN), METHOD, asked)
            names = preflight.one("Access-Control-Allow-Headers") or ""
            assert ("x-own" in names.lower()) is allowed


async def test_a_failure_has_the_policy_of_its_route(closed_port: int) -> None:
    """A page must be able to read a 502 of the route that it may read."""
    route = {"cors": {"allow_origins": [OTHER]}}
    async with gateway(f"http://127.0.0.1:{closed_port}", route=route) as gw:
        reply = await gw.ask("GET", "/", ("Origin", OTHER))
        assert (reply.status, granted(reply)) == (502, (OTHER, "true"))


async def test_a_services_policy_is_for_its_routes() -> None:
    """The route's own keys count before it."""
    service = {"cors": {"allow_origins": [OTHER]}}
    more = [{"path": "/own", "protected": False, "cors": {"allow_origins": [ORIGIN]}}]
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, service=service, more_routes=more) as gw,
    ):
        for path, expected in (("/", OTHER), ("/own", ORIGIN)):
            for origin in (OTHER, ORIGIN):
                reply = await gw.ask("GET", path, ("Origin", origin))
                assert granted(reply)[0] == (origin if origin == expected else None)


async def test_what_is_remembered_of_origins_is_bounded() -> None:
    """G14: a pattern has as many origins as there are names."""
    route = {"cors": {"allow_origins": ["https://*.example.net"]}}
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, route=route) as gw,
    ):
        own = gw.proxy.decider._cors.of(gw.proxy.decider._resources.table.routes[0])
        for number in range(1100):
            await own.fields((b"https://a%d.example.net" % number,))
        assert 0 < len(own._decided) <= 1024
        assert await own.fields((b"https://example.org",)) == ()
