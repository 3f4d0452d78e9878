"""An exchange that waits for its client leaves its place to others.

The clients here do nothing: a body that never arrives is a client that is slow to send,
and a reply that nobody reads is one that is slow to take.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from compiled import timeouts_of
from faults import OK, FaultUpstream, Peer, until

from gateway.clients import Clients
from gateway.errors import ClientSlow, GatewayError, UpstreamBusy
from gateway.timeouts import Timeouts
from gateway.upstream import Reply, UpstreamPool, Upstreams, UpstreamTarget

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
LONG = timeouts_of(connect=20)
SHORT = timeouts_of(connect=0.05)


class SlowClient:
    """A client at an address, that sends its body when the test says so."""

    def __init__(self, address: str) -> None:
        self.client_address = address
        self.bytes_in = 0
        self.bytes_out = 0
        self.go = asyncio.Event()
        self.error: GatewayError | None = None

    def cut(self, error: GatewayError) -> None:
        self.error = error

    async def body(self) -> AsyncIterator[bytes]:
        yield b"hello"
        await self.go.wait()
        yield b"world"

    def upload(self, pool: UpstreamPool) -> asyncio.Task[Reply]:
        return asyncio.create_task(
            pool.exchange(POST, "POST", LONG, self.body(), 10, client=self)
        )


async def ask(
    pool: UpstreamPool, timeouts: Timeouts = LONG, address: str = "192.0.2.99"
) -> bytes:
    reply = await pool.exchange(HEAD, "GET", timeouts, client=SlowClient(address))
    return await reply.read()


async def echo(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(OK)


async def waiting(pool: UpstreamPool, number: int) -> None:
    """Return when *number* exchanges wait for their clients."""
    await until(lambda: pool.on_clients == number)


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    """Each client is sure of half the places; 10.0.0.0/8 has no share of its own."""
    mine = Upstreams(clients=Clients(exempt=("10.0.0.0/8",)), share=0.5)
    yield mine
    await mine.close()
    assert [pool.open for pool in mine.pools] == [0] * len(mine.pools)
    assert [pool.on_clients for pool in mine.pools] == [0] * len(mine.pools)


async def test_uploads_of_slow_clients_take_no_place(upstreams: Upstreams) -> None:
    """Three wait where one place is: another request is served, and they end whole."""
    async with FaultUpstream(echo) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url), max_connections=1)
        clients = [SlowClient(f"192.0.2.{number}") for number in range(3)]
        uploads = []
        for number, client in enumerate(clients, 1):
            uploads.append(client.upload(pool))
            await waiting(pool, number)
        assert await ask(pool) == b"ok"
        for client, upload in zip(clients, uploads, strict=True):
            client.go.set()
            reply = await upload
            assert reply.status == 200
            assert await reply.read() == b"ok"
        assert [r.body for r in upstream.requests if r.body] == [b"helloworld"] * 3
        assert (pool.on_clients, pool.in_use, pool.open) == (0, 0, 1)


async def test_a_request_that_waits_gets_the_place_of_a_slow_client(
    upstreams: Upstreams,
) -> None:
    """The client became slow after the request had begun to wait."""
    async with FaultUpstream(echo) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url), max_connections=1)
        upload = SlowClient("192.0.2.1").upload(pool)
        await until(lambda: pool.open == 1)
        assert pool.on_clients == 0
        assert await ask(pool) == b"ok"
        assert pool.on_clients == 1
        upload.cancel()


async def test_a_slow_reader_takes_no_place(upstreams: Upstreams) -> None:
    """Its reply goes on when it reads again."""

    async def half(peer: Peer) -> None:
        await peer.request()
        if peer.number > 1:
            await peer.send(OK)
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            await more.wait()
            await peer.send(b"world")
        await peer.gone()

    more = asyncio.Event()
    async with FaultUpstream(half) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url), max_connections=1)
        reply = await pool.exchange(HEAD, "GET", LONG, client=SlowClient("192.0.2.1"))
        assert await reply.read() == b"hello"
        with pytest.raises(UpstreamBusy):
            await ask(pool, SHORT)
        reply.begin_wait()
        assert await ask(pool, LONG) == b"ok"
        more.set()
        reply.end_wait()
        assert await reply.read() == b"world"
        assert (pool.on_clients, pool.in_use, pool.open) == (0, 0, 1)


async def test_one_more_than_may_wait_cuts_the_slowest(upstreams: Upstreams) -> None:
    """The client that has sent least for its time; the others aren't touched."""
    async with FaultUpstream(echo) as upstream:
        pool = upstreams.pool(
            UpstreamTarget.parse(upstream.url), max_connections=1, max_waiting=2
        )
        clients = [SlowClient(f"192.0.2.{number}") for number in range(3)]
        first = clients[0].upload(pool)
        await waiting(pool, 1)
        second = clients[1].upload(pool)
        await waiting(pool, 2)
        third = clients[2].upload(pool)
        with pytest.raises(ClientSlow) as caught:
            await first
        assert caught.value.status == 408
        assert pool.cut == 1
        for client, upload in zip(clients[1:], (second, third), strict=True):
            client.go.set()
            assert (await upload).status == 200


async def test_the_next_exchange_on_a_connection_is_not_cut_for_the_one_before(
    upstreams: Upstreams,
) -> None:
    """A ranking holds for a second, and a connection may serve others meanwhile."""
    async with FaultUpstream(echo) as upstream:
        pool = upstreams.pool(
            UpstreamTarget.parse(upstream.url), max_connections=32, max_waiting=16
        )
        clients = [SlowClient(f"192.0.2.{number}") for number in range(19)]
        uploads = []
        for number, client in enumerate(clients[:17], 1):
            uploads.append(client.upload(pool))
            await waiting(pool, min(number, 16))
        with pytest.raises(ClientSlow):
            await uploads[0]
        clients[1].go.set()  # it was ranked, to be cut next
        assert await (await uploads[1]).read() == b"ok"
        uploads.append(clients[17].upload(pool))
        await waiting(pool, 16)
        assert upstream.connections == 17
        uploads.append(clients[18].upload(pool))
        left = uploads[2:]
        done, _ = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        assert done == {uploads[2]}
        assert isinstance(uploads[2].exception(), ClientSlow)
        for client, upload in zip(clients[3:], uploads[3:], strict=True):
            client.go.set()
            assert (await upload).status == 200


async def test_a_cut_download_ends_the_clients_connection(upstreams: Upstreams) -> None:
    """The reply has begun, so only the end of the connection can say it."""

    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await peer.gone()

    async with FaultUpstream(endless) as upstream:
        pool = upstreams.pool(
            UpstreamTarget.parse(upstream.url), max_connections=2, max_waiting=1
        )
        clients = [SlowClient(f"192.0.2.{number}") for number in range(2)]
        replies = [
            await pool.exchange(HEAD, "GET", LONG, client=client) for client in clients
        ]
        for reply in replies:
            assert await reply.read() == b"hello"
            reply.begin_wait()
        assert isinstance(clients[0].error, ClientSlow)
        assert clients[1].error is None
        with pytest.raises(ClientSlow):
            await replies[0].read()
        replies[1].close()


async def test_one_client_leaves_places_to_others(upstreams: Upstreams) -> None:
    """Of eight places, a client with its share of four gets no more than seven.

    The eighth serves others at once. The client's next request waits until its earlier
    ones are served.
    """
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if b"192.0.2.1\r" in request.head:
                await go.wait()
            await peer.send(OK)

    async def send(address: str, timeouts: Timeouts = LONG) -> bytes:
        head = f"GET / HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
        reply = await pool.exchange(head, "GET", timeouts, client=SlowClient(address))
        return await reply.read()

    async with FaultUpstream(slow) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url), max_connections=8)
        greedy = [asyncio.create_task(send("192.0.2.1")) for _ in range(7)]
        await until(lambda: len(upstream.requests) == 7)
        with pytest.raises(UpstreamBusy, match="its share"):
            await send("192.0.2.1", SHORT)
        assert len(upstream.requests) == 7
        assert await send("192.0.2.2") == b"ok"
        late = asyncio.create_task(send("192.0.2.1"))
        await until(lambda: pool.waiting == 1)
        go.set()
        assert await asyncio.gather(*greedy, late) == [b"ok"] * 8
        assert pool.in_use == 0


async def test_an_exempt_client_may_take_all_places(upstreams: Upstreams) -> None:
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await go.wait()
        await peer.send(OK)

    async with FaultUpstream(slow) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url), max_connections=8)
        tasks = [asyncio.create_task(ask(pool, LONG, "10.0.0.1")) for _ in range(8)]
        await until(lambda: len(upstream.requests) == 8)
        go.set()
        assert await asyncio.gather(*tasks) == [b"ok"] * 8


async def test_a_closed_pool_fails_all_that_wait(upstreams: Upstreams) -> None:
    async with FaultUpstream(echo) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url), max_connections=8)
        uploads = [SlowClient("192.0.2.1").upload(pool) for _ in range(3)]
        await waiting(pool, 3)
        await upstreams.close()
        outcomes = await asyncio.gather(*uploads, return_exceptions=True)
        assert all(isinstance(outcome, GatewayError) for outcome in outcomes)
        assert (pool.on_clients, pool.open) == (0, 0)
