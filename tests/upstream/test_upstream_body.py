"""Request and reply bodies: framing, back-pressure, early replies, lost clients."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from compiled import timeouts_of
from fake_time import MovableClock
from faults import FAULTS, OK, FaultUpstream, Peer, answer, until, until_stopped

from gateway.errors import BadRequest, ClientGone, UpstreamClosed, UpstreamTimeout
from gateway.http.chunks import CHUNKS_PER_FEED
from gateway.timeouts import Timeouts
from gateway.upstream import Reply, UpstreamPool, Upstreams, UpstreamTarget
from gateway.upstream.connection import UpstreamConnection

POST = b"POST /a HTTP/1.1\r\nHost: up\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def sized(size: int) -> bytes:
    return POST + b"Content-Length: %d\r\n\r\n" % size


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


class Endless:
    """A request body without an end; counts the bytes that were read from it."""

    def __init__(self, piece: bytes = b"x" * 65536) -> None:
        self.piece = piece
        self.bytes_read = 0
        self.stopped = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.bytes_read += len(self.piece)
                yield self.piece
                await asyncio.sleep(0)
        finally:
            self.stopped.set()


async def whole(reply: Reply) -> bytes:
    body = b""
    while piece := await reply.read():
        body += piece
    return body


def pool_of(upstreams: Upstreams, upstream: FaultUpstream) -> UpstreamPool:
    return upstreams.pool(UpstreamTarget.parse(upstream.url))


# --- framing ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "length", "parts"),
    [
        pytest.param(sized(11), 11, (b"hello ", b"", b"world"), id="length"),
        pytest.param(sized(0), 0, (), id="length 0"),
        pytest.param(CHUNKED, None, (b"hello ", b"", b"world"), id="chunked"),
        pytest.param(CHUNKED, None, (), id="chunked, empty"),
    ],
)
@pytest.mark.parametrize("at_once", [False, True], ids=["streamed", "bytes"])
async def test_request_bodies_arrive_whole(
    upstreams: Upstreams,
    timeouts: Timeouts,
    head: bytes,
    length: int | None,
    parts: tuple[bytes, ...],
    at_once: bool,
) -> None:
    """A body arrives whole, an empty piece isn't its end, the connection is kept."""
    body = b"".join(parts)
    async with FaultUpstream(FAULTS["echo"]) as upstream:
        pool = pool_of(upstreams, upstream)
        for _ in range(3):
            reply = await pool.exchange(
                head,
                method="POST",
                timeouts=timeouts,
                body=body if at_once else pieces(*parts),
                content_length=length,
            )
            assert await whole(reply) == body
        assert [got.head for got in upstream.requests] == [head] * 3
        assert upstream.connections == 1


@pytest.mark.parametrize("parts", [(b"12345", b"6"), (b"123",), ()])
async def test_a_body_that_differs_from_its_content_length_is_an_error(
    upstreams: Upstreams, timeouts: Timeouts, parts: tuple[bytes, ...]
) -> None:
    """A body longer or shorter than its Content-Length is an error.

    A longer one would be a second request, a shorter one would swallow the next. No
    surplus byte is sent, and the connection is closed.
    """
    async with FaultUpstream(answer(OK)) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(BadRequest):
            await pool.exchange(
                sized(5),
                method="POST",
                timeouts=timeouts,
                body=pieces(*parts),
                content_length=5,
            )
        assert not any(request.body[5:] for request in upstream.requests)
        with pytest.raises(BadRequest):
            await pool.exchange(
                sized(5),
                method="POST",
                timeouts=timeouts,
                body=b"".join(parts),
                content_length=5,
            )
        await until(lambda: pool.open == 0)


# --- early replies ------------------------------------------------------------


async def test_u10_a_refusal_before_the_body_is_sent_stops_the_upload(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """An early 413 is returned at once, and the client's body isn't read any more."""
    body = Endless()
    async with FaultUpstream(FAULTS["early 413"]) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await pool.exchange(
            sized(10**9),
            method="POST",
            timeouts=timeouts,
            body=body,
            content_length=10**9,
        )
        bytes_read = body.bytes_read
        assert body.stopped.is_set()
        assert (reply.status, await whole(reply)) == (413, b"no")
        await upstream.lost.wait()
        assert body.bytes_read == bytes_read
        assert pool.open == 0


@pytest.mark.parametrize("status", [b"302 Found", b"413 Too Large", b"500 Broken"])
async def test_u10_the_upload_stops_with_the_head_of_a_refusal(
    upstreams: Upstreams, timeouts: Timeouts, status: bytes
) -> None:
    """The upload stops when the head of a refusal has come, not only at its end."""
    go_on = asyncio.Event()

    async def behaviour(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\n\r\nno")
        await go_on.wait()
        await peer.send(b"no")
        await peer.gone()

    body = Endless()
    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await pool.exchange(
            CHUNKED, method="POST", timeouts=timeouts, body=body
        )
        assert body.stopped.is_set()
        go_on.set()
        assert await whole(reply) == b"nono"
        await upstream.lost.wait()
        assert pool.open == 0


async def test_the_upload_goes_on_after_an_early_2xx(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A service that answers 2xx while it reads gets the whole body, piece by piece."""
    pieces_sent: asyncio.Queue[bytes] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while piece := await pieces_sent.get():
            yield piece

    async with FaultUpstream(FAULTS["echo while reading"]) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await pool.exchange(
            CHUNKED, method="POST", timeouts=timeouts, body=body()
        )
        for piece in (b"one", b"two", b"three"):
            pieces_sent.put_nowait(piece)
            assert await reply.read() == piece
        pieces_sent.put_nowait(b"")
        assert await reply.read() == b""
        assert pool.idle == 1


async def test_a_2xx_that_ends_before_the_body_is_sent_ends_the_upload(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """The end of an early reply ends the upload; the connection is closed."""

    async def behaviour(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await peer.gone()

    body = Endless()
    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await pool.exchange(
            CHUNKED, method="POST", timeouts=timeouts, body=body
        )
        assert await whole(reply) == b"ok"
        await upstream.lost.wait()
        assert body.stopped.is_set()
        assert pool.open == 0


async def test_a_reply_before_the_request_was_taken_ends_the_connection(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """The body was written at once, but lies here: no request may queue behind it."""
    size = 32 * 1024**2

    async def behaviour(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(OK)
        await asyncio.Event().wait()

    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await pool.exchange(
            sized(size),
            method="POST",
            timeouts=timeouts,
            body=bytes(size),
            content_length=size,
        )
        assert await whole(reply) == b"ok"
        assert pool.idle == 0


# --- clients that are gone ----------------------------------------------------


@pytest.mark.parametrize("name", ["hang before head", "echo while reading"])
async def test_p1_a_body_that_raises_aborts_the_exchange(
    upstreams: Upstreams, timeouts: Timeouts, name: str
) -> None:
    """The body's exception is raised, before the reply's head or after it."""
    fail = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        await fail.wait()
        raise ClientGone("reset by the client")

    async with FaultUpstream(FAULTS[name]) as upstream:
        pool = pool_of(upstreams, upstream)
        sent = asyncio.create_task(
            pool.exchange(CHUNKED, method="POST", timeouts=timeouts, body=body())
        )
        await upstream.got_request.wait()
        if name == "echo while reading":
            await until(sent.done)
        fail.set()
        with pytest.raises(ClientGone, match="reset by the client"):
            await whole(await sent)
        await until(lambda: pool.open == 0)


async def test_a_body_that_is_cancelled_elsewhere_is_a_client_that_is_gone(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A body that ends with a cancellation from elsewhere raises `ClientGone`."""

    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        raise asyncio.CancelledError

    async with FaultUpstream(FAULTS["hang before head"]) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(ClientGone):
            await pool.exchange(CHUNKED, method="POST", timeouts=timeouts, body=body())
        await until(lambda: pool.open == 0)


async def test_cancelling_stops_the_upload(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """When an exchange is cancelled, the body is no longer read when it has ended."""
    body = Endless()
    async with FaultUpstream(FAULTS["never read"]) as upstream:
        pool = pool_of(upstreams, upstream)
        sent = asyncio.create_task(
            pool.exchange(CHUNKED, method="POST", timeouts=timeouts, body=body)
        )
        await until(lambda: body.bytes_read)
        sent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sent
        assert body.stopped.is_set()
        await until(lambda: pool.open == 0)


async def test_cancelling_while_the_upload_stops_closes_the_connection(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A reply that has come to a cancelled exchange has its connection closed."""
    stopping, stopped = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        try:
            await asyncio.Event().wait()
        finally:
            stopping.set()
            await stopped.wait()

    async def behaviour(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nno")
        await peer.gone()

    unhurried = replace(timeouts, idle=60.0)
    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        sent = asyncio.create_task(
            pool.exchange(CHUNKED, method="POST", timeouts=unhurried, body=body())
        )
        await stopping.wait()
        await asyncio.sleep(0)  # the exchange has its reply, and waits for the upload
        sent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sent
        stopped.set()
        await upstream.lost.wait()


async def test_an_upstream_that_dies_ends_the_upload(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """When the upstream resets the connection, the body is no longer read."""

    async def behaviour(peer: Peer) -> None:
        await peer.head()
        await peer.reader.readexactly(100_000)
        peer.reset()

    body = Endless()
    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(UpstreamClosed):
            await pool.exchange(CHUNKED, method="POST", timeouts=timeouts, body=body)
        assert body.stopped.is_set()
        assert pool.open == 0


# --- back-pressure, and which timeout runs ------------------------------------


async def test_u11_a_slow_reader_holds_the_client_back(upstreams: Upstreams) -> None:
    """An upstream that never reads gets under 16 MiB before `idle` ends the upload.

    Only the kernel's buffers and 64 KiB of ours are filled.
    """
    body = Endless()
    async with FaultUpstream(FAULTS["never read"]) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(UpstreamTimeout, match="took no byte"):
            await pool.exchange(
                CHUNKED,
                method="POST",
                timeouts=timeouts_of(idle=0.1, response=0.1),
                body=body,
            )
        assert body.stopped.is_set()
    assert body.bytes_read < 16 * 1024**2


@pytest.mark.parametrize("at_once", [False, True], ids=["streamed", "bytes"])
async def test_u11_a_reader_that_is_slow_but_reads_is_no_timeout(
    clock: MovableClock, upstreams: Upstreams, at_once: bool
) -> None:
    """Each byte that the upstream reads restarts `idle`, also within one piece."""
    size = 24 * 1024**2

    async def behaviour(peer: Peer) -> None:
        await peer.head()
        left = size
        while left > 0:
            data = await peer.reader.read(65536)
            left -= len(data)
            await clock.pass_time(0.5)
        await peer.send(OK)
        await peer.gone()

    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await pool.exchange(
            sized(size),
            method="POST",
            timeouts=timeouts_of(idle=40, response=60),
            body=b"x" * size if at_once else pieces(b"x" * size),
            content_length=size,
        )
        assert await whole(reply) == b"ok"


async def test_a_slow_client_is_not_the_upstreams_fault(
    clock: MovableClock, upstreams: Upstreams
) -> None:
    """While the client's body is awaited, neither `response` nor `idle` runs."""

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        await clock.pass_time(60)
        yield b"two"

    async with FaultUpstream(FAULTS["echo"]) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await pool.exchange(
            CHUNKED,
            method="POST",
            timeouts=timeouts_of(idle=20, response=40),
            body=body(),
        )
        assert await whole(reply) == b"onetwo"


async def test_total_runs_while_the_client_is_slow(
    clock: MovableClock, upstreams: Upstreams
) -> None:
    """`total` ends an exchange also while the client's body is awaited."""

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        clock.advance(30)
        await asyncio.Event().wait()

    async with FaultUpstream(FAULTS["echo"]) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(UpstreamTimeout, match="total"):
            await pool.exchange(
                CHUNKED, method="POST", timeouts=timeouts_of(total=30), body=body()
            )


async def test_u12_a_slow_client_holds_the_upstream_back(
    clock: MovableClock, upstreams: Upstreams
) -> None:
    """While the client doesn't read, a bounded part of the reply is held.

    `idle` doesn't run meanwhile, and the whole reply can be read later.
    """
    size = 32 * 1024**2
    sent = 0

    async def behaviour(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            await peer.send(b"x" * 65536)
            sent += 65536
        await peer.gone()

    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        head = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"
        timeouts = timeouts_of(idle=20)
        reply = await pool.exchange(head, method="GET", timeouts=timeouts)
        (connection,) = pool._connections
        await until_stopped(connection._transport, lambda: sent)
        await clock.pass_time(80)
        assert reply.size <= 65536 + 262144
        assert sent < 16 * 1024**2
        read = 0
        while piece := await reply.read():
            read += len(piece)
            assert len(piece) <= 65536 + 262144
        assert (read, reply.complete, pool.idle) == (size, True, 1)


async def test_big_bodies_both_ways_at_once(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """16 MiB go up and down at once through one connection, complete and in order."""
    count = 256

    async def body() -> AsyncIterator[bytes]:
        for number in range(count):
            yield bytes([number]) * 65536

    async with FaultUpstream(FAULTS["echo while reading"]) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await pool.exchange(
            CHUNKED, method="POST", timeouts=timeouts, body=body()
        )
        received = bytearray()
        while piece := await reply.read():
            received += piece
            await asyncio.sleep(0)
        assert received == b"".join(bytes([number]) * 65536 for number in range(count))


# --- small chunks ---------------------------------------------------------------


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"2\r\n\r\n\r\n"])
async def test_small_chunks_are_parsed_in_turns(
    upstreams: Upstreams, timeouts: Timeouts, *, chunk: bytes, closes: bool
) -> None:
    """G15: a part in each turn of the loop. The reply is whole, even if FIN follows."""

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunk * 8000
            + b"0\r\n\r\n"
        )
        if not closes:
            await peer.gone()

    head = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"
    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await pool.exchange(head, method="GET", timeouts=timeouts)
        body, pieces = b"", 0
        while piece := await reply.read():
            body += piece
            pieces += 1
            assert len(piece) <= 2 * CHUNKS_PER_FEED * len(chunk[3:-2])
        assert body == chunk[3:-2] * 8000
        assert pieces >= 8
        if not closes:
            assert pool.idle == 1


async def test_a_connection_that_is_lost_with_chunks_put_off(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """G15: all that had arrived counts, as if it had been parsed at once."""

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.gone()

    head = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"
    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await pool.exchange(head, method="GET", timeouts=timeouts)
        connection = reply._source
        assert isinstance(connection, UpstreamConnection)
        connection.data_received(b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")
        assert not reply.complete
        connection.connection_lost(ConnectionResetError())
        assert await whole(reply) == b"x" * 5000
