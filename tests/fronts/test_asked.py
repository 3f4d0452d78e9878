"""The decision listener, asked with raw bytes. No service ever hears of a question."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from faults import FaultUpstream
from gateway_under_test import ORIGIN, UnderTest, gateway
from wire import WireReply, ask

from gateway.identity import SessionPolicy, SessionRequest, Verdict

ALL = ["auth-request", "forward-auth", "ext-authz"]
ROUTES: Any = [
    {"path": "/private", "protected": True},
    {"path": "/app", "protected": False, "rewrite": {"strip_prefix": "/app"}},
    {"path": "/ws", "protected": True, "websocket": {"enabled": True}},
    {"path": "/off", "protected": False, "websocket": {"enabled": False}},
    {"path": "/limited", "methods": ["GET"], "protected": False},
    {
        "path": "/team",
        "protected": True,
        "identity": {"headers": {"X-Team": "{claims.team}"}},
    },
]
ANN = ("Authorization", "Bearer ann")


@asynccontextmanager
async def asked(upstream: FaultUpstream, **keys: Any) -> AsyncIterator[UnderTest]:
    decision = {"listen": "127.0.0.1:0", "endpoints": ALL, **keys}
    async with gateway(
        upstream.url, more_routes=ROUTES, settings={"decision": decision}
    ) as gw:
        yield gw
    assert not upstream.connections


async def put(
    gw: UnderTest,
    endpoint: str,
    target: str,
    *fields: tuple[str, str],
    method: str = "GET",
) -> WireReply:
    """Ask as a front does about a request for *target*."""
    own: list[tuple[str, str]] = [("X-Forwarded-For", "192.0.2.7")]
    line, question = "GET", f"/{endpoint}"
    if endpoint == "ext-authz":
        line, question = method, question + target
        own.append(("X-Forwarded-Proto", "https"))
    elif endpoint == "forward-auth":
        own += [("X-Forwarded-Method", method), ("X-Forwarded-Uri", target)]
        own += [("X-Forwarded-Host", "a.test"), ("X-Forwarded-Proto", "https")]
    else:
        own += [("X-Original-Method", method)]
        own += [("X-Original-URL", f"https://a.test{target}")]
    return await ask(gw.ports[-1], line, question, *own, *fields, host="a.test")


@pytest.mark.parametrize("endpoint", ALL)
async def test_an_allowed_request(upstream: FaultUpstream, endpoint: str) -> None:
    """The front gets the identity, where the request goes, and the new tokens."""
    async with asked(upstream) as gw:
        gw.verifier.new_tokens = (
            (b"Set-Cookie", b"sAccessToken=a"),
            (b"Set-Cookie", b"sOther=b"),
            (b"front-token", b"f"),
        )
        reply = await put(gw, endpoint, "/private/x?y=1", ANN, ("Origin", ORIGIN))
        record = await gw.record()
    assert reply.status == 200
    assert reply.one("X-User-Id") == "ann"
    assert reply.one("X-Auth-Status") == "authenticated"
    assert reply.one("X-Gateway-Service") == "up"
    assert reply.one("X-Gateway-Target") == "/private/x?y=1"
    assert reply.all("Set-Cookie") == ["sAccessToken=a", "sOther=b"]
    assert reply.one("X-Gateway-Set-Cookie-1") == "sAccessToken=a"
    assert reply.one("X-Gateway-Set-Cookie-2") == "sOther=b"
    assert reply.one("front-token") == "f"
    assert reply.one("Access-Control-Allow-Origin") == ORIGIN
    assert reply.one("X-Request-Id") == record.request_id
    assert (record.client, record.path) == ("192.0.2.7", "/private/x")
    removed = reply.one("x-envoy-auth-headers-to-remove")
    if endpoint != "ext-authz":
        assert removed is None
    else:
        assert removed is not None
        names = removed.split(",")
        assert {"x-team", "x-user-roles", "x-client-subject"} <= {*names}
        assert "x-user-id" not in names


@pytest.mark.parametrize("endpoint", ALL)
async def test_a_public_route_without_a_session(
    upstream: FaultUpstream, endpoint: str
) -> None:
    """It is anonymous, and what the client sent as its identity isn't repeated."""
    async with asked(upstream) as gw:
        reply = await put(gw, endpoint, "/app/x", ("X-User-Id", "eve"))
    assert (reply.status, reply.one("X-Auth-Status")) == (200, "anonymous")
    assert reply.one("X-User-Id") is None
    assert reply.one("X-Gateway-Target") == "/x"
    if endpoint == "ext-authz":
        assert "x-user-id" in str(reply.one("x-envoy-auth-headers-to-remove"))


@pytest.mark.parametrize("endpoint", [*ALL, "refusal"])
async def test_a_request_without_a_session(
    upstream: FaultUpstream, endpoint: str
) -> None:
    """The proxy's own answer, with its CORS fields."""
    async with asked(upstream) as gw:
        reply = await put(gw, endpoint, "/private", ("Origin", ORIGIN))
    assert (reply.status, reply.one("X-Gateway-Status")) == (401, "401")
    assert reply.json() == {"message": "unauthorised"}
    assert reply.one("Access-Control-Allow-Origin") == ORIGIN


@pytest.mark.parametrize("endpoint", [*ALL, "refusal"])
@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/limited", "POST", 405),
        ("/user", "GET", 403),  # answered by the gateway itself
        ("/private/../../x", "GET", 400),
        ("/private/../../../../x", "GET", 400),
        ("/app/../private", "GET", 401),
        ("/app/%2e%2e/limited", "GET", 400),  # allowed, but not as it is written
        ("/app//x", "GET", 400),
        ("/app/%2Fx", "GET", 400),
        ("/app/%00", "GET", 400),
        ("/Private", "GET", 404),  # may be read as /private
    ],
)
async def test_other_refusals(
    upstream: FaultUpstream, endpoint: str, target: str, method: str, status: int
) -> None:
    """nginx takes only 401 and 403; the real status is beside it."""
    fields = (ANN,) if target == "/user" else ()
    async with asked(upstream) as gw:
        reply = await put(gw, endpoint, target, *fields, method=method)
    assert reply.one("X-Gateway-Status") == str(status)
    if endpoint != "auth-request" or status == 401:
        assert reply.status == status
    else:
        assert reply.status == 403


@pytest.mark.parametrize("endpoint", [*ALL, "refusal"])
async def test_a_failure_is_no_yes(upstream: FaultUpstream, endpoint: str) -> None:
    """Whatever is raised, and also where the request would be public."""
    async with asked(upstream) as gw:
        gw.verifier.error = RuntimeError("verification broke")
        reply = await put(gw, endpoint, "/app/x", ANN)
        gw.log.lines.clear()
    assert reply.status == (503 if endpoint == "auth-request" else 500)
    assert reply.one("X-Gateway-Status") == "500"
    assert reply.one("X-User-Id") is None


async def test_a_refusal_that_is_allowed_by_now(upstream: FaultUpstream) -> None:
    """The request can't be forwarded any more: it is to be repeated."""
    async with asked(upstream) as gw:
        reply = await put(gw, "refusal", "/private", ANN)
    assert (reply.status, reply.one("Retry-After")) == (503, "1")
    assert reply.one("X-User-Id") is None


@pytest.mark.parametrize("endpoint", ALL)
async def test_preflights_are_allowed(upstream: FaultUpstream, endpoint: str) -> None:
    """Without a session, and only where a route exists and the origin is allowed.

    The front can answer them with the gateway's fields.
    """
    wanted = ("Access-Control-Request-Method", "GET")
    async with asked(upstream) as gw:
        for origin, session, status in (
            (ORIGIN, (), 200),
            (ORIGIN, (ANN,), 200),
            ("https://evil.test", (), 403),
        ):
            reply = await put(
                gw,
                endpoint,
                "/private",
                ("Origin", origin),
                wanted,
                *session,
                method="OPTIONS",
            )
            assert reply.status == status
            assert reply.one("X-User-Id") is None
            if status == 200:
                assert reply.one("X-Auth-Status") == "anonymous"
                assert reply.one("X-Gateway-Target") == "/private"
                assert reply.one("Access-Control-Allow-Origin") == ORIGIN
                assert "GET" in str(reply.one("Access-Control-Allow-Methods"))


@pytest.mark.parametrize("endpoint", ALL)
async def test_websockets_need_an_allowed_origin(
    upstream: FaultUpstream, endpoint: str
) -> None:
    """The key alone tells a handshake: fronts remove Upgrade."""
    key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    version = ("Sec-WebSocket-Version", "13")
    async with asked(upstream) as gw:
        good = await put(gw, endpoint, "/ws", ANN, key, version, ("Origin", ORIGIN))
        evil = ("Origin", "https://evil.test")
        bad = await put(gw, endpoint, "/ws", ANN, key, version, evil)
        off = await put(gw, endpoint, "/off", key, version)
    assert good.status == 200
    assert bad.one("X-Gateway-Status") == "403"
    assert off.one("X-Gateway-Status") == "403"


@pytest.mark.parametrize("endpoint", ALL)
@pytest.mark.parametrize(
    ("raw", "forwarded"),
    [
        ("/app/%2e%2e/limited?a=%2e", "/limited?a=%2e"),
        ("/app/y/../x", "/x"),
        ("/private/../app/x", "/x"),
        ("/app/%78", "/x"),
    ],
)
async def test_canonical_paths(
    upstream: FaultUpstream, endpoint: str, raw: str, forwarded: str
) -> None:
    """The front learns which target was judged, and forwards that."""
    async with asked(upstream, path="canonical") as gw:
        reply = await put(gw, endpoint, raw)
    assert (reply.status, reply.one("X-Gateway-Target")) == (200, forwarded)


@pytest.mark.parametrize("endpoint", [*ALL, "refusal"])
async def test_a_canonical_path_is_judged_as_it_is_forwarded(
    upstream: FaultUpstream, endpoint: str
) -> None:
    """Paths without a canonical form are refused, and a guard can't be climbed over."""
    async with asked(upstream, path="canonical") as gw:
        statuses = [
            (await put(gw, endpoint, raw)).one("X-Gateway-Status")
            for raw in ("/app/../private", "/app/%2e%2e/private", "/app/%00", "/a%2fb")
        ]
    assert statuses == ["401", "401", "400", "400"]


@pytest.mark.parametrize("endpoint", ALL)
async def test_withheld_tokens(upstream: FaultUpstream, endpoint: str) -> None:
    """Every route's policy says so to whoever verifies; clients of the proxy get them.

    What the verifier does with that is tested with the sessions.
    """
    policies: list[SessionPolicy] = []
    async with asked(upstream, new_tokens="withhold") as gw:
        verdict = gw.verifier._verdict

        def noted(request: SessionRequest, policy: SessionPolicy) -> Verdict:
            policies.append(policy)
            return verdict(request, policy)

        gw.verifier._verdict = noted  # type: ignore[method-assign] # to see the policy
        for _ in range(2):
            assert (await put(gw, endpoint, "/private", ANN)).status == 200
        assert (await gw.ask("GET", "/private")).status == 401
    first, second, own = policies
    assert first is second
    assert first.withholds
    assert not own.withholds


@pytest.mark.parametrize("target", ["/", "/private", "/user", "/refusal/", "/app/x"])
async def test_everything_else_is_404(upstream: FaultUpstream, target: str) -> None:
    """Also what the gateway would serve at its other addresses."""
    async with asked(upstream) as gw:
        reply = await ask(gw.ports[-1], "GET", target, ANN)
    assert reply.status == 404


async def test_only_listed_endpoints(upstream: FaultUpstream) -> None:
    """The others are 404, with a good question, too."""
    async with asked(upstream, endpoints=["forward-auth"]) as gw:
        statuses = [
            (await put(gw, each, "/app/x")).status for each in (*ALL, "refusal")
        ]
    assert statuses == [404, 200, 404, 404]


async def test_only_trusted_peers_may_ask(upstream: FaultUpstream) -> None:
    """Others learn nothing, not even which endpoints there are."""
    async with asked(upstream, trusted=["192.0.2.0/24"]) as gw:
        for endpoint in ALL:
            reply = await put(gw, endpoint, "/app/x")
            assert (reply.status, reply.one("X-Auth-Status")) == (403, None)
        assert (await ask(gw.ports[-1], "GET", "/other")).status == 403
    async with asked(upstream, trusted=["127.0.0.0/8"]) as gw:
        assert (await put(gw, "ext-authz", "/app/x")).status == 200


async def test_the_other_addresses_have_no_endpoints(upstream: FaultUpstream) -> None:
    """A client of the gateway that asks like a front gets no verdict."""
    decision = {"listen": "127.0.0.1:0", "endpoints": ALL}
    async with gateway(upstream.url, settings={"decision": decision}) as gw:
        reply = await gw.ask("GET", "/forward-auth", ("X-Forwarded-Uri", "/x"))
    assert reply.one("X-Gateway-Target") is None
