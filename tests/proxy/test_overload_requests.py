"""Requests to a worker that refuses some of them (`gateway.overload`)."""

from __future__ import annotations

from typing import Any

import pytest
from faults import FaultUpstream, answer
from gateway_under_test import ORIGIN, UnderTest, gateway

from gateway.responses import Response
from gateway.shedding import Shedding


def overload(gw: UnderTest) -> None:
    """Have the gateway refuse all requests that it may refuse."""
    shedding = Shedding(0.1, 1.0)
    for _ in range(10):
        shedding.judge(9.0)
    assert shedding.share == 1.0
    gw.proxy.decider.shedding = shedding


SESSION = ("Authorization", "Bearer ann")

REFUSED: dict[str, tuple[Any, ...]] = {
    "a public route": ("GET", "/a"),
    "a session": ("GET", "/own", SESSION),
    "no session": ("GET", "/own"),
    "a POST": ("POST", "/own", SESSION),
    "a WebSocket": (
        *("GET", "/a", ("Connection", "Upgrade"), ("Upgrade", "websocket")),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ),
    "the user": ("GET", "/user", SESSION),
    "a sign-in": ("POST", "/auth/signin"),
}
SERVED: dict[str, tuple[tuple[Any, ...], int]] = {
    "a critical route": (("GET", "/pay", SESSION), 200),
    "a critical route without a session": (("GET", "/pay"), 401),
    "the gateway's own answer": (("GET", "/ok"), 204),
    "a refresh": (("POST", "/auth/session/refresh"), 299),
    "a sign-out": (("POST", "/auth/signout"), 299),
    "a preflight": (
        (
            *("OPTIONS", "/a", ("Origin", ORIGIN)),
            ("Access-Control-Request-Method", "GET"),
        ),
        204,
    ),
    "no route": (("TRACE", "/a"), 501),
}
ROUTES = [
    {"path": "/own", "protected": True},
    {"path": "/pay", "protected": True, "critical": True},
    {"path": "/ok", "service": None, "protected": False, "respond": {"status": 204}},
]


def with_sdk(gw: UnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the SDK's API own `/auth/*`, and answer all of it with 299."""

    async def handle(**_: Any) -> Response:
        return Response(status=299)

    auth = gw.proxy.dependencies.resources.auth
    monkeypatch.setattr(auth, "owns", lambda path: path.startswith("/auth/"))
    monkeypatch.setattr(auth, "handle", handle)


@pytest.mark.parametrize("case", REFUSED)
async def test_refused_before_the_session_is_checked(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 503 and Retry-After; the verifier and the upstream see nothing."""
    method, target, *fields = REFUSED[case]
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, more_routes=ROUTES) as gw,
    ):
        with_sdk(gw, monkeypatch)
        gw.verifier.error = AssertionError("the session is not to be checked")
        gw.verifier.at_once = True
        overload(gw)
        reply = await gw.ask(method, target, *fields)
        assert (reply.status, reply.json()["code"]) == (503, "gateway_overloaded")
        assert reply.one("Retry-After") == "1"
        record = await gw.record()
        assert (record.reason, record.side) == ("gateway_overloaded", "gateway")
        assert (record.decision, record.upstream) == ("-", None)
        assert not upstream.requests


@pytest.mark.parametrize("case", SERVED)
async def test_never_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is critical, what ends or renews a session, and what costs little."""
    (method, target, *fields), status = SERVED[case]
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, more_routes=ROUTES) as gw,
    ):
        with_sdk(gw, monkeypatch)
        overload(gw)
        assert (await gw.ask(method, target, *fields)).status == status


async def test_a_refusal_can_be_read_by_the_page_and_keeps_the_connection() -> None:
    """A new connection would cost more than the refusal."""
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        overload(gw)
        for _ in range(2):
            await wire.send(
                b"GET /a HTTP/1.1\r\nHost: gw\r\nOrigin: %b\r\n\r\n" % ORIGIN.encode()
            )
            reply = await wire.reply()
            assert reply.status == 503
            assert reply.one("Access-Control-Allow-Origin") == ORIGIN
        gw.proxy.decider.shedding = None
        await wire.send(b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n")
        assert (await wire.reply()).status == 200
        assert len(upstream.requests) == 1


async def test_a_share_is_refused() -> None:
    """The others are served as always."""
    async with FaultUpstream(answer()) as upstream, gateway(upstream.url) as gw:
        shedding = Shedding(0.1, 0.25)
        shedding.judge(9.0)
        gw.proxy.decider.shedding = shedding
        statuses = [(await gw.ask("GET", "/a")).status for _ in range(20)]
        assert statuses.count(503) == 5
        assert statuses.count(200) == len(upstream.requests) == 15
