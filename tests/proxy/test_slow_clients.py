"""Slow clients leave the connections of a service to others (docs/proxying.md)."""

from __future__ import annotations

import pytest
from faults import OK, FaultUpstream, Peer, until
from gateway_under_test import gateway, until_cut
from wire import request

TEN = ("Content-Length", "10"), ("Expect", "100-continue")
"""The 100 says that the gateway waits for the body."""
SERVICE = {"max_connections": 1, "max_waiting": 1}


async def echo(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(OK)


def post(size: int) -> bytes:
    return request("POST", "/a", ("Content-Length", str(size)))


async def test_a_small_body_arrives_whole_before_the_service_is_asked() -> None:
    """Until then the upstream sees nothing, and its one connection serves others."""
    async with (
        FaultUpstream(echo) as upstream,
        gateway(upstream.url, service=SERVICE) as gw,
        gw.connect() as slow,
        gw.connect() as other,
    ):
        await slow.send(post(10) + b"hello")
        await other.send(request("GET", "/b"))
        assert (await other.reply()).status == 200
        assert [r.line for r in upstream.requests] == [b"GET /b HTTP/1.1"]
        await slow.send(b"world")
        assert (await slow.reply()).status == 200
        assert [r.body for r in upstream.requests] == [b"", b"helloworld"]
        assert upstream.connections == 1


async def test_a_session_that_ends_before_the_body_arrives() -> None:
    """Verified at the head, signed out since: the upstream sees nothing."""
    async with (
        FaultUpstream(echo) as upstream,
        gateway(upstream.url, route={"protected": True}) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("POST", "/a", ("Authorization", "Bearer ann"), *TEN))
        await wire.reader.readuntil(b"100 Continue\r\n\r\n")
        gw.verifier.ended.add("session-ann")
        await wire.send(b"helloworld")
        reply = await wire.reply()
        assert reply.status == 401
        assert b'"session_ended"' in reply.body
        record = await gw.record()
        assert (record.status, record.reason) == (401, "session_ended")
        assert not upstream.connections
        await wire.send(request("GET", "/a", ("Authorization", "Bearer bob")))
        assert (await wire.reply()).status == 200


async def test_the_wait_for_a_body_does_not_count_as_time_of_the_exchange(
    monkeypatch: pytest.MonkeyPatch,
    closed_port: int,
) -> None:
    """Here it is longer than `timeouts.total`; the second target is still asked."""
    now = 1000.0
    for module in ("decide", "forward", "upstream.tries"):
        monkeypatch.setattr(f"gateway.{module}.perf_counter", lambda: now)
    async with (
        FaultUpstream(echo) as upstream,
        gateway(
            f"http://127.0.0.1:{closed_port}",
            upstream.url,
            route={"timeouts": {"total": 60}},
            service={"balance": "round_robin"},
        ) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("POST", "/a", *TEN))
        await wire.reader.readuntil(b"100 Continue\r\n\r\n")
        now += 70.0
        await wire.send(b"helloworld")
        assert (await wire.reply()).status == 200
        assert [r.body for r in upstream.requests] == [b"helloworld"]


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(post(11), id="above the size"),
        pytest.param(
            request("POST", "/a", ("Transfer-Encoding", "chunked")) + b"5\r\n",
            id="chunked",
        ),
    ],
)
async def test_other_bodies_are_streamed(head: bytes) -> None:
    async with (
        FaultUpstream(echo) as upstream,
        gateway(upstream.url, route={"request": {"buffer": 10}}) as gw,
        gw.connect() as wire,
    ):
        await wire.send(head + b"hello")
        await upstream.got_request.wait()
        assert gw.pools[0].in_use == 1


async def test_an_innocent_request_is_served_while_uploads_wait() -> None:
    """An upload holds the only place no longer than its bytes take."""
    async with (
        FaultUpstream(echo) as upstream,
        gateway(upstream.url, service=SERVICE) as gw,
        gw.connect() as slow,
        gw.connect() as other,
    ):
        await slow.send(post(100_000) + b"x" * 50_000)
        await until(lambda: gw.pools[0].on_clients == 1)
        await other.send(request("GET", "/b"))
        assert (await other.reply()).status == 200
        await slow.send(b"x" * 50_000)
        assert (await slow.reply()).status == 200
        assert gw.pools[0].in_use == 0


async def test_the_slowest_upload_gets_408_when_too_many_wait() -> None:
    """The service sees its connection end before the body does."""

    async def upload(peer: Peer) -> None:
        await peer.head()
        await peer.gone()

    async with (
        FaultUpstream(upload) as upstream,
        gateway(upstream.url, service=SERVICE) as gw,
        gw.connect() as slow,
        gw.connect() as other,
    ):
        await slow.send(post(100_000) + b"x")
        await until(lambda: gw.pools[0].on_clients == 1)
        await other.send(post(100_000) + b"x")
        reply = await slow.reply()
        assert reply.status == 408
        assert b'"client_slow"' in reply.body
        record = await gw.record()
        assert (record.status, record.reason, record.side) == (
            408,
            "client_slow",
            "client",
        )
        await upstream.lost.wait()
        assert gw.pools[0].on_clients == 1


async def test_the_slowest_download_is_cut_when_too_many_wait() -> None:
    """Its connection is aborted, so that the reply can't pass for a whole one."""

    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await peer.send(b"x" * 65536)

    async with (
        FaultUpstream(endless) as upstream,
        gateway(upstream.url, service=SERVICE) as gw,
        gw.connect() as slow,
        gw.connect() as other,
    ):
        await slow.send(request("GET", "/a"))
        await until(lambda: gw.pools[0].on_clients == 1)
        await other.send(request("GET", "/b"))
        record = await gw.record()
        assert (record.status, record.reason) == (408, "client_slow")
        await until_cut(slow)
        assert gw.pools[0].on_clients == 1
