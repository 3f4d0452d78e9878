"""The listener's deadlines and limits, and how its connections end.

Each test runs a gateway of its own. Its time limits are short where only their end is
tested. Where something must happen before, they are seconds, and the test moves the
clock. The corpus (tests/test_corpus.py) tests which requests are refused.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from corpus import rig as corpus_rig
from corpus.rig import Rig, Watched, until
from fake_time import MovableClock
from wire import connect

from gateway.downstream import exchange, listener
from gateway.downstream.send_queue import unreceived
from gateway.http import chunks
from gateway.pace import Pace

GET = b"GET /public/a HTTP/1.1\r\nHost: gw\r\n\r\n"
SHORT_S = 0.1
LONG_S = 5.0
"""A limit that a busy machine doesn't reach; the test moves the clock past it."""
PATIENCE_S = 30.0


OFTEN = Pace(sweep_s=0.02)


def running(*, pace: Pace = OFTEN, **options: Any) -> AbstractAsyncContextManager[Rig]:
    """Run the corpus' gateway with a listener that checks deadlines often."""
    return corpus_rig.running(pace=pace, **options)


@asynccontextmanager
async def connected(
    rig: Rig, address: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect for the block, which times out after `PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", rig.port, local_addr=(address, 0)
        )
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def server_side(rig: Rig, writer: asyncio.StreamWriter) -> Watched:
    """Return the gateway's end of a connection."""
    port = writer.get_extra_info("sockname")[1]
    await until(lambda: port in rig.listener.watched)
    watched: Watched = rig.listener.watched[port]
    return watched


async def begun(rig: Rig) -> None:
    """Return when the upstream has received bytes of a request."""
    await until(lambda: rig.upstream.begun or rig.upstream.requests)


async def forwards(rig: Rig) -> None:
    """Assert that a valid request is the first that reaches the upstream.

    So the refused requests before it didn't, although the upstream is reachable.
    """
    assert rig.upstream.connections == 0
    async with connected(rig) as (reader, writer):
        writer.write(GET)
        assert (await reader.readuntil(b"/public/a")).startswith(b"HTTP/1.1 200 ")
    assert [each.target for each in rig.upstream.requests] == [b"/public/a"]


async def upstream_left(rig: Rig) -> None:
    """Return when no connection to the upstream is open."""
    await until(lambda: not rig.upstream.open)


# --- heads ----------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[b"G"], [GET[:-2]], [b"\r\n", b"\r\n"]])
async def test_a_slow_head_is_408(pieces: list[bytes]) -> None:
    """G5: `head_timeout` runs from the first byte of the head to its end."""
    async with running(limits={"head_timeout": SHORT_S}) as rig:
        async with connected(rig) as (reader, writer):
            for piece in pieces:
                writer.write(piece)
            reply = await reader.read()
        assert reply.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"Connection: close\r\n" in reply
        assert reply.count(b"\r\nDate: ") == 1
        assert [record.status for record in rig.records] == [408]
        await forwards(rig)


async def test_more_bytes_do_not_extend_the_deadline_of_a_head() -> None:
    """G5: a head sent byte by byte is still 408 after `head_timeout`."""
    async with (
        running(limits={"head_timeout": SHORT_S}) as rig,
        connected(rig) as (reader, writer),
    ):
        reply = asyncio.ensure_future(reader.read())
        for byte in GET[:-1]:
            writer.write(bytes([byte]))
            done, _ = await asyncio.wait({reply}, timeout=0.02)
            if done:
                break
        assert (await reply).startswith(b"HTTP/1.1 408 ")
        await forwards(rig)


async def test_a_second_slow_head_is_408_too() -> None:
    """The deadline holds for every request of a connection, not only the first."""
    async with (
        running(limits={"head_timeout": SHORT_S}) as rig,
        connected(rig) as (reader, writer),
    ):
        writer.write(GET)
        assert (await reader.readuntil(b"/public/a")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")


BODY = b"POST /public/a HTTP/1.1\r\nHost: gw\r\nContent-Length: 8\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([GET + b"G"], id="behind a head"),
        pytest.param([GET[:-1], b"\n", b"G"], id="while it is answered"),
        pytest.param([GET + GET + GET[:-1]], id="behind two"),
        pytest.param([BODY + b"12345678G"], id="behind a body"),
        pytest.param([BODY, b"12345678G"], id="behind a body of its own segment"),
        pytest.param([BODY + b"12", b"345678G"], id="behind a body cut in two"),
        pytest.param([GET + BODY + b"\r\n\r\n5678G"], id="behind an odd body"),
    ],
)
async def test_a_slow_head_behind_a_request_is_408(
    clock: MovableClock, pieces: list[bytes]
) -> None:
    """G5: its deadline also runs if it begins in the segment of the request before."""
    async with (
        running(limits={"head_timeout": LONG_S}) as rig,
        connected(rig) as (reader, writer),
    ):
        watched = await server_side(rig, writer)
        sent = 0
        for piece in pieces:
            writer.write(piece)
            sent += len(piece)
            await watched.until(sent)
        await until(lambda: not watched.is_running)
        clock.advance(LONG_S)
        replies = await reader.read()
        assert replies.startswith(b"HTTP/1.1 200 ")
        assert replies.count(b"HTTP/1.1 408 ") == 1


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([GET], id="a head"),
        pytest.param([bytes([byte]) for byte in GET], id="byte by byte"),
        pytest.param([GET + GET], id="two"),
        pytest.param([GET * 40], id="more than are queued"),
        pytest.param([BODY + b"12345678"], id="a body"),
        pytest.param([BODY[:-1], b"\n12345678"], id="a body and the head's end"),
        pytest.param([BODY, b"1234", b"5678"], id="a body in pieces"),
        pytest.param([(BODY + b"\r\n\r\n\r\n\r\n") * 40], id="more odd bodies"),
        pytest.param([BODY + b"12345678" + GET, GET], id="both"),
    ],
)
async def test_the_head_deadline_ends_with_the_request(
    clock: MovableClock, pieces: list[bytes]
) -> None:
    """After complete requests, however segmented, only `keep_alive` limits the wait."""
    async with (
        running(limits={"head_timeout": LONG_S}) as rig,
        connected(rig) as (reader, writer),
    ):
        watched = await server_side(rig, writer)
        for number, piece in enumerate(pieces, 1):
            writer.write(piece)
            await watched.until(sum(map(len, pieces[:number])))
        for _ in range(b"".join(pieces).count(b" HTTP/1.1")):
            await reader.readuntil(b"/public/a")
        await clock.pass_time(2 * LONG_S)
        writer.write(GET)
        assert (await reader.readuntil(b"/public/a")).startswith(b"HTTP/1.1 200 ")


async def test_a_slow_reply_is_not_a_slow_head(clock: MovableClock) -> None:
    """The deadline of a head that came in two segments ends with the head."""
    async with (
        running(limits={"head_timeout": LONG_S}) as rig,
        connected(rig) as (reader, writer),
    ):
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        watched = await server_side(rig, writer)
        writer.write(GET[:10])
        await watched.until(10)
        writer.write(GET[10:])
        head = await reader.readuntil(b"\r\n\r\n")
        await clock.pass_time(2 * LONG_S)
        (upstream,) = rig.upstream.open
        upstream._transport.write(b"ok")
        assert await reader.readexactly(2) == b"ok"
        assert head.startswith(b"HTTP/1.1 200")


async def test_an_idle_connection_keeps_nothing_of_its_last_head() -> None:
    """None of its bytes stays reachable: it may have had a token."""
    secret = b"Authorization: Bearer " + b"secret" * 10
    get, post = (x.replace(b"Host: gw", b"Host: gw\r\n" + secret) for x in (GET, BODY))
    async with running() as rig, connected(rig) as (reader, writer):
        watched = await server_side(rig, writer)
        for pieces in ([get], [post + b"12345678"], [get[:40], get[40:]], [get + get]):
            for piece in pieces:
                writer.write(piece)
                await reader.readuntil(b"/public/a") if piece is pieces[-1] else None
            await until(lambda: not watched.is_running)
            assert not [data for data in reachable(watched) if b"secret" in data]


CLIENT_SIDE = (
    *("gateway.downstream.exchange", "gateway.running", "corpus.rig"),
    *("gateway.http.chunks", "gateway.http.request_head"),
)
"""The modules of the classes that a connection uses for one request."""


def reachable(root: object) -> list[bytes]:
    """Return all bytes objects that *root* holds, directly or through our objects."""
    visited: set[int] = set()
    result: list[bytes] = []
    queue = [root]
    while queue:
        obj = queue.pop()
        if id(obj) in visited:
            continue
        visited.add(id(obj))
        if isinstance(obj, bytes):
            result.append(obj)
        elif isinstance(obj, (tuple, list, dict)) or (
            type(obj).__module__ in CLIENT_SIDE
            and not isinstance(obj, (listener.Listener, Rig))
        ):
            queue += gc.get_referents(obj)
    return result


BIG = BODY.replace(b"8", b"40000") + bytes(40000)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([GET], id="a head"),
        pytest.param([GET[:-1], b"\n"], id="a head cut in its end"),
        pytest.param([GET * 40], id="more than are queued"),
        pytest.param([BODY + b"\r\n\r\n5678"], id="an odd body"),
        pytest.param([GET + BODY + b"\r\n\r\n5678"], id="an odd body behind a head"),
        pytest.param([BODY[:-1], b"\n\r\n\r\n5678"], id="an odd body and a head's end"),
        pytest.param([BIG], id="a body larger than its buffer"),
    ],
)
async def test_the_beginning_of_a_pipelined_head_is_kept(
    pieces: list[bytes],
) -> None:
    """Its first bytes came behind another request, and the rest after a deadline check.

    The whole head is read.
    """
    async with running() as rig, connected(rig) as (reader, writer):
        watched = await server_side(rig, writer)
        *first, last = pieces
        sent = 0
        for piece in (*first, last + GET[:4]):
            writer.write(piece)
            sent += len(piece)
            await watched.until(sent)
        for _ in range(b"".join(pieces).count(b" HTTP/1.1")):
            await reader.readuntil(b"/public/a")
        await until(lambda: not watched.is_running)
        watched.check_deadlines(watched._idle_since + 1)
        writer.write(GET[4:])
        assert (await reader.readuntil(b"/public/a")).startswith(b"HTTP/1.1 200 ")


async def test_an_idle_connection_is_closed(clock: MovableClock) -> None:
    """After `keep_alive`, also if nothing was ever sent on the connection."""
    async with running(limits={"keep_alive": LONG_S}) as rig:
        async with connected(rig) as (reader, writer):
            await server_side(rig, writer)
            clock.advance(LONG_S)
            assert await reader.read() == b""
        async with connected(rig) as (reader, writer):
            watched = await server_side(rig, writer)
            writer.write(GET)
            reply = await reader.readuntil(b"/public/a")
            assert reply.startswith(b"HTTP/1.1 200 ")
            await until(lambda: not watched.is_running)
            clock.advance(LONG_S)
            assert await reader.read() == b""


async def test_a_head_too_large_is_refused_before_it_ends() -> None:
    """G3: the bytes of a head that exceeds its limit aren't buffered."""
    limits = {"max_head_size": 2000, "max_target_size": 1000, "max_field_size": 1000}
    async with running(limits=limits) as rig, connected(rig) as (reader, writer):
        watched = await server_side(rig, writer)
        for _ in range(30):
            writer.write(
                b"GET / HTTP/1.1\r\n" if not watched.taken else b"A: bbbbbb" * 9
            )
            writer.write(b"\r\n" if watched.taken else b"")
            await watched.until(watched.taken + 1)
            if watched.gone:
                break
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        await forwards(rig)


@pytest.mark.parametrize(
    ("limits", "request_bytes", "status"),
    [
        ({"max_target_size": 100}, b"GET /%b HTTP/1.1" % (b"a" * 101), 414),
        ({"max_field_size": 100}, b"GET / HTTP/1.1\r\nA: %b" % (b"a" * 101), 431),
        ({"max_fields": 3}, b"GET / HTTP/1.1" + b"\r\nA: b" * 4, 431),
        (
            {"max_target_size": 100, "max_field_size": 100},
            b"GET /%b HTTP/1.1" % (b"a" * 101),
            414,
        ),
        (
            {"max_target_size": 100, "max_field_size": 100},
            b"GET / HTTP/1.1\r\nA: %b" % (b"a" * 110),
            431,
        ),
    ],
    ids=["target", "field", "fields", "target-of-two", "field-of-two"],
)
async def test_sizes_have_their_own_status(
    limits: dict[str, Any], request_bytes: bytes, status: int
) -> None:
    """G3: beyond their configured limits, 414 for the target and 431 for fields."""
    async with running(limits=limits) as rig, connected(rig) as (reader, writer):
        writer.write(request_bytes + b"\r\nHost: gw\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 %d " % status)
        await forwards(rig)


# --- bodies ---------------------------------------------------------------------

POST = b"POST /public/a HTTP/1.1\r\nHost: gw\r\nContent-Length: 100000\r\n\r\n"
"""Its body is streamed: it is larger than `request.buffer`."""
CHUNKED = POST.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked")


async def test_a_body_that_stalls_is_408() -> None:
    """G6: after `body_idle_timeout` without a byte. The upstream request is cut."""
    async with (
        running(limits={"body_idle_timeout": SHORT_S}) as rig,
        connected(rig) as (reader, writer),
    ):
        writer.write(POST + b"a")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        await upstream_left(rig)
        assert not rig.upstream.requests


async def test_a_body_below_the_minimum_rate_is_408() -> None:
    """G6: each gap is short, but the whole body is too slow. The upstream is cut."""
    pace = replace(OFTEN, body_rate_grace_s=SHORT_S)
    limits = {"body_idle_timeout": 5.0, "body_min_rate": 1000}
    async with (
        running(limits=limits, pace=pace) as rig,
        connected(rig) as (reader, writer),
    ):
        writer.write(POST)
        reply = asyncio.ensure_future(reader.read())
        while not reply.done():
            writer.write(b"a")
            await asyncio.wait({reply}, timeout=0.01)
        assert reply.result().startswith(b"HTTP/1.1 408 ")
        await upstream_left(rig)
        assert not rig.upstream.requests


@pytest.mark.parametrize(
    ("waited_s", "size", "status"),
    [
        pytest.param(9, 2, 200, id="too slow, in the grace period"),
        pytest.param(11, 2, 408, id="too slow, after it"),
        pytest.param(11, 1000, 408, id="almost fast enough"),
        pytest.param(11, 1200, 200, id="fast enough"),
        pytest.param(59, 6000, 200, id="fast enough for long"),
    ],
)
async def test_a_body_has_a_minimum_rate_after_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, waited_s: float, size: int, status: int
) -> None:
    """G6: the rate is all bytes received, over the time spent waiting for the client.

    The test moves the loop's clock while the gateway waits for the second piece.
    """
    loop = asyncio.get_running_loop()
    real = loop.time
    first, second = (
        b"%x\r\n%b\r\n" % (size // 2, letter * (size // 2)) for letter in (b"a", b"b")
    )
    limits = {"body_idle_timeout": 60.0, "body_min_rate": 100}
    async with running(limits=limits) as rig, connect(rig.port) as wire:
        await wire.send(CHUNKED + first)
        async with asyncio.timeout(PATIENCE_S):
            await until(lambda: b"\r\n\r\n" + first in b"".join(rig.upstream.begun))
        monkeypatch.setattr(loop, "time", lambda: real() + waited_s)
        await wire.send(second + b"0\r\n\r\n")
        assert (await wire.reply()).status == status
        if status == 200:
            bodies = [each.body for each in rig.upstream.requests]
            assert bodies == [b"a" * (size // 2) + b"b" * (size // 2)]
        else:
            async with asyncio.timeout(PATIENCE_S):
                await upstream_left(rig)
            assert not rig.upstream.requests


async def test_100_comes_after_the_verdict() -> None:
    """C19: an allowed request gets 100 Continue, a refused one gets its 401 at once."""
    async with running() as rig, connected(rig) as (reader, writer):
        head = b"POST %b HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\n%b\r\n\r\n"
        writer.write(head % (b"/public/a", b"Content-Length: 5"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert not rig.upstream.requests
        writer.write(b"hello")
        assert (await reader.readuntil(b"/public/a")).startswith(b"HTTP/1.1 200")
        assert rig.upstream.requests[0].body == b"hello"
        writer.write(head % (b"/admin", b"Content-Length: 5"))
        assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
        assert len(rig.upstream.requests) == 1


# --- bodies of refused requests -------------------------------------------------


async def test_a_small_body_of_a_refused_request_is_discarded() -> None:
    """C17: a body that arrives after the 401 isn't read as a request.

    The connection stays open, and serves the next request.
    """
    async with running() as rig, connected(rig) as (reader, writer):
        writer.write(b"POST /admin HTTP/1.1\r\nHost: gw\r\nContent-Length: 36\r\n\r\n")
        head = await reader.readuntil(b"}")
        assert head.startswith(b"HTTP/1.1 401 ")
        assert b"Connection: close" not in head
        writer.write(GET[:36])
        writer.write(GET)
        assert (await reader.readuntil(b"/public/a")).startswith(b"HTTP/1.1 200")
        assert len(rig.upstream.requests) == 1


async def test_a_missing_body_of_a_refused_request_ends_the_connection() -> None:
    """C17: the gateway waits for the rest of it for `drain_body_s`."""
    pace = replace(OFTEN, drain_body_s=SHORT_S)
    async with running(pace=pace) as rig, connected(rig) as (reader, writer):
        writer.write(b"POST /admin HTTP/1.1\r\nHost: gw\r\nContent-Length: 36\r\n\r\nG")
        assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
        await forwards(rig)


async def test_a_client_gets_the_refusal_during_its_upload() -> None:
    """A client in the middle of a large upload gets the 401, not a reset."""
    size = 3_000_000
    async with running() as rig, connected(rig) as (reader, writer):
        writer.write(b"POST /admin HTTP/1.1\r\nHost: gw\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % size)
        writer.write(bytes(size))
        await writer.drain()
        reply = await reader.read()
        assert reply.startswith(b"HTTP/1.1 401 ")
        assert b"Connection: close\r\n" in reply
        await forwards(rig)


async def test_an_endless_upload_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """C17: the gateway discards a limited number of bytes of a refused upload."""
    monkeypatch.setattr(exchange, "_LINGER_BYTES", 200_000)
    async with running() as rig, connected(rig) as (_reader, writer):
        watched = await server_side(rig, writer)
        writer.write(b"POST /admin HTTP/1.1\r\nHost: gw\r\n")
        writer.write(b"Content-Length: 90000000\r\n\r\n")

        async def upload() -> None:
            while True:
                writer.write(bytes(65536))
                await writer.drain()

        with pytest.raises(ConnectionError):
            await upload()
        await watched.until_gone()
        assert watched.taken < 2_000_000
        await forwards(rig)


async def test_a_late_413_cuts_the_upstream() -> None:
    """G4: the limit is exceeded mid-body, so the upstream gets no complete request."""
    async with running() as rig, connected(rig) as (reader, writer):
        writer.write(b"POST /small HTTP/1.1\r\nHost: gw\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n")
        await begun(rig)
        writer.write(b"9\r\n123456789\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
        await upstream_left(rig)
        assert not rig.upstream.requests


# --- clients that don't read ----------------------------------------------------


async def test_a_client_that_reads_nothing_is_cut() -> None:
    """G7: its connection and the upstream's are closed, and the record has a reason."""
    async with running(limits={"write_idle_timeout": SHORT_S}) as rig:
        size = 50_000_000
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        rig.upstream.reply += bytes(size)
        async with connected(rig) as (_reader, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined] # of both directions
            watched = await server_side(rig, writer)
            writer.write(GET)
            await watched.until_gone()
            await upstream_left(rig)
        await until(lambda: rig.records)
        assert [(record.status, record.reason) for record in rig.records] == [
            (408, "client_stalled")
        ]
        assert not rig.complaints.texts


async def test_a_client_that_reads_slowly_is_not_cut(clock: MovableClock) -> None:
    """G7: it gets the whole reply; the gateway buffers less than 2 MB of it."""
    async with running(limits={"write_idle_timeout": LONG_S}) as rig:
        size = 12_000_000
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        rig.upstream.reply += bytes(size)
        async with connected(rig) as (reader, writer):
            watched = await server_side(rig, writer)
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
            received = 0
            max_buffered = 0
            while received < size:
                received += len(await reader.read(400_000))
                assert watched.transport is not None
                buffered = watched.transport.get_write_buffer_size()
                max_buffered = max(max_buffered, buffered)
                await clock.pass_time(LONG_S / 20)
            assert max_buffered < 2_000_000


RARELY = Pace(sweep_s=3600, reply_rate_grace_s=10)
"""Deadlines are checked by the test, at times that it makes up."""

END = b"the end"
REPLY = bytes(2_000_000 - len(END)) + END
SIZED = b"Content-Length: 2000000"


class SlowReader:
    """A client with small buffers that has asked for a large reply, and reads none."""

    def __init__(self, rig: Rig, client: socket.socket, watched: Watched) -> None:
        self.rig = rig
        self.client = client
        self.watched = watched
        self.received = b""
        self.now = asyncio.get_running_loop().time()
        assert watched.transport is not None
        self.transport = watched.transport

    @property
    def buffered(self) -> int:
        return self.transport.get_write_buffer_size()

    def read_some(self) -> None:
        """Read until the kernel shows it at the gateway's end."""
        before = unreceived(self.transport)
        while unreceived(self.transport) == before:
            self.received += self.client.recv(4096)

    def pass_time(self, seconds: float) -> None:
        """Check the deadlines of the connection so much later."""
        self.now += seconds
        self.watched.check_deadlines(self.now)

    async def read(self) -> bytes:
        """Return what can be read next; b"" is the end of the connection."""
        loop = asyncio.get_running_loop()
        piece = await loop.sock_recv(self.client, 65536)
        self.received += piece
        return piece

    async def read_to_the_end(self) -> None:
        while await self.read():
            pass


@asynccontextmanager
async def reading_slowly(
    rig: Rig, *, version: bytes = b"1.1", framing: bytes = SIZED
) -> AsyncIterator[SlowReader]:
    """Ask for 2 MB; return when the gateway waits for the client to read."""
    rig.upstream.reply = b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing + REPLY
    rig.upstream.reply_closes = framing is not SIZED
    async with not_reading(rig) as reader:
        reader.client.send(GET.replace(b"1.1", version, 1))
        await until(lambda: reader.watched.writing_paused)
        yield reader


@asynccontextmanager
async def not_reading(rig: Rig) -> AsyncIterator[SlowReader]:
    """Connect with small buffers."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.setblocking(False)
        async with asyncio.timeout(PATIENCE_S):
            await loop.sock_connect(client, ("127.0.0.1", rig.port))
            port = client.getsockname()[1]
            await until(lambda: port in rig.listener.watched)
            watched = rig.listener.watched[port]
            assert watched.transport is not None
            sock = watched.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 300_000)
            yield SlowReader(rig, client, watched)


async def test_a_steady_slow_reader_gets_everything() -> None:
    """G7: the kernel's progress counts, not only that of the transport's buffer.

    That stays as it is until a third of the kernel's buffer is free.
    """
    limits = {"write_idle_timeout": 30.0, "download_min_rate": 0}
    async with (
        running(limits=limits, pace=RARELY) as rig,
        reading_slowly(rig) as reader,
    ):
        reader.pass_time(0)
        buffered = reader.buffered
        for _ in range(5):
            reader.read_some()
            reader.pass_time(29)
            assert reader.buffered == buffered
        async with asyncio.timeout(PATIENCE_S):
            while not reader.received.endswith(END):
                await reader.read()
        assert reader.received.partition(b"\r\n\r\n")[2] == REPLY
        await until(lambda: rig.records)
        assert [record.side for record in rig.records] == [None]
        assert not rig.complaints.texts


@pytest.mark.parametrize(
    ("limits", "reads", "reason"),
    [
        pytest.param({"write_idle_timeout": 19}, False, "client_stalled", id="stalled"),
        pytest.param({"download_min_rate": 100_000}, True, "client_slow", id="slow"),
    ],
)
@pytest.mark.parametrize(
    ("version", "framing"),
    [
        (b"1.1", SIZED),
        (b"1.0", b"Connection: close"),
    ],
)
async def test_a_client_that_is_cut_has_a_reason_and_sees_it(
    limits: dict[str, float], reads: bool, reason: str, version: bytes, framing: bytes
) -> None:
    """G7: the log tells it from a client that has gone, and the client gets a RST.

    After a FIN, a body that ends with the connection would count as complete.
    """
    async with (
        running(limits=limits, pace=RARELY) as rig,
        reading_slowly(rig, version=version, framing=framing) as reader,
    ):
        reader.pass_time(0)
        if reads:
            reader.read_some()
        assert not rig.records
        reader.pass_time(20)
        await reader.watched.until_gone()
        await upstream_left(rig)
        await until(lambda: rig.records)
        (record,) = rig.records
        assert (record.status, record.reason) == (408, reason)
        assert record.side == "client"
        with pytest.raises(ConnectionResetError):
            await reader.read_to_the_end()
        assert not rig.complaints.texts


async def test_a_tail_is_read_as_slowly_as_the_rest() -> None:
    """G7: the rule is the same when the request has ended but its bytes wait."""
    limits = {
        "write_idle_timeout": 30.0,
        "download_min_rate": 0,
        "keep_alive": 3600.0,
    }
    async with running(limits=limits, pace=RARELY) as rig, not_reading(rig) as reader:
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n"
        rig.upstream.reply += bytes(20000)
        while not reader.buffered:
            rig.records.clear()
            reader.client.send(GET)
            await until(lambda: rig.records)
        reader.pass_time(0)
        buffered = reader.buffered
        for _ in range(3):
            reader.read_some()
            reader.pass_time(29)
            assert reader.buffered == buffered
        reader.pass_time(31)
        await reader.watched.until_gone()
        assert [record.status for record in rig.records] == [200]


async def test_a_client_with_unread_replies_is_cut() -> None:
    """G7: also if no request is in progress, but complete replies stay unread."""
    limits = {"write_idle_timeout": SHORT_S, "keep_alive": 30.0}
    async with running(limits=limits) as rig, connected(rig) as (_reader, writer):
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n"
        rig.upstream.reply += bytes(50000)
        writer.transport.pause_reading()  # type: ignore[attr-defined] # of both directions
        watched = await server_side(rig, writer)
        assert watched.transport is not None
        while not watched.transport.get_write_buffer_size():
            rig.records.clear()
            writer.write(GET)
            await until(lambda: rig.records)
        await watched.until_gone()


# --- connections ----------------------------------------------------------------


async def test_connections_beyond_the_limit_are_closed() -> None:
    """G9: at once; older connections are served, and an ended one makes room."""
    async with running(limits={"max_connections": 2}) as rig:  # noqa: SIM117 - one rig
        async with connected(rig) as (first, to_first), connected(rig) as (_, second):
            await server_side(rig, to_first)
            ending = await server_side(rig, second)
            async with connected(rig) as (third, _):
                assert await third.read() == b""
            assert rig.listener.connections == 2
            to_first.write(GET)
            assert (await first.readuntil(b"/a")).startswith(b"HTTP/1.1 200")
            second.transport.abort()
            await ending.until_gone()
            async with connected(rig) as (fourth, to_fourth):
                to_fourth.write(GET)
                assert (await fourth.readuntil(b"/a")).startswith(b"HTTP/1.1 200")


async def test_connections_of_one_client_are_limited() -> None:
    """G9: further ones are closed at once and reported; other clients aren't affected.

    A place is free again when one of its connections ends.
    """
    limits = {"per_client": {"connections": 2}}
    async with running(limits=limits) as rig:
        async with connected(rig) as (first, to_first), connected(rig) as (_, second):
            await server_side(rig, to_first)
            gone = await server_side(rig, second)
            async with connected(rig) as (third, _):
                assert await third.read() == b""
            assert rig.listener.connections == 2
            assert rig.listener.rejections.total == 1
            (text,) = rig.complaints.texts
            assert text.endswith(
                "per_client.connections: 1, the last one from 127.0.0.1"
            )
            async with connected(rig, "127.0.0.2") as (other, to_other):
                to_other.write(GET)
                assert (await other.readuntil(b"/a")).startswith(b"HTTP/1.1 200")
            second.transport.abort()
            await gone.until_gone()
            async with connected(rig) as (fourth, to_fourth):
                to_fourth.write(GET)
                assert (await fourth.readuntil(b"/a")).startswith(b"HTTP/1.1 200")
            to_first.write(GET)
            assert (await first.readuntil(b"/a")).startswith(b"HTTP/1.1 200")
        await until(lambda: not rig.listener.connections)
        assert not rig.listener.admission.by_client


@pytest.mark.parametrize(
    "exemption",
    [
        {"trusted": ("127.0.0.0/8",)},
        {"exempt": ["127.0.0.1"]},
    ],
)
async def test_exempt_networks_have_no_share(exemption: dict[str, Any]) -> None:
    """G9: a trusted proxy, and a network that is exempt."""
    exempt = exemption.pop("exempt", [])
    limits = {"per_client": {"connections": 1, "exempt": exempt}}
    async with (
        running(limits=limits, **exemption) as rig,
        connected(rig) as (_, first),
        connected(rig) as (reader, writer),
    ):
        await server_side(rig, first)
        writer.write(GET)
        assert (await reader.readuntil(b"/a")).startswith(b"HTTP/1.1 200")
        assert not rig.complaints.texts


async def test_pipelined_requests_are_read_one_at_a_time() -> None:
    """C21: 999 requests stay unparsed and reading pauses until the first is served."""
    async with running() as rig, connected(rig) as (reader, writer):
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        watched = await server_side(rig, writer)
        writer.write(GET * 1000)
        await reader.readuntil(b"\r\n\r\n")
        assert len(rig.upstream.requests) == 1
        # They are queued as raw bytes.
        assert len(watched._unread) - watched._at == watched.taken - len(GET)
        assert not watched._is_reading
        (upstream,) = rig.upstream.open
        rig.upstream.reply = None
        upstream._transport.write(b"ok")
        for _ in range(999):
            await reader.readuntil(b"/public/a")
        assert len(rig.upstream.requests) == 1000


async def test_pipelined_bytes_are_bounded() -> None:
    """C21: during a request reading pauses before 600 kB are queued.

    They are parsed once the request is over.
    """
    async with running() as rig, connected(rig) as (reader, writer):
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        watched = await server_side(rig, writer)
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        while watched._is_reading:
            writer.write(b"\x01" * 10000)
            await asyncio.sleep(0)
        writer.write(b"\x01" * 2_000_000)
        await asyncio.sleep(SHORT_S)  # a real pause, in which a gateway could read on
        assert len(watched._unread) < 600_000
        (upstream,) = rig.upstream.open
        upstream._transport.write(b"ok")
        assert (await reader.readexactly(15)) == b"okHTTP/1.1 400 "


NONE = b"GET /none HTTP/1.1\r\nHost: gw\r\n\r\n"
CHUNKED = b"POST /public/a HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_pipelined_requests_take_turns() -> None:
    """G15: a few in each turn of the loop, in order; others are served in between."""
    async with (
        running() as rig,
        connected(rig) as (reader, writer),
        connected(rig) as (_, to_other),
        connected(rig) as (_, to_innocent),
    ):
        busy = [await server_side(rig, writer), await server_side(rig, to_other)]
        innocent = await server_side(rig, to_innocent)
        numbered = [NONE.replace(b"none", b"none/%d" % n) for n in range(40)]
        most = listener.REQUESTS_PER_TURN
        busy[0].data_received(b"".join(numbered))
        assert len(rig.records) == most
        busy[1].data_received(NONE * 40)
        assert len(rig.records) == 2 * most
        while len(rig.records) < 80:
            before = len(rig.records)
            await asyncio.sleep(0)
            # One of the two, whatever their number.
            assert len(rig.records) - before <= most
            innocent.data_received(NONE.replace(b"none", b"innocent"))
            assert rig.records.pop().path == "/innocent"
        paths = [one.path for one in rig.records if one.path != "/none"]
        assert paths == [f"/none/{n}" for n in range(40)]
        first = [one.path for one in rig.records].index("/none/39")
        assert "/none" in [one.path for one in rig.records][:first]
        for _ in range(40):
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"2\r\n\r\n\r\n"])
async def test_small_chunks_take_turns(chunk: bytes) -> None:
    """G15: the rest of a read waits unparsed and unread; the body arrives whole."""
    async with (
        running() as rig,
        connected(rig) as (reader, writer),
        connected(rig) as (_, to_innocent),
    ):
        busy = await server_side(rig, writer)
        innocent = await server_side(rig, to_innocent)
        busy.data_received(CHUNKED + chunk * 5000 + b"0\r\n\r\n" + GET)
        body = busy.body
        assert body is not None
        assert body.is_behind
        assert not busy._is_reading
        turns = 0
        while body.is_behind:
            before = body.size
            await asyncio.sleep(0)
            assert body.size - before <= chunks.CHUNKS_PER_FEED * 2
            innocent.data_received(NONE)
            assert rig.records.pop().path == "/none"
            turns += 1
        assert turns >= 9
        assert body.complete
        for _ in range(2):
            await reader.readuntil(b"/public/a")
        assert busy._is_reading
        first, second = rig.upstream.requests
        assert first.body == chunk[3:-2] * 5000
        assert second.raw.startswith(b"GET ")


async def test_chunks_that_break_later_are_refused() -> None:
    """C9: what is malformed is found in a later turn, too; then nothing is served."""
    async with running() as rig, connected(rig) as (reader, writer):
        busy = await server_side(rig, writer)
        busy.data_received(CHUNKED + b"1\r\nx\r\n" * 3000 + b"G\r\n" + GET)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        await upstream_left(rig)
        assert not rig.upstream.requests


async def test_a_client_that_leaves_with_chunks_put_off() -> None:
    """G12: its turn comes when it is gone, and does nothing."""
    async with running() as rig, connected(rig) as (_, writer):
        busy = await server_side(rig, writer)
        busy.data_received(CHUNKED + b"1\r\nx\r\n" * 3000)
        assert busy.transport is not None
        busy.transport.abort()
        await busy.until_gone()
        await upstream_left(rig)
        assert not rig.upstream.requests
        assert not rig.complaints.texts


async def test_an_odd_target_is_400() -> None:
    """B: an authority for which some URL parsers raise undocumented errors."""
    async with running() as rig, connected(rig) as (reader, writer):
        writer.write(b"GET http://[::1]_:b@/[ HTTP/1.1\r\nHost: gw\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 400 ")
        assert [record.status for record in rig.records] == [400]
        assert not rig.complaints.texts
        await forwards(rig)


async def test_a_request_that_is_aborted_before_its_first_step_gets_503() -> None:
    """A request that arrives just as the drain ends gets a reply and a record."""
    async with running() as rig, connected(rig) as (reader, writer):
        watched = await server_side(rig, writer)
        watched.data_received(GET)
        watched.abort()
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        assert [record.status for record in rig.records] == [503]


async def test_a_client_that_stops_sending_is_gone() -> None:
    """P3: a FIN ends the request, as with nginx (see the listener's docstring)."""
    async with running() as rig, connected(rig) as (reader, writer):
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\n"  # a head that doesn't end
        writer.write(GET)
        await begun(rig)
        writer.write_eof()
        assert await reader.read() == b""
        await upstream_left(rig)
        await until(lambda: rig.records)
        assert [record.status for record in rig.records] == [499]


async def test_clients_that_vanish_leave_no_traceback() -> None:
    """G12: nothing is logged, whichever stage the request has reached."""
    async with running() as rig:
        replies = [
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        ]
        for reply in replies:
            for sent in (GET, POST, GET + GET, b"\x01"):
                rig.upstream.forget()
                rig.upstream.reply = reply
                async with connected(rig) as (_reader, writer):
                    watched = await server_side(rig, writer)
                    writer.write(sent)
                    await watched.until(len(sent))
                    if sent != b"\x01":
                        await begun(rig)
                await watched.until_gone()
        assert not rig.complaints.texts
