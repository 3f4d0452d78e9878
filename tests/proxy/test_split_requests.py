"""Requests of routes that are split between two services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from faults import Behaviour, FaultUpstream, Peer, answer
from gateway_under_test import UnderTest, gateway
from wire import request


@asynccontextmanager
async def split_gateway(
    *, route: Any = None, behaviour: Behaviour | None = None, **split: Any
) -> AsyncIterator[tuple[UnderTest, FaultUpstream, FaultUpstream]]:
    """Run a gateway whose route is split between two upstreams; yield all three."""
    async with (
        FaultUpstream(behaviour or answer()) as stable,
        FaultUpstream(behaviour or answer()) as canary,
        gateway(
            stable.url,
            route={
                "protected": True,
                **(route or {}),
                "split": {"to": "canary", "weight": 0.5, **split},
            },
            more_services={"canary": {"targets": [canary.url], "keep_alive": 60}},
        ) as gw,
    ):
        yield gw, stable, canary


def bearer(user: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {user}"


async def test_each_user_stays_with_one_service() -> None:
    """The log names the service that got the request."""
    async with split_gateway() as (gw, stable, canary):
        for user in ("ann", "bob", "eve", "joe", "kim", "lee"):
            before = len(stable.requests), len(canary.requests)
            names = set()
            for _ in range(3):
                assert (await gw.ask("GET", "/a", bearer(user))).status == 200
                names.add((await gw.record()).upstream)
            got = len(stable.requests) - before[0], len(canary.requests) - before[1]
            assert (names, got) in (({"up"}, (3, 0)), ({"canary"}, (0, 3)))
        assert stable.requests
        assert canary.requests


async def test_a_refused_request_is_no_ones() -> None:
    """The split is decided after verification: neither service sees the request."""
    async with split_gateway(override="header:x-canary") as (gw, stable, canary):
        reply = await gw.ask("GET", "/a", ("X-Canary", "always"))
        assert reply.status == 401
        assert (await gw.record()).upstream is None
    assert not stable.requests
    assert not canary.requests


async def test_a_client_chooses_the_canary() -> None:
    """It gets what the own service would get: identity, Host of its own, the path."""
    async with split_gateway(
        route={"path": "/api", "rewrite": "strip"},
        weight=0,
        override="header:x-canary",
    ) as (gw, stable, canary):
        for word in ("always", "never", "often"):
            reply = await gw.ask("GET", "/api/a", bearer("ann"), ("X-Canary", word))
            assert reply.status == 200
        (own, others), (request,) = stable.requests, canary.requests
        assert others.line == own.line == request.line == b"GET /a HTTP/1.1"
        for one, server in ((own, stable), (request, canary)):
            assert one.field(b"x-user-id") == b"ann"
            assert one.field(b"host") == server.url.removeprefix("http://").encode()


async def test_a_public_route_is_split_by_chance() -> None:
    async with split_gateway(route={"protected": False}, sticky="none") as (
        gw,
        stable,
        canary,
    ):
        while not (stable.requests and canary.requests):
            assert (await gw.ask("GET", "/a")).status == 200


@pytest.mark.parametrize("word", ["always", "never"])
async def test_the_other_service_is_no_spare(word: str, closed_port: int) -> None:
    """A user's request that fails at one service isn't sent to the other."""
    async with (
        FaultUpstream(answer()) as good,
        gateway(
            f"http://127.0.0.1:{closed_port}" if word == "never" else good.url,
            route={
                "split": {
                    "to": "canary",
                    "weight": 0.5,
                    "sticky": "none",
                    "override": "header:x-canary",
                }
            },
            more_services={
                "canary": {
                    "targets": [
                        f"http://127.0.0.1:{closed_port}"
                        if word == "always"
                        else good.url
                    ]
                }
            },
        ) as gw,
    ):
        assert (await gw.ask("GET", "/a", ("X-Canary", word))).status == 502
        assert not good.requests


async def switch(peer: Peer) -> None:
    """Open a WebSocket and echo nothing."""
    await peer.request()
    await peer.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    await peer.gone()


async def test_a_websocket_is_split() -> None:
    """The key and its answer are those of RFC 6455 §1.3."""
    fields = (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        bearer("ann"),
    )
    async with (
        split_gateway(behaviour=switch, weight=1) as (gw, stable, _),
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/ws", *fields))
        assert (await wire.head()).status == 101
        wire.writer.close()
        assert (await gw.record()).upstream == "canary"
    assert not stable.requests
