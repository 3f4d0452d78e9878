"""How a gateway stops: nothing is accepted, what was begun is finished, or cut in time.

Row P6 of the fault table; signals are tests/process/test_server.py's, WebSockets (P7)
tests/proxy/test_tunnel.py's.
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
"""More than a test may take: whatever waits for the end of it fails the test."""


class Gate:
    """An upstream that answers when it is told to."""

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
    """Return whether somebody still listens on the port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", gw.port)
    except ConnectionRefusedError:
        return False
    writer.transport.abort()
    return True


async def test_of_a_hundred_requests_none_is_lost(
    upstream: FaultUpstream, gate: Gate
) -> None:
    """All are answered, each saying that its connection ends, and then all is over."""
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
    """Whoever waits with nothing to ask is not waited for: new or kept alive."""
    upstream.behaviour = answer()
    async with (
        gateway(upstream.url, drain_timeout=LONG_S) as gw,
        gw.connect() as new,
        gw.connect() as kept,
    ):
        await kept.send(GET)
        assert (await kept.reply()).status == 200
        await gw.stop()
        assert await until_cut(new) == await until_cut(kept) == b""


async def test_a_request_that_is_on_its_way_is_served(upstream: FaultUpstream) -> None:
    """Half a head has come: its other half is waited for."""
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
    """What comes of a body after the signal belongs to it like what came before."""
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
    """Its head was out before the signal, so the connection ends without a word."""
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


async def test_a_request_that_takes_too_long_hears_503(upstream: FaultUpstream) -> None:
    """After `drain_timeout`; the upstream's connection ends with it."""
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
    """It has begun, so the client must see that it didn't end."""

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


async def test_a_client_that_never_reads_doesn_t_hold_up_the_end() -> None:
    """What it hasn't taken by `drain_timeout` is lost to it."""
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
