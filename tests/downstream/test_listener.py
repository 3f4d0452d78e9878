"""What the listener adds to the reading of heads: deadlines, limits, and ends.

Each test has a gateway of its own with limits short enough to be waited for; what is
refused, and how, stands in the corpus (tests/test_corpus.py).
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from corpus import rig as corpus_rig
from corpus.rig import Rig, Watched, until
from wire import connect

from gateway.downstream import exchange, listener
from gateway.pace import Pace

GET = b"GET /public/a HTTP/1.1\r\nHost: gw\r\n\r\n"
SHORT_S = 0.1
PATIENCE_S = 10.0


OFTEN = Pace(sweep_s=0.02)


def running(*, pace: Pace = OFTEN, **options: Any) -> AbstractAsyncContextManager[Rig]:
    """Run the corpus' gateway, whose listener looks at its connections often."""
    return corpus_rig.running(pace=pace, **options)


@asynccontextmanager
async def talking(
    rig: Rig,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect for the block; no wait in it is endless."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
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
    """Return when the upstream has something of a request."""
    await until(lambda: rig.upstream.begun or rig.upstream.requests)


async def forwards(rig: Rig) -> None:
    """Hold that a good request, on a connection of its own, is the first to arrive.

    What was refused before it didn't reach the upstream, and this gateway's way there
    is open.
    """
    assert rig.upstream.connections == 0
    async with talking(rig) as (reader, writer):
        writer.write(GET)
        assert (await reader.readuntil(b"/public/a")).startswith(b"HTTP/1.1 200 ")
    assert [seen.target for seen in rig.upstream.requests] == [b"/public/a"]


async def upstream_left(rig: Rig) -> None:
    """Return when no connection to the upstream is open."""
    await until(lambda: not rig.upstream.open)


# --- heads ----------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[b"G"], [GET[:-2]], [b"\r\n", b"\r\n"]])
async def test_a_slow_head_is_408(pieces: list[bytes]) -> None:
    """G5: from the first byte to the end of the head, however it drips."""
    async with running(limits={"head_timeout": SHORT_S}) as rig:
        async with talking(rig) as (reader, writer):
            for piece in pieces:
                writer.write(piece)
            reply = await reader.read()
        assert reply.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"Connection: close\r\n" in reply
        assert [record.status for record in rig.records] == [408]
        await forwards(rig)


async def test_dripping_doesnt_put_the_deadline_off() -> None:
    """G5: one byte now and then is no progress."""
    async with (
        running(limits={"head_timeout": SHORT_S}) as rig,
        talking(rig) as (reader, writer),
    ):
        whole = asyncio.ensure_future(reader.read())
        for byte in GET[:-1]:
            writer.write(bytes([byte]))
            done, _ = await asyncio.wait({whole}, timeout=0.02)
            if done:
                break
        assert (await whole).startswith(b"HTTP/1.1 408 ")
        await forwards(rig)


async def test_a_second_slow_head_is_408_too() -> None:
    """Every request of a connection has the deadline, not only the first."""
    async with (
        running(limits={"head_timeout": SHORT_S}) as rig,
        talking(rig) as (reader, writer),
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
async def test_a_slow_head_behind_a_request_is_408(pieces: list[bytes]) -> None:
    """G5: a head that begins in the segment of what stands before it is no idleness."""
    async with (
        running(limits={"head_timeout": SHORT_S}) as rig,
        talking(rig) as (reader, writer),
    ):
        watched = await server_side(rig, writer)
        sent = 0
        for piece in pieces:
            writer.write(piece)
            sent += len(piece)
            await watched.until(sent)
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
async def test_an_idle_client_sends_no_slow_head(pieces: list[bytes]) -> None:
    """A whole request, however it came, leaves the time of `keep_alive`."""
    async with (
        running(limits={"head_timeout": SHORT_S}) as rig,
        talking(rig) as (reader, writer),
    ):
        watched = await server_side(rig, writer)
        for number, piece in enumerate(pieces, 1):
            writer.write(piece)
            await watched.until(sum(map(len, pieces[:number])))
        for _ in range(b"".join(pieces).count(b" HTTP/1.1")):
            await reader.readuntil(b"/public/a")
        await asyncio.sleep(2 * SHORT_S)
        writer.write(GET)
        assert (await reader.readuntil(b"/public/a")).startswith(b"HTTP/1.1 200 ")


async def test_a_slow_answer_is_no_slow_head() -> None:
    """The head's deadline ends with the head, however the head came."""
    async with (
        running(limits={"head_timeout": SHORT_S}) as rig,
        talking(rig) as (reader, writer),
    ):
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        watched = await server_side(rig, writer)
        writer.write(GET[:10])
        await watched.until(10)
        writer.write(GET[10:])
        head = await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(3 * SHORT_S)
        (upstream,) = rig.upstream.open
        upstream._transport.write(b"ok")
        assert await reader.readexactly(2) == b"ok"
        assert head.startswith(b"HTTP/1.1 200")


async def test_an_idle_connection_keeps_nothing_of_its_last_head() -> None:
    """No byte of it: there was a token in it."""
    secret = b"Authorization: Bearer " + b"secret" * 10
    get, post = (x.replace(b"Host: gw", b"Host: gw\r\n" + secret) for x in (GET, BODY))
    async with running() as rig, talking(rig) as (reader, writer):
        watched = await server_side(rig, writer)
        for pieces in ([get], [post + b"12345678"], [get[:40], get[40:]], [get + get]):
            for piece in pieces:
                writer.write(piece)
                await reader.readuntil(b"/public/a") if piece is pieces[-1] else None
            await until(lambda: not watched.is_running)
            assert not [found for found in reachable(watched) if b"secret" in found]


CLIENT_SIDE = (
    *("gateway.downstream.exchange", "gateway.running", "corpus.rig"),
    *("gateway.http.chunks", "gateway.http.request_head"),
)
"""Where the classes are of whatever a connection holds for one request."""


def reachable(thing: object) -> list[bytes]:
    """Return all bytes that a connection holds, through objects of the gateway's."""
    seen: set[int] = set()
    found: list[bytes] = []
    ahead = [thing]
    while ahead:
        one = ahead.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, bytes):
            found.append(one)
        elif isinstance(one, (tuple, list, dict)) or (
            type(one).__module__ in CLIENT_SIDE
            and not isinstance(one, (listener.Listener, Rig))
        ):
            ahead += gc.get_referents(one)
    return found


BIG = BODY.replace(b"8", b"40000") + bytes(40000)


@pytest.mark.parametrize(
    "begun",
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
async def test_a_head_that_takes_its_time_keeps_its_beginning(
    begun: list[bytes],
) -> None:
    """What came of it behind another request is read when the rest has come."""
    async with running() as rig, talking(rig) as (reader, writer):
        watched = await server_side(rig, writer)
        *first, last = begun
        sent = 0
        for piece in (*first, last + GET[:4]):
            writer.write(piece)
            sent += len(piece)
            await watched.until(sent)
        for _ in range(b"".join(begun).count(b" HTTP/1.1")):
            await reader.readuntil(b"/public/a")
        await until(lambda: not watched.is_running)
        watched.check_deadlines(watched._idle_since + 1)
        writer.write(GET[4:])
        assert (await reader.readuntil(b"/public/a")).startswith(b"HTTP/1.1 200 ")


async def test_an_idle_connection_is_closed() -> None:
    """`keep_alive`, also for a connection on which nothing was ever sent."""
    async with running(limits={"keep_alive": SHORT_S}) as rig:
        async with talking(rig) as (reader, _writer):
            assert await reader.read() == b""
        async with talking(rig) as (reader, writer):
            writer.write(GET)
            reply = await reader.read()
        assert reply.startswith(b"HTTP/1.1 200 ")
        assert reply.endswith(b"/public/a")


async def test_a_head_too_large_is_refused_before_it_ends() -> None:
    """G3: what can't become a request isn't kept."""
    limits = {"max_head_size": 2000, "max_target_size": 1000, "max_field_size": 1000}
    async with running(limits=limits) as rig, talking(rig) as (reader, writer):
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
    """G3: 414 for the target, 431 for fields, at the limits that are stated."""
    async with running(limits=limits) as rig, talking(rig) as (reader, writer):
        writer.write(request_bytes + b"\r\nHost: gw\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 %d " % status)
        await forwards(rig)


# --- bodies ---------------------------------------------------------------------

POST = b"POST /public/a HTTP/1.1\r\nHost: gw\r\nContent-Length: 100000\r\n\r\n"
"""Its body is streamed: it is larger than `request.buffer`."""
CHUNKED = POST.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked")


async def test_a_body_that_stalls_is_408() -> None:
    """G6: a gap longer than `body_idle_timeout`; the upstream's half is cut."""
    async with (
        running(limits={"body_idle_timeout": SHORT_S}) as rig,
        talking(rig) as (reader, writer),
    ):
        writer.write(POST + b"a")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        await upstream_left(rig)
        assert not rig.upstream.requests


async def test_a_body_that_drips_is_408() -> None:
    """G6: each gap is short, but all together it is too slow."""
    pace = replace(OFTEN, body_rate_grace_s=SHORT_S)
    limits = {"body_idle_timeout": 5.0, "body_min_rate": 1000}
    async with (
        running(limits=limits, pace=pace) as rig,
        talking(rig) as (reader, writer),
    ):
        writer.write(POST)
        whole = asyncio.ensure_future(reader.read())
        while not whole.done():
            writer.write(b"a")
            await asyncio.wait({whole}, timeout=0.01)
        assert whole.result().startswith(b"HTTP/1.1 408 ")
        await upstream_left(rig)
        assert not rig.upstream.requests


@pytest.mark.parametrize(
    ("waited_s", "size", "status"),
    [
        pytest.param(9, 2, 200, id="too slow, in the grace"),
        pytest.param(11, 2, 408, id="too slow, after it"),
        pytest.param(11, 1000, 408, id="almost fast enough"),
        pytest.param(11, 1200, 200, id="fast enough"),
        pytest.param(59, 6000, 200, id="fast enough for long"),
    ],
)
async def test_a_body_has_a_least_rate_after_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, waited_s: float, size: int, status: int
) -> None:
    """G6: all that has come, over the time that the client was waited for.

    The loop's clock is put forward while the gateway waits for the second piece.
    """
    loop = asyncio.get_running_loop()
    real = loop.time
    first, second = (
        b"%x\r\n%b\r\n" % (size // 2, letter * (size // 2)) for letter in (b"a", b"b")
    )
        b"%x\r\n%b\r\n" % (size // 2, c * (size // 2)) for c in (b"a", b"b")
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
            bodies = [one.body for one in rig.upstream.requests]
            assert bodies == [b"a" * (size // 2) + b"b" * (size // 2)]
        else:
            async with asyncio.timeout(PATIENCE_S):
                await upstream_left(rig)
            assert not rig.upstream.requests


async def test_100_comes_after_the_verdict() -> None:
    """C19: a client that is allowed is asked for its body, and only then."""
    async with running() as rig, talking(rig) as (reader, writer):
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


# --- bodies that nobody wants ---------------------------------------------------


async def test_a_small_rest_is_thrown_away() -> None:
    """C17: a refused body that comes later is no request, and costs no connection."""
    async with running() as rig, talking(rig) as (reader, writer):
        writer.write(b"POST /admin HTTP/1.1\r\nHost: gw\r\nContent-Length: 36\r\n\r\n")
        head = await reader.readuntil(b"}")
        assert head.startswith(b"HTTP/1.1 401 ")
        assert b"Connection: close" not in head
        writer.write(GET[:36])
        writer.write(GET)
        assert (await reader.readuntil(b"/public/a")).startswith(b"HTTP/1.1 200")
        assert len(rig.upstream.requests) == 1


async def test_a_rest_that_doesnt_come_ends_the_connection() -> None:
    """C17: it is waited for, but not for long."""
    pace = replace(OFTEN, drain_body_s=SHORT_S)
    async with running(pace=pace) as rig, talking(rig) as (reader, writer):
        writer.write(b"POST /admin HTTP/1.1\r\nHost: gw\r\nContent-Length: 36\r\n\r\nG")
        assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
        await forwards(rig)


async def test_who_uploads_still_hears_the_refusal() -> None:
    """A browser in the middle of a large upload must see the 401, not a reset."""
    size = 3_000_000
    async with running() as rig, talking(rig) as (reader, writer):
        writer.write(b"POST /admin HTTP/1.1\r\nHost: gw\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % size)
        writer.write(bytes(size))
        await writer.drain()
        reply = await reader.read()
        assert reply.startswith(b"HTTP/1.1 401 ")
        assert b"Connection: close\r\n" in reply
        await forwards(rig)


async def test_an_endless_upload_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """C17: what is thrown away has a limit."""
    monkeypatch.setattr(exchange, "_LINGER_BYTES", 200_000)
    async with running() as rig, talking(rig) as (_reader, writer):
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
    """G4: found on the way, so that the upstream never gets a whole request."""
    async with running() as rig, talking(rig) as (reader, writer):
        writer.write(b"POST /small HTTP/1.1\r\nHost: gw\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n")
        await begun(rig)
        writer.write(b"9\r\n123456789\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
        await upstream_left(rig)
        assert not rig.upstream.requests


# --- answers that nobody takes --------------------------------------------------


async def test_a_client_that_takes_nothing_is_cut() -> None:
    """G7: its connection ends, and so does the upstream's."""
    async with running(limits={"write_idle_timeout": SHORT_S}) as rig:
        size = 50_000_000
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        rig.upstream.reply += bytes(size)
        async with talking(rig) as (_reader, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined] # of both directions
            watched = await server_side(rig, writer)
            writer.write(GET)
            await watched.until_gone()
            await upstream_left(rig)
        await until(lambda: rig.records)
        assert [record.status for record in rig.records] == [499]
        assert not rig.complaints.texts


async def test_a_client_that_takes_its_time_is_not() -> None:
    """G7: slow is allowed, and memory is bounded while it lasts."""
    async with running(limits={"write_idle_timeout": 0.5}) as rig:
        size = 12_000_000
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        rig.upstream.reply += bytes(size)
        async with talking(rig) as (reader, writer):
            watched = await server_side(rig, writer)
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
            taken = 0
            most = 0
            while taken < size:
                taken += len(await reader.read(400_000))
                assert watched.transport is not None
                most = max(most, watched.transport.get_write_buffer_size())
                await asyncio.sleep(0.02)
            assert most < 2_000_000


async def test_answers_left_lying_dont_hold_the_connection() -> None:
    """G7: the same when no request is in work, but the answers wait to be taken."""
    limits = {"write_idle_timeout": SHORT_S, "keep_alive": 30.0}
    async with running(limits=limits) as rig, talking(rig) as (_reader, writer):
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


async def test_more_clients_than_allowed_are_cut_off() -> None:
    """G9: at once, and those who were there first don't notice."""
    async with running(limits={"max_connections": 2}) as rig:  # noqa: SIM117 - one story
        async with talking(rig) as (first, to_first), talking(rig) as (_, second):
            await server_side(rig, to_first)
            gone = await server_side(rig, second)
            async with talking(rig) as (third, _):
                assert await third.read() == b""
            assert rig.listener.connections == 2
            to_first.write(GET)
            assert (await first.readuntil(b"/a")).startswith(b"HTTP/1.1 200")
            second.transport.abort()
            await gone.until_gone()
            async with talking(rig) as (fourth, to_fourth):
                to_fourth.write(GET)
                assert (await fourth.readuntil(b"/a")).startswith(b"HTTP/1.1 200")


async def test_waiting_requests_are_few() -> None:
    """C21: whoever pipelines a thousand requests has none of them read before time."""
    async with running() as rig, talking(rig) as (reader, writer):
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        watched = await server_side(rig, writer)
        writer.write(GET * 1000)
        await reader.readuntil(b"\r\n\r\n")
        assert len(rig.upstream.requests) == 1
        # They wait as they came.
        assert len(watched._unread) - watched._at == watched.taken - len(GET)
        assert not watched._is_reading
        (upstream,) = rig.upstream.open
        rig.upstream.reply = None
        upstream._transport.write(b"ok")
        for _ in range(999):
            await reader.readuntil(b"/public/a")
        assert len(rig.upstream.requests) == 1000


async def test_what_waits_is_bounded() -> None:
    """C21: whatever it is; nothing more is read until it is its turn."""
    async with running() as rig, talking(rig) as (reader, writer):
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        watched = await server_side(rig, writer)
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        while watched._is_reading:
            writer.write(b"\x01" * 10000)
            await asyncio.sleep(0)
        writer.write(b"\x01" * 2_000_000)
        await asyncio.sleep(SHORT_S)
        assert len(watched._unread) < 600_000
        (upstream,) = rig.upstream.open
        upstream._transport.write(b"ok")
        assert (await reader.readexactly(15)) == b"okHTTP/1.1 400 "


async def test_an_odd_target_is_400() -> None:
    """B: an authority that some parsers of URLs have errors of their own for."""
    async with running() as rig, talking(rig) as (reader, writer):
        writer.write(b"GET http://[::1]_:b@/[ HTTP/1.1\r\nHost: gw\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 400 ")
        assert [record.status for record in rig.records] == [400]
        assert not rig.complaints.texts
        await forwards(rig)


async def test_a_request_cut_before_its_first_step_is_answered() -> None:
    """Whoever comes as the time to drain ends is told so, and there is a record."""
    async with running() as rig, talking(rig) as (reader, writer):
        watched = await server_side(rig, writer)
        watched.data_received(GET)
        watched.abort()
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        assert [record.status for record in rig.records] == [503]


async def test_a_client_that_stops_sending_is_gone() -> None:
    """P3: FIN ends the request, as it does with nginx (see the module's docstring)."""
    async with running() as rig, talking(rig) as (reader, writer):
        rig.upstream.reply = b"HTTP/1.1 200 OK\r\n"  # a head that doesn't end
        writer.write(GET)
        await begun(rig)
        writer.write_eof()
        assert await reader.read() == b""
        await upstream_left(rig)
        await until(lambda: rig.records)
        assert [record.status for record in rig.records] == [499]


async def test_clients_that_vanish_leave_no_traceback() -> None:
    """G12: at every stage of a request; one record each, and nothing else is logged."""
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
                async with talking(rig) as (_reader, writer):
                    watched = await server_side(rig, writer)
                    writer.write(sent)
                    await watched.until(len(sent))
                    if sent != b"\x01":
                        await begun(rig)
                await watched.until_gone()
        assert not rig.complaints.texts
