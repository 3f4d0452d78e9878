"""Draining: no new connections; requests in flight finish, or are cut at a deadline.

Row P6 of the fault table. tests/process/test_server.py tests the signals, and
tests/proxy/test_tunnel.py tests WebSockets (P7).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from faults import CHUNKED_HEAD, FAULTS, OK, FaultUpstream, Peer, answer, until
from gateway_under_test import UnderTest, gateway, until_cut
from wire import request

GET = request("GET", "/a")
LONG_S = 600.0
"""Longer than a test may run: a test that waits this long fails."""


class Gate:
    """An upstream that answers once `opened` is set."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            await self.opened.wait()
            await peer.send(OK)


@pytest.fixture
async def gate() -> Gate:
    return Gate()


@pytest.fixture
async def upstream(gate: Gate) -> AsyncIterator[FaultUpstream]:
    async with FaultUpstream(gate) as running:
        yield running


async def accepts(gw: UnderTest) -> bool:
    """Return whether the gateway's port still accepts connections."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", gw.port)
    except ConnectionRefusedError:
        return False
    writer.transport.abort()
    return True


async def test_requests_in_flight_are_answered(
    upstream: FaultUpstream, gate: Gate
) -> None:
    """All 100 get their 200 with `Connection: close`; then the drain ends."""
    async with (
        gateway(upstream.url, drain_timeout=LONG_S) as gw,
        AsyncExitStack() as stack,
    ):
        wires = [await stack.enter_async_context(gw.connect()) for _ in range(100)]
        for wire in wires:
            await wire.send(GET)
        await until(lambda: len(upstream.requests) == 100)
        stopping = asyncio.create_task(gw.stop())
        await until(lambda: gw.proxy.draining)
        assert not await accepts(gw)
        assert not stopping.done()
        gate.opened.set()
        for wire in wires:
            reply = await wire.reply()
            assert (reply.status, reply.body) == (200, b"ok")
            assert reply.one("Connection") == "close"
            assert await until_cut(wire) == b""
        await stopping
        assert {(await gw.record()).status for _ in wires} == {200}


async def test_idle_connections_are_closed_at_once(upstream: FaultUpstream) -> None:
    """The drain doesn't wait for them, whether they are new or kept alive."""
    upstream.behaviour = answer()
    async with (
        gateway(upstream.url, drain_timeout=LONG_S) as gw,
        gw.connect() as new,
        gw.connect() as used,
    ):
        await used.send(GET)
        assert (await used.reply()).status == 200
        await gw.stop()
        assert await until_cut(new) == await until_cut(used) == b""


async def test_a_half_received_request_is_served(upstream: FaultUpstream) -> None:
    """If half a head has arrived, the drain waits for the rest of it."""
    upstream.behaviour = answer()
    async with gateway(upstream.url, drain_timeout=LONG_S) as gw, gw.connect() as wire:
        await wire.send(GET[:20])
        await until(lambda: any(c._head_since for c in gw.listener._open))
        stopping = asyncio.create_task(gw.stop())
        await until(lambda: gw.proxy.draining)
        await wire.send(GET[20:])
        reply = await wire.reply()
        assert (reply.status, reply.one("Connection")) == (200, "close")
        await stopping


async def test_an_upload_goes_on(upstream: FaultUpstream) -> None:
    """The part of a body that arrives after the drain has begun is forwarded too."""
    upstream.behaviour = FAULTS["echo"]
    unbuffered = {"request": {"buffer": 0}}
    async with (
        gateway(upstream.url, drain_timeout=LONG_S, route=unbuffered) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("POST", "/a", ("Content-Length", "10")))
        await wire.send(b"hello")
        await until(lambda: gw.pools[0].in_use)
        stopping = asyncio.create_task(gw.stop())
        await until(lambda: gw.proxy.draining)
        await wire.send(b"world")
        reply = await wire.reply()
        assert (reply.status, reply.body) == (200, b"helloworld")
        await stopping


async def test_a_download_goes_on_and_ends_its_connection() -> None:
    """The head was sent before the drain, so the close comes without a header field."""
    more = asyncio.Event()

    async def halves(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD + b"1\r\na\r\n")
        await more.wait()
        await peer.send(b"1\r\nb\r\n0\r\n\r\n")
        await peer.gone()

    async with (
        FaultUpstream(halves) as upstream,
        gateway(upstream.url, drain_timeout=LONG_S) as gw,
        gw.connect() as wire,
    ):
        await wire.send(GET)
        assert (await wire.head()).one("Connection") is None
        assert await wire.chunk() == b"a"
        stopping = asyncio.create_task(gw.stop())
        await until(lambda: gw.proxy.draining)
        more.set()
        assert [await wire.chunk(), await wire.chunk()] == [b"b", b""]
        assert await until_cut(wire) == b""
        await stopping


async def test_a_request_that_takes_too_long_gets_503(upstream: FaultUpstream) -> None:
    """After `drain_timeout` the client gets 503, and the upstream connection closes."""
    async with (
        gateway(upstream.url, drain_timeout=0.1) as gw,
        gw.connect() as wire,
    ):
        await wire.send(GET)
        await upstream.got_request.wait()
        await gw.stop()
        reply = await wire.reply()
        assert (reply.status, reply.json()["code"]) == (503, "shutting_down")
        assert (reply.one("Retry-After"), reply.one("Connection")) == ("1", "close")
        record = await gw.record()
        assert (record.status, record.side) == (503, "gateway")
        assert not gw.pools[0].open


async def test_a_stream_that_takes_too_long_is_cut() -> None:
    """The reply has begun, so the client must see that it is incomplete."""

    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD + b"1\r\na\r\n")
        await peer.gone()

    async with (
        FaultUpstream(endless) as upstream,
        gateway(upstream.url, drain_timeout=0.1) as gw,
        gw.connect() as wire,
    ):
        await wire.send(GET)
        await wire.head()
        await gw.stop()
        assert await until_cut(wire) == b"1\r\na\r\n"
        await upstream.lost.wait()
        record = await gw.record()
        assert (record.reason, record.stage) == ("shutting_down", "copy")


async def test_a_client_that_never_reads_does_not_delay_the_drain() -> None:
    """After `drain_timeout` its connection is closed, with the reply half sent."""
    size = 64 * 1024**2
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size

    async def large(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply + bytes(size))

    async with (
        FaultUpstream(large) as upstream,
        gateway(upstream.url, drain_timeout=0.1) as gw,
        gw.connect() as wire,
    ):
        wire.writer.transport.pause_reading()
        await wire.send(GET)
        await upstream.got_request.wait()
        await gw.stop()
        assert not gw.listener.connections
