"""Tunnels after a 101: bytes both ways, half-closes, back-pressure, closing."""

import asyncio

import pytest
from faults import FAULTS, OK, FaultUpstream, Peer, answer, until, until_stopped

from gateway.errors import BadReply, UpstreamClosed
from gateway.timeouts import Timeouts
from gateway.upstream import Reply, UpstreamPool, Upstreams, UpstreamTarget

GET = b"GET /ws HTTP/1.1\r\nHost: up\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching\r\nUpgrade: test\r\nConnection: Upgrade\r\n\r\n"


def pool_of(upstreams: Upstreams, upstream: FaultUpstream) -> UpstreamPool:
    return upstreams.pool(UpstreamTarget.parse(upstream.url))


async def upgrade(pool: UpstreamPool, timeouts: Timeouts) -> Reply:
    return await pool.exchange(GET, method="GET", timeouts=timeouts, upgrade=True)


async def test_bytes_go_both_ways_until_both_ends_are_closed(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """Bytes that came with the 101 are read first; both EOFs close the connection."""
    async with FaultUpstream(FAULTS["upgrade echo"]) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await upgrade(pool, timeouts)
        assert reply.status == 101
        assert dict(reply.fields)[b"Upgrade"] == b"test"
        tunnel = reply.upgrade()
        reply.close()  # the tunnel isn't the reply's any more
        assert await tunnel.read() == b"hello"
        for piece in (b"\0\xff", b"GET / HTTP/1.1\r\n\r\n"):
            tunnel.write(piece)
            await tunnel.drain()
            assert await tunnel.read() == piece
        assert (pool.open, pool.idle) == (1, 0)
        tunnel.write_eof()
        assert await tunnel.read() == b""
        tunnel.close()
        await until(lambda: pool.open == 0)


async def test_an_upstream_that_ends_its_side_still_gets_ours(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """After the upstream's EOF, the tunnel can still write to it."""
    received = bytearray()

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(SWITCH)
        peer.writer.write_eof()
        while data := await peer.reader.read(100):
            received.extend(data)
        peer.upstream.lost.set()

    async with FaultUpstream(behaviour) as upstream:
        reply = await upgrade(pool_of(upstreams, upstream), timeouts)
        tunnel = reply.upgrade()
        assert await tunnel.read() == b""
        assert tunnel.at_eof
        tunnel.write(b"last words")
        tunnel.write_eof()
        await upstream.lost.wait()
        assert received == b"last words"
        tunnel.close()


async def test_a_200_to_an_upgrade_is_a_reply_like_any_other(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """C24: a 200 has a framed body and no tunnel, and its connection is kept."""
    async with FaultUpstream(answer(OK)) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await upgrade(pool, timeouts)
        assert (reply.status, await reply.read(), pool.idle) == (200, b"ok", 1)
        with pytest.raises(AssertionError):
            reply.upgrade()


async def test_a_reset_is_no_clean_end(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """After a reset, `read` and `drain` raise `UpstreamClosed`; writes are dropped."""
    cut = asyncio.Event()

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(SWITCH)
        await cut.wait()
        peer.reset()

    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        tunnel = (await upgrade(pool, timeouts)).upgrade()
        reading = asyncio.create_task(tunnel.read())
        await asyncio.sleep(0)
        cut.set()
        with pytest.raises(UpstreamClosed):
            await reading
        with pytest.raises(UpstreamClosed):
            await tunnel.drain()
        tunnel.write(b"into the void")
        tunnel.write_eof()
        assert pool.open == 0


async def test_a_101_without_a_tunnel_is_closed(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """Closing a 101 reply whose `upgrade` wasn't called closes its connection."""
    async with FaultUpstream(FAULTS["upgrade echo"]) as upstream:
        pool = pool_of(upstreams, upstream)
        (await upgrade(pool, timeouts)).close()
        await upstream.lost.wait()
        assert pool.open == 0


async def test_closing_the_pools_closes_tunnels(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """Closing the pools closes connections that tunnels use."""
    async with FaultUpstream(FAULTS["upgrade echo"]) as upstream:
        pool = pool_of(upstreams, upstream)
        tunnel = (await upgrade(pool, timeouts)).upgrade()
        assert await tunnel.read() == b"hello"
        await upstreams.close()
        assert (pool.open, await tunnel.read()) == (0, b"")
        with pytest.raises(UpstreamClosed):
            await tunnel.drain()


async def test_back_pressure_holds_in_both_directions(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """Each direction holds under 16 MiB while its reader pauses, and loses nothing."""
    size = 24 * 1024**2
    sent = 0

    async def behaviour(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(SWITCH)
        while sent < size:
            await peer.send(b"x" * 65536)
            sent += 65536
        await peer.reader.readexactly(size)
        await peer.send(b"thanks")
        peer.upstream.lost.set()
        await peer.gone()

    async with FaultUpstream(behaviour) as upstream:
        tunnel = (await upgrade(pool_of(upstreams, upstream), timeouts)).upgrade()
        # The upstream reads nothing until it has sent all, so `drain` must wait.
        written = 0

        async def flood() -> None:
            nonlocal written
            while True:
                tunnel.write(b"y" * 65536)
                written += 65536
                await tunnel.drain()

        flooding = asyncio.create_task(flood())
        await until(lambda: tunnel._drained is not None)
        await until_stopped(tunnel._transport, lambda: sent)
        flooding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flooding
        assert written < 16 * 1024**2
        assert sent < 16 * 1024**2
        read = 0
        while read < size:
            piece = await tunnel.read()
            assert len(piece) <= 65536 + 262144
            read += len(piece)
        while written < size:
            await tunnel.drain()
            tunnel.write(b"y" * 65536)
            written += 65536
        assert await tunnel.read() == b"thanks"
        tunnel.close()


@pytest.mark.parametrize("status", [b"200 OK", b"403 No"])
async def test_101_after_another_reply_is_never_a_tunnel(
    upstreams: Upstreams, timeouts: Timeouts, status: bytes
) -> None:
    """A 101 after a final reply is surplus, and closes the connection."""
    data = b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok" + SWITCH
    async with FaultUpstream(answer(data)) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await upgrade(pool, timeouts)
        assert await reply.read() == b"ok"
        await until(lambda: pool.open == 0)


async def test_a_101_without_an_upgrade_is_refused(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A 101 to a request without an Upgrade field is `BadReply` (RFC 9110 §7.8)."""
    async with FaultUpstream(FAULTS["upgrade echo"]) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(BadReply, match="101"):
            await pool.exchange(GET, method="GET", timeouts=timeouts)
        await until(lambda: pool.open == 0)
