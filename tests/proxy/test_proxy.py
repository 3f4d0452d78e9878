"""The gateway's behaviour when an upstream, a client or the gateway itself fails.

Rows U1 to U18, P1 to P4, P12, C30, C31 and I3 of the fault table, observed from
outside: the status, whether the reply is complete, and the log record.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from fake_time import MovableClock
from faults import (
    BAD_REPLIES,
    CHUNKED_HEAD,
    CUT_BODIES,
    CUT_REPLIES,
    FAULTS,
    OK,
    Behaviour,
    FaultUpstream,
    Peer,
    after_reading,
    answer,
    answer_and_close,
    answer_and_hang,
    black_hole,
    drip,
    until,
    until_stopped,
)
from gateway_under_test import ORIGIN, gateway, until_cut
from object_lifetime import collector_off
from wire import Wire, WireReply, connect, request

from gateway.decisions import Request
from gateway.downstream.exchange import Exchange
from gateway.downstream.listener import ClientConnection
from gateway.observe import Record
from gateway.pace import Pace
from gateway.timeouts import Timeouts
from gateway.upstream import Reply, UpstreamPool
from gateway.upstream.connection import UpstreamConnection

QUICK = {"timeouts": {"response": 0.3, "idle": 0.3}}
"""For upstreams that hang: no reply is expected within these times."""
GET = request("GET", "/a")
CHUNKED_FIELD = ("Transfer-Encoding", "chunked")
POST_AND_CLOSE = request("POST", "/a", ("Connection", "close"), body=b"hi")

End = Callable[[Wire], None]
"""How a client closes its connection."""


def assert_failed(reply: WireReply, record: Record, status: int, code: str) -> None:
    """Assert that the client got *code*, and that the log blames the upstream."""
    assert (reply.status, reply.json()["code"]) == (status, code)
    assert reply.one("Content-Type") == "application/problem+json"
    assert reply.one("X-Request-Id") == record.request_id
    assert (record.status, record.reason, record.side) == (status, code, "upstream")
    assert record.stage == "send"
    assert record.note


def reset(wire: Wire) -> None:
    """Close with a RST, as a killed client does."""
    sock = wire.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.writer.transport.abort()


# --- no connection, no reply ------------------------------------------------


async def test_u1_refused_is_502(closed_port: int) -> None:
    """A closed port is `upstream_unreachable`; the client's connection is kept."""
    async with gateway(f"http://127.0.0.1:{closed_port}") as gw:
        reply = await gw.ask("GET", "/a")
        assert_failed(reply, await gw.record(), 502, "upstream_unreachable")
        assert reply.one("Connection") is None


async def test_u2_black_hole_is_504() -> None:
    """An address that answers no SYN is given up after `timeouts.connect`."""
    async with (
        black_hole() as port,
        gateway(f"http://127.0.0.1:{port}", route={"timeouts": {"connect": 0.1}}) as gw,
    ):
        reply = await gw.ask("GET", "/a")
        assert_failed(reply, await gw.record(), 504, "upstream_connect_timeout")


@pytest.mark.parametrize("name", ["hang before head", "hang in head"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_u3_hang_before_the_head_is_504(name: str, method: str) -> None:
    """After `timeouts.response` the connection is closed, and nothing is resent."""
    async with (
        FaultUpstream(FAULTS[name]) as upstream,
        gateway(upstream.url, route=QUICK) as gw,
    ):
        reply = await gw.ask(method, "/a")
        assert_failed(reply, await gw.record(), 504, "upstream_timeout")
        await upstream.lost.wait()
        assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "name", ["close before reply", "reset before reply", *CUT_REPLIES]
)
@pytest.mark.parametrize(
    ("method", "attempts", "sent"),
    [("GET", 0, 1), ("GET", 1, 2), ("GET", 3, 4), ("POST", 3, 1), ("PUT", 3, 1)],
)
async def test_u5_closed_before_the_reply_is_502(
    name: str, method: str, attempts: int, sent: int
) -> None:
    """A safe method is retried `retry.attempts` times; any other is sent once."""
    async with (
        FaultUpstream(FAULTS[name]) as upstream,
        gateway(upstream.url, route={"retry": {"attempts": attempts}}) as gw,
    ):
        reply = await gw.ask(method, "/a")
        assert_failed(reply, await gw.record(), 502, "upstream_closed")
        assert len(upstream.requests) == sent


@pytest.mark.parametrize("name", sorted(BAD_REPLIES.keys()))
async def test_u8_bad_reply_is_502_or_a_cut(name: str) -> None:
    """A malformed reply becomes a 502, or is cut if its head has been passed on.

    Its connection is closed, so that no other client gets the rest of its bytes.
    Covers I2, I3 and C30: response splitting, odd statuses, response smuggling.
    """
    async with (
        FaultUpstream(FAULTS[name]) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/a", ("Connection", "close")))
        received = await until_cut(wire)
        record = await gw.record()
        begun = name in BODY_IS_BAD and received.startswith(b"HTTP/1.1 200 ")
        assert begun or received.startswith(b"HTTP/1.1 502 ")
        assert not received.endswith(b"0\r\n\r\n")
        assert b"EVIL" not in received
        assert (record.status, record.reason) == (502, BAD)
        assert (record.side, record.stage) == ("upstream", "copy" if begun else "send")
        assert len(upstream.requests) == 1
        upstream.behaviour = answer()
        assert (await gw.ask("GET", "/b")).body == b"ok"
        assert upstream.connections == 2


BAD = "upstream_bad_reply"
BODY_IS_BAD = {
    "bad chunk size",
    "chunk size overflow",
    "chunk spill",
    "chunk bare LF",
    "trailer flood",
}
"""Their head is valid; whether it is passed on depends on how segments arrive."""


# --- replies that end too soon ----------------------------------------------


@pytest.mark.parametrize("name", ["hang in body", "reset in body", *CUT_BODIES])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_u4_u9_a_cut_body_never_ends_cleanly(name: str, version: str) -> None:
    """The client can detect it: too few bytes, no last chunk, or a reset (HTTP/1.0)."""
    idle_s = 0.3 if name == "hang in body" else 60
    async with (
        FaultUpstream(FAULTS[name]) as upstream,
        gateway(upstream.url, route={"timeouts": {"idle": idle_s}}) as gw,
        gw.connect() as wire,
    ):
        await wire.send(GET.replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
        received, was_reset = b"", False
        try:
            while piece := await wire.reader.read(65536):
                received += piece
        except ConnectionResetError:
            was_reset = True
        record = await gw.record()
        head, _, body = received.partition(b"\r\n\r\n")
        if received:
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            if b"Content-Length: 20" in head:
                assert len(body) < 20
            elif b"Transfer-Encoding: chunked" in head:
                assert not body.endswith(b"0\r\n\r\n")
            else:
                assert was_reset
        else:
            assert was_reset
        assert record.side == "upstream"
        assert record.stage == "copy"
        assert record.reason == (
            "upstream_timeout" if name == "hang in body" else "upstream_closed"
        )
        assert record.status == (504 if name == "hang in body" else 502)
        upstream.behaviour = answer()
        assert (await gw.ask("GET", "/b")).body == b"ok"


# --- keep-alive and its races -----------------------------------------------


@pytest.mark.parametrize(
    ("method", "attempts", "status", "sent"),
    [
        ("GET", 1, 200, 3),
        ("GET", 0, 502, 2),
        ("POST", 5, 502, 2),
        ("PUT", 5, 502, 2),
        ("DELETE", 5, 502, 2),
    ],
)
async def test_u6_reset_of_a_used_connection(
    method: str, attempts: int, status: int, sent: int
) -> None:
    """A GET is retried if `retry.attempts` allows; an unsafe request is sent once."""
    async with (
        FaultUpstream(FAULTS["reset second request"]) as upstream,
        gateway(upstream.url, route={"retry": {"attempts": attempts}}) as gw,
    ):
        assert (await gw.ask("GET", "/a")).body == b"ok"
        reply = await gw.ask(method, "/a")
        assert reply.status == status
        assert len(upstream.requests) == sent


@pytest.mark.parametrize("name", ["reset second request", "close after reply"])
async def test_u7_u17_no_get_fails_because_its_connection_closed(name: str) -> None:
    """If the upstream closes its connections, all GETs still get their reply."""
    async with FaultUpstream(FAULTS[name]) as upstream, gateway(upstream.url) as gw:

        async def send_gets() -> None:
            async with gw.connect() as wire:
                for _ in range(25):
                    await wire.send(GET)
                    assert (await wire.reply()).body == b"ok"

        await asyncio.gather(*(send_gets() for _ in range(8)))
        assert gw.pools[0].open <= 8


async def test_retry_goes_to_the_next_target() -> None:
    """One of two targets closes every connection: all GETs succeed.

    The log notes the failed attempts.
    """
    async with (
        FaultUpstream(FAULTS["close before reply"]) as bad,
        FaultUpstream(answer()) as good,
        gateway(bad.url, good.url, service={"balance": "round_robin"}) as gw,
    ):
        for _ in range(4):
            assert (await gw.ask("GET", "/a")).body == b"ok"
        notes = [(await gw.record()).note for _ in range(4)]
        assert sum("closed the connection" in note for note in notes) == 2
        assert len(bad.requests) == 2
        assert len(good.requests) == 4


async def test_any_method_skips_an_unreachable_target(closed_port: int) -> None:
    """Nothing was sent to it, so even a streamed POST goes to the next target."""
    async with (
        FaultUpstream(FAULTS["echo"]) as good,
        gateway(f"http://127.0.0.1:{closed_port}", good.url) as gw,
    ):
        for _ in range(2):
            async with gw.connect() as wire:
                head = request("POST", "/a", ("Transfer-Encoding", "chunked"))
                await wire.send(head)
                await wire.send(b"5\r\nhello\r\n")
                await wire.send(b"0\r\n\r\n")
                assert (await wire.reply()).body == b"hello"
        assert len(good.requests) == 2


async def test_retries_are_limited_by_a_budget() -> None:
    """A service that fails every time gets the reserve, then a fifth of its requests.

    Here: 10 requests, a reserve of 3 and 2 more retries.
    """
    async with (
        FaultUpstream(FAULTS["close before reply"]) as upstream,
        gateway(upstream.url) as gw,
    ):
        gw.proxy.dependencies.services["up"].retries.left = 3
        for _ in range(10):
            assert (await gw.ask("GET", "/a")).status == 502
        assert len(upstream.requests) == 10 + 3 + 2


async def test_the_budget_is_the_routes_and_counts_for_the_service() -> None:
    """With `budget: 1`, each request may be repeated, also after the reserve."""
    async with (
        FaultUpstream(FAULTS["close before reply"]) as upstream,
        gateway(upstream.url, service={"retry": {"budget": 1}}) as gw,
    ):
        gw.proxy.dependencies.services["up"].retries.left = 0
        for _ in range(10):
            assert (await gw.ask("GET", "/a")).status == 502
        assert len(upstream.requests) == 20


async def test_total_bounds_all_attempts_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each attempt gets what is left of `timeouts.total`; without a rest it isn't made.

    Here each of the three attempts takes 25 s of 60 s.
    """
    now = 1000.0
    totals: list[float | None] = []
    exchange = UpstreamPool.exchange

    async def record_total(
        pool: UpstreamPool,
        head: bytes,
        method: str,
        timeouts: Timeouts,
        *more: Any,
    ) -> Reply:
        totals.append(timeouts.total)
        return await exchange(pool, head, method, timeouts, *more)

    async def close_after_25_s(peer: Peer) -> None:
        nonlocal now
        await peer.request()
        now += 25.0

    for module in ("decide", "forward", "upstream.tries"):
        monkeypatch.setattr(f"gateway.{module}.perf_counter", lambda: now)
    monkeypatch.setattr(UpstreamPool, "exchange", record_total)
    route = {"timeouts": {"total": 60}, "retry": {"attempts": 5}}
    async with (
        FaultUpstream(close_after_25_s) as upstream,
        gateway(upstream.url, route=route) as gw,
    ):
        reply = await gw.ask("GET", "/a")
        assert_failed(reply, await gw.record(), 502, "upstream_closed")
        assert len(upstream.requests) == 3
    assert totals == [60, 35, 10]


async def test_a_reply_has_a_date() -> None:
    """Its own, or that of its arrival (RFC 9110 §6.6.1)."""
    dated = OK.replace(b"\r\n", b"\r\nDate: its own\r\n", 1)
    for reply, date in ((OK, None), (dated, "its own"), (b"nonsense\r\n", None)):
        async with (
            FaultUpstream(answer(reply)) as upstream,
            gateway(upstream.url) as gw,
        ):
            got = (await gw.ask("GET", "/a")).one("Date")
            assert got == date or parsedate_to_datetime(got or "")


# --- early replies ----------------------------------------------------------


async def test_u10_a_refusal_stops_the_upload() -> None:
    """A 413 to the head of a gigabyte is passed on, and both connections close."""
    size = 10**9
    async with (
        FaultUpstream(FAULTS["early 413"]) as upstream,
        gateway(upstream.url, settings={"limits": {"max_body_size": 2 * size}}) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("POST", "/a", ("Content-Length", str(size))))
        await wire.send(b"x" * 1024)
        reply = await wire.reply()
        assert (reply.status, reply.body) == (413, b"no")
        assert reply.one("Connection") == "close"
        await upstream.lost.wait()
        assert await until_cut(wire) == b""
        record = await gw.record()
        assert (record.status, record.side) == (413, None)
        assert record.bytes_in < size


async def test_a_2xx_may_come_while_the_request_is_read() -> None:
    """Each piece is forwarded as it arrives, in both directions at once."""
    async with (
        FaultUpstream(FAULTS["echo while reading"]) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("POST", "/a", ("Transfer-Encoding", "chunked")))
        await wire.send(b"1\r\na\r\n")
        reply = await wire.head()
        assert reply.status == 200
        assert await wire.chunk() == b"a"
        await wire.send(b"2\r\nbc\r\n")
        assert await wire.chunk() == b"bc"
        await wire.send(b"0\r\n\r\n")
        assert await wire.chunk() == b""
        assert (await gw.record()).bytes_in == 3


async def test_a_2xx_may_end_before_the_request_does() -> None:
    """The rest of the body is discarded; the connection serves the next request."""
    go = asyncio.Event()

    async def hasty(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await go.wait()
        await peer.send(b"k")
        await peer.gone()

    async with (
        FaultUpstream(hasty) as upstream,
        gateway(upstream.url, route={"request": {"buffer": 0}}) as gw,
        gw.connect() as wire,
    ):
        for _ in range(2):
            go.clear()
            await wire.send(request("POST", "/a", ("Content-Length", "5")) + b"x")
            assert (await wire.head()).status == 200
            assert await wire.read(1) == b"o"
            go.set()
            assert await wire.read(1) == b"k"
            await wire.send(b"xxxx")
            assert (await gw.record()).status == 200


async def reply_early(peer: Peer) -> None:
    """Send a complete 200 after the head; read nothing of the body."""
    await peer.head()
    await peer.send(OK)
    await peer.gone()


async def test_a_complete_2xx_before_a_large_body_closes_both_connections() -> None:
    """RFC 9112 §9.3: nobody reads the rest, so `Connection: close` announces it.

    What the client sends instead of the rest is not taken for a request.
    """
    async with (
        FaultUpstream(reply_early) as upstream,
        gateway(upstream.url, pace=Pace(drain_body_s=600)) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("POST", "/a", ("Content-Length", "1000000")))
        reply = await wire.reply()
        assert (reply.status, reply.body) == (200, b"ok")
        assert reply.one("Connection") == "close"
        await upstream.lost.wait()
        assert await wire.rest() == b""
        await wire.send(GET)
        wire.writer.write_eof()
        assert (await gw.record()).status == 200
    assert [seen.line for seen in upstream.requests] == [b"POST /a HTTP/1.1"]


@pytest.mark.parametrize("size", [100, 2 * 1024**2])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_early_reply_is_whole_for_a_client_that_goes_on_sending(
    framing: str, size: int
) -> None:
    """It sends everything first, and reads then: the reply and no reset.

    After a small rest, the connection serves the next request.
    """
    fields = {"length": ("Content-Length", str(size)), "chunked": CHUNKED_FIELD}
    body = bytes(size)
    async with (
        FaultUpstream(reply_early) as upstream,
        gateway(
            upstream.url,
            route={"request": {"buffer": 0}},
            pace=Pace(drain_body_s=600),
        ) as gw,
        gw.connect() as wire,
    ):
        transport = wire.writer.transport
        transport.pause_reading()
        await wire.send(request("POST", "/a", fields[framing]))
        await upstream.lost.wait()
        if framing == "chunked":
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
        await wire.send(body)
        transport.resume_reading()
        reply = await wire.reply()
        assert (reply.status, reply.body) == (200, b"ok")
        if size > 65536:
            assert await wire.rest() == b""
        else:
            await wire.send(GET)
            assert (await wire.reply()).body == b"ok"


# --- slow peers -------------------------------------------------------------


async def test_u11_a_slow_upstream_holds_back_the_client(clock: MovableClock) -> None:
    """The gateway stops reading the upload; it buffers less than 1 MiB of it.

    When the upstream has read nothing for `timeouts.idle`, the client gets 504.
    """
    async with (
        FaultUpstream(FAULTS["never read"]) as upstream,
        gateway(upstream.url, route={"timeouts": {"idle": 30}}) as gw,
        gw.connect() as wire,
    ):
        size = 64 * 1024**2
        await wire.send(request("POST", "/a", ("Content-Length", str(size))))
        await until(lambda: gw.pools[0]._connections)
        (connection,) = gw.pools[0]._connections
        sock = wire.writer.get_extra_info("socket").dup()
        sent = 0
        with sock:
            sock.setblocking(False)
            while sent < size:
                try:
                    sent += sock.send(b"x" * 65536)
                except BlockingIOError:
                    if connection._drained is not None:
                        break  # the gateway waits for its upstream
                    await asyncio.sleep(0)
        assert sent < 32 * 1024**2  # loopback's own buffers are most of it
        assert connection._transport is not None
        assert connection._transport.get_write_buffer_size() < 1024**2
        await clock.pass_time(30)  # bytes were sent within these
        clock.advance(30)
        assert_failed(await wire.reply(), await gw.record(), 504, "upstream_timeout")


async def test_u12_a_slow_client_holds_back_the_upstream() -> None:
    """An upstream that sends without end is stopped while the client doesn't read."""
    sent = 0

    async def endless(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
        while True:
            await peer.send(b"x" * 65536)
            sent += 65536

    async with FaultUpstream(endless) as upstream, gateway(upstream.url) as gw:
        async with gw.connect() as wire:
            await wire.send(GET)
            await wire.head()
            wire.writer.transport.pause_reading()
            (connection,) = gw.pools[0]._connections
            await until_stopped(connection._transport, lambda: sent)
            assert sent < 32 * 1024**2
        record = await gw.record()
        assert (record.status, record.side) == (499, "client")


async def test_u13_each_piece_of_a_stream_is_passed_on_at_once() -> None:
    """SSE: here each event is sent only once the client has the one before."""
    received = asyncio.Event()

    async def events(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD)
        for number in range(5):
            event = b"data: %d\n\n" % number
            await peer.send(b"%x\r\n%b\r\n" % (len(event), event))
            await received.wait()
            received.clear()
        await peer.send(b"0\r\n\r\n")

    async with (
        FaultUpstream(events) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(GET)
        await wire.head()
        for number in range(5):
            assert await wire.chunk() == b"data: %d\n\n" % number
            received.set()
        assert await wire.chunk() == b""


async def test_u13_a_slow_stream_outlasts_response_and_idle(
    clock: MovableClock,
) -> None:
    """`response` and `idle` limit gaps: a body three times as long passes."""
    received = asyncio.Event()

    async def dripping(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for _ in range(6):
            await peer.send(b"x")
            await received.wait()
            received.clear()

    async with (
        FaultUpstream(dripping) as upstream,
        gateway(upstream.url, route={"timeouts": {"response": 20, "idle": 20}}) as gw,
        gw.connect() as wire,
    ):
        await wire.send(GET)
        await wire.head()
        for _ in range(6):
            assert await wire.read(1) == b"x"
            await clock.pass_time(12)
            received.set()
        record = await gw.record()
        assert (record.status, record.reason) == (200, "public")


SILENT = [
    pytest.param(1, {"response": 10, "idle": 30}, 0, id="later than the head's end"),
    pytest.param(1, {"response": 60, "idle": 30}, 0, id="earlier than the head's end"),
    pytest.param(1, {"response": 60, "idle": 30}, 4, id="after some pieces"),
    pytest.param(2, {"response": 10, "idle": 30}, 0, id="again, later"),
    pytest.param(2, {"response": 60, "idle": 30}, 0, id="again, earlier"),
    pytest.param(2, {"response": 60, "idle": 30}, 4, id="again, after some pieces"),
]


@pytest.mark.parametrize(("number", "times", "pieces"), SILENT)
async def test_u4_a_service_that_falls_silent_in_its_body_is_cut(
    clock: MovableClock, number: int, times: dict[str, float], pieces: int
) -> None:
    """Each piece restarts `idle`; silence of that length cuts the reply.

    The same holds on a reused connection, and whichever of `response` and `idle` ends
    first.
    """
    piece = b"4\r\nmore\r\n"
    received = asyncio.Event()

    async def silent(peer: Peer) -> None:
        for _ in range(number - 1):
            await peer.request()
            await peer.send(OK)
        await peer.request()
        await peer.send(CHUNKED_HEAD + piece)
        for _ in range(pieces):
            await received.wait()
            received.clear()
            await peer.send(piece)
        await peer.gone()

    async with (
        FaultUpstream(silent) as upstream,
        gateway(upstream.url, route={"timeouts": times}) as gw,
        gw.connect() as wire,
    ):
        for _ in range(number - 1):
            await wire.send(GET)
            assert (await wire.reply()).body == b"ok"
            await gw.record()
        await wire.send(GET)
        await wire.head()
        assert await wire.chunk() == b"more"
        for _ in range(pieces):
            await clock.pass_time(18)
            received.set()
            assert await wire.chunk() == b"more"
        await clock.pass_time(18)
        assert gw.records.empty()
        clock.advance(12)
        assert await until_cut(wire) == b""
        await upstream.lost.wait()
        record = await gw.record()
        assert (record.status, record.reason) == (504, "upstream_timeout")
        assert record.stage == "copy"
        assert (upstream.connections, len(upstream.requests)) == (1, number)


async def test_total_cuts_a_stream_that_never_stops(clock: MovableClock) -> None:
    """`timeouts.total` counts from the start, even while bytes keep arriving."""
    route = {"timeouts": {"total": 30}}
    reply = OK.replace(b": 2", b": 9999")
    async with (
        FaultUpstream(drip(reply + b"x" * 500, gap_s=0.01, size=50)) as upstream,
        gateway(upstream.url, route=route) as gw,
        gw.connect() as wire,
    ):
        await wire.send(GET)
        assert (await wire.head()).status == 200
        clock.advance(30)
        assert len(await until_cut(wire)) < 9999
        record = await gw.record()
        assert (record.status, record.reason) == (504, "upstream_timeout")


# --- names, TLS, connection limits ------------------------------------------


async def test_u14_unknown_name_is_502() -> None:
    """`.invalid` has no address (RFC 6761 §6.4)."""
    async with gateway("http://nowhere.invalid:80") as gw:
        reply = await gw.ask("GET", "/a")
        assert_failed(reply, await gw.record(), 502, "upstream_unreachable")


async def test_u15_unknown_certificate_is_502(self_signed: ssl.SSLContext) -> None:
    """Certificates are verified unless the service sets `tls.verify: false`."""
    async with FaultUpstream(answer(), tls=self_signed) as upstream:
        async with gateway(upstream.url) as gw:
            reply = await gw.ask("GET", "/a")
            assert_failed(reply, await gw.record(), 502, "upstream_unreachable")
            assert not upstream.requests
        async with gateway(upstream.url, service={"tls": {"verify": False}}) as gw:
            assert (await gw.ask("GET", "/a")).body == b"ok"


async def test_u16_a_full_service_is_503() -> None:
    """At `max_connections` a request waits for `connect`, then gets Retry-After."""
    async with (
        FaultUpstream(FAULTS["hang before head"]) as upstream,
        gateway(
            upstream.url,
            route={"timeouts": {"connect": 0.1, "response": 5}},
            service={"max_connections": 2},
        ) as gw,
        gw.connect() as one,
        gw.connect() as two,
    ):
        for wire in (one, two):
            await wire.send(GET)
        await until(lambda: len(upstream.requests) == 2)
        reply = await gw.ask("GET", "/a")
        assert_failed(reply, await gw.record(), 503, "upstream_busy")
        assert reply.one("Retry-After") == "1"


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 3,
    ],
    ids=["100", "103", "102 thrice"],
)
async def test_u18_interim_replies_are_not_forwarded(interim: bytes) -> None:
    """The client sent no Expect: it gets only the final reply (RFC 9110 §15.2)."""
    async with (
        FaultUpstream(answer(interim + OK)) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(GET)
        assert (await wire.reply()).body == b"ok"
        assert wire.interim == []


async def test_u18_an_interim_reply_without_a_final_one_is_504() -> None:
    """A 100 alone is not a reply, so `timeouts.response` ends the wait."""
    lone = answer_and_hang(b"HTTP/1.1 100 Continue\r\n\r\n")
    async with (
        FaultUpstream(lone) as upstream,
        gateway(upstream.url, route=QUICK) as gw,
    ):
        reply = await gw.ask("POST", "/a", body=b"x")
        assert_failed(reply, await gw.record(), 504, "upstream_timeout")


async def test_c30_bytes_after_a_reply_are_dropped() -> None:
    """A surplus second reply isn't sent to the next client: its connection ends."""
    async with (
        FaultUpstream(FAULTS["surplus reply"]) as upstream,
        gateway(upstream.url) as gw,
    ):
        for _ in range(3):
            async with gw.connect() as wire:
                await wire.send(GET)
                assert (await wire.reply()).body == b"ok"
        assert upstream.connections == 3


# --- the Host that the service gets -----------------------------------------

LITERAL = "shop.example.com:8080"


@pytest.mark.parametrize(
    ("setting", "first", "host", "sent"),
    [
        pytest.param("upstream", "GET /a", "GW.example:81", None, id="upstream"),
        pytest.param("preserve", "GET /a", "GW.example:81", "GW.example:81", id="own"),
        pytest.param("preserve", "GET /a", "[2001:DB8::1]", "[2001:DB8::1]", id="IPv6"),
        pytest.param(
            "preserve", "GET http://gw.example/a", "GW.example", "GW.example", id="URL"
        ),
        pytest.param("preserve", "GET /a", None, None, id="a client without one"),
        pytest.param(LITERAL, "GET /a", "GW.example:81", LITERAL, id="literal"),
        pytest.param(LITERAL, "GET /a", None, LITERAL, id="literal for none"),
    ],
)
@pytest.mark.parametrize("place", ["route", "service"])
async def test_host_header_selects_the_host_that_the_service_gets(
    place: str, setting: str, first: str, host: str | None, sent: str | None
) -> None:
    """The target's own (None in the table), the client's unchanged, or a literal.

    X-Forwarded-Host is always the client's Host.
    """
    option = {"host_header": setting}
    fields = b"" if host is None else b"Host: %b\r\n" % host.encode()
    version = "1.0" if host is None else "1.1"
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(
            upstream.url,
            route=option if place == "route" else None,
            service=option if place == "service" else None,
        ) as gw,
        gw.connect() as wire,
    ):
        await wire.send(b"%b HTTP/%b\r\n" % (first.encode(), version.encode()))
        await wire.send(fields + b"\r\n")
        assert (await wire.reply()).body == b"ok"
        (forwarded,) = upstream.requests
        own = f"127.0.0.1:{upstream.port}"
        assert forwarded.head.split(b"\r\n")[1] == f"Host: {sent or own}".encode()
        assert forwarded.head.lower().count(b"\nhost:") == 1
        assert forwarded.field(b"x-forwarded-host") == (host or "").encode()


async def test_each_target_gets_its_own_host() -> None:
    """A retry on another target doesn't carry the failed target's Host."""
    async with (
        FaultUpstream(FAULTS["close before reply"]) as bad,
        FaultUpstream(answer()) as good,
        gateway(bad.url, good.url, service={"balance": "round_robin"}) as gw,
    ):
        for _ in range(2):
            assert (await gw.ask("GET", "/a")).body == b"ok"
        assert (len(bad.requests), len(good.requests)) == (1, 2)
        for upstream in (bad, good):
            own = f"127.0.0.1:{upstream.port}".encode()
            assert {each.field(b"host") for each in upstream.requests} == {own}


# --- the shape of replies ---------------------------------------------------


@pytest.mark.parametrize(
    ("method", "reply", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "5"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "5"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", None),
        ("HEAD", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "0"),
    ],
)
async def test_c31_replies_without_a_body_have_none(
    method: str, reply: bytes, length: str | None
) -> None:
    """Content-Length is passed on, no body is sent, and the connections are reused."""
    async with (
        FaultUpstream(answer(reply)) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        for _ in range(2):
            await wire.send(request(method, "/a"))
            got = await wire.reply(method)
            assert got.status == int(reply[9:12])
            assert got.one("Content-Length") == length
            assert got.one("Transfer-Encoding") is None
            assert got.one("Connection") is None
        assert upstream.connections == 1


ANN = ("Authorization", "Bearer ann")
BOB = ("Authorization", "Bearer bob")


@pytest.mark.parametrize(
    ("target", "fields", "status", "forwarded"),
    [
        pytest.param("/a", (), 401, 0, id="401 without a session"),
        pytest.param("/a", (BOB,), 403, 0, id="403 of the session's claims"),
        pytest.param("/a", (ANN,), 403, 1, id="403 for the service's 401"),
        pytest.param("/b", (ANN,), 404, 0, id="404"),
        pytest.param("/a/post", (ANN,), 405, 0, id="405"),
        pytest.param("/user", (ANN,), 200, 0, id="200 of the user path"),
        pytest.param("/a/cut", (ANN,), 502, 1, id="502"),
    ],
)
async def test_c31_the_gateways_own_reply_to_head_has_no_body(
    target: str, fields: tuple[tuple[str, str], ...], status: int, forwarded: int
) -> None:
    """The next reply follows its head directly, on the same connection.

    Content-Length may be that of the reply to a GET (RFC 9110 §9.3.2).
    """

    async def refusing(peer: Peer) -> None:
        while b"/cut" not in (await peer.request()).line:
            await peer.send(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")

    match = {"path": {"prefix": "/a"}, "methods": ["GET"]}
    if target == "/a/post":
        match["methods"] = ["POST"]
    route = {"path": None, "match": match, "protected": True, "retry": {"attempts": 0}}
    async with (
        FaultUpstream(refusing) as upstream,
        gateway(upstream.url, route=route) as gw,
        gw.connect() as wire,
    ):
        gw.verifier.lacking = {"bob"}
        await wire.send(request("HEAD", target, *fields) + request("GET", "/user", ANN))
        head = await wire.reply("HEAD")
        assert head.status == status
        assert head.one("Content-Length") != "0"
        following = await wire.reply()
        assert (following.status, following.json()["userId"]) == (200, "ann")
        assert len(upstream.requests) == forwarded


async def test_c31_bytes_where_no_body_may_be_are_dropped() -> None:
    """Of a 204 with a body the client gets the 204; the upstream connection closes."""
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    bad = b"HTTP/1.1 204 No Content\r\n\r\n" + evil
    async with (
        FaultUpstream(answer(bad)) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        for _ in range(2):
            await wire.send(GET)
            assert (await wire.reply()).status == 204
        assert upstream.connections == 2


CHUNKED = CHUNKED_HEAD + b"2\r\nhi\r\n3\r\nfoo\r\n0\r\nX-Trailer: t\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhifoo"
WITH_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhifoo"


@pytest.mark.parametrize("fields", [(), (("Connection", "keep-alive"),)])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    "reply", [CHUNKED, UNTIL_CLOSE, WITH_LENGTH], ids=["chunked", "close", "length"]
)
async def test_c31_the_framing_suits_the_client_s_http_version(
    reply: bytes, version: str, fields: tuple[tuple[str, str], ...]
) -> None:
    """HTTP/1.0 gets no chunks: a reply without a length ends with the connection.

    Trailers are dropped: they could be taken for header fields (RFC 9110 §6.5.1).
    """

    async def in_pieces(peer: Peer) -> None:
        head, gap, body = reply.partition(b"\r\n\r\n")
        await peer.request()
        await peer.send(head + gap)
        await after_reading()  # so that the head is passed on before the body
        await peer.send(body)

    async with (
        FaultUpstream(in_pieces) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(
            request("GET", "/a", *fields).replace(
                b"HTTP/1.1", f"HTTP/{version}".encode()
            )
        )
        got = await wire.reply()
        assert (got.status, got.body) == (200, b"hifoo")
        assert b"X-Trailer" not in got.head
        keeps = version == "1.1" or (bool(fields) and reply is WITH_LENGTH)
        assert got.one("Connection") == (
            None if version == "1.1" else "keep-alive" if keeps else "close"
        )
        assert (got.one("Transfer-Encoding") == "chunked") is (
            version == "1.1" and reply is not WITH_LENGTH
        )
        if keeps:
            await wire.send(GET)
            assert (await wire.reply()).body == b"hifoo"
        else:
            assert await until_cut(wire) == b""


async def test_fields_keep_their_bytes_their_order_and_their_repeats() -> None:
    """Fields that no rule changes pass unchanged: latin-1, spaces, case, repeats."""
    sent = [
        b"set-Cookie: a=1",
        b"X-Odd: \xe9 \xff  two",
        b"Set-Cookie: b=2",
        b"WWW-Authenticate: Basic",
        b"x-empty: ",
        b"Set-Cookie: a=3",
    ]
    reply = b"HTTP/1.1 299 Very \xe9 Fine\r\nContent-Length: 2\r\n"
    reply += b"\r\n".join(sent) + b"\r\n\r\nok"
    async with FaultUpstream(answer(reply)) as upstream, gateway(upstream.url) as gw:
        got = await gw.ask("GET", "/a")
        assert got.head.startswith(b"HTTP/1.1 299 Very \xe9 Fine\r\n")
        assert got.head.split(b"\r\n")[1 : 1 + len(sent)] == sent


CACHE_RULES = [
    pytest.param("Cache-Control", id="Cache-Control"),
    pytest.param("CDN-Cache-Control", id="CDN-Cache-Control"),
    pytest.param("Surrogate-Control", id="Surrogate-Control"),
    pytest.param("surrogate-control", id="in lower case"),
]


@pytest.mark.parametrize("name", CACHE_RULES)
async def test_the_service_cannot_make_a_cache_store_new_tokens(name: str) -> None:
    """A reply with new tokens has only `Cache-Control: no-store`.

    Without new tokens the service's field is passed on.
    """
    reply = OK.replace(b"\r\n\r\n", b"\r\n%b: max-age=60\r\n\r\n" % name.encode())
    async with (
        FaultUpstream(answer(reply)) as upstream,
        gateway(upstream.url, route={"protected": True}) as gw,
    ):
        got = await gw.ask("GET", "/a", ANN)
        assert got.all(name) == ["max-age=60"]
        gw.verifier.new_tokens = ((b"st-access-token", b"fresh"),)
        got = await gw.ask("GET", "/a", ANN)
        assert got.one("st-access-token") == "fresh"
        assert b"max-age" not in got.head
        assert got.all("Cache-Control") == ["no-store"]


async def test_proxy_fields_of_a_reply_are_not_forwarded() -> None:
    """The service addresses these to the gateway, not to the gateway's client."""
    names = ("Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Connection")
    fields = "".join(f"\r\n{name}: theirs" for name in names).encode()
    reply = OK.replace(b"\r\n\r\n", fields + b"\r\n\r\n")
    async with FaultUpstream(answer(reply)) as upstream, gateway(upstream.url) as gw:
        got = await gw.ask("GET", "/a")
        assert (got.status, got.body) == (200, b"ok")
        assert b"theirs" not in got.head


# --- the client goes away ---------------------------------------------------


def assert_client_gone(record: Record) -> None:
    """Assert that the log blames the client."""
    assert (record.status, record.reason, record.side) == (499, "client_gone", "client")


async def endless(peer: Peer) -> None:
    """Send an endless reply until the gateway closes."""
    await peer.request()
    await peer.send(CHUNKED_HEAD)
    try:
        while True:
            await peer.send(b"4\r\nmore\r\n")
            await asyncio.sleep(0.005)
    finally:
        peer.upstream.lost.set()


async def read_only(peer: Peer) -> None:
    """Read whatever arrives, and never answer."""
    await peer.head()
    await peer.gone()


ENDS = pytest.mark.parametrize(
    "end", [reset, lambda wire: wire.writer.close()], ids=["RST", "FIN"]
)


@ENDS
async def test_p1_abort_in_the_upload_cancels_the_request(end: End) -> None:
    """The upstream connection is closed; the record has 499, without a traceback."""
    async with FaultUpstream(read_only) as upstream, gateway(upstream.url) as gw:
        async with gw.connect() as wire:
            await wire.send(request("POST", "/a", ("Content-Length", "1000000")))
            await wire.send(b"x" * 1024)
            await until(lambda: gw.pools[0].in_use)
            end(wire)
            await upstream.lost.wait()
        assert_client_gone(await gw.record())
        await until(lambda: not gw.pools[0].open)


@ENDS
@pytest.mark.parametrize("behaviour", [FAULTS["hang before head"], endless])
async def test_p2_abort_in_the_download_cancels_the_request(
    behaviour: Behaviour, end: End
) -> None:
    """The upstream connection is closed and not reused; the record has 499."""
    async with FaultUpstream(behaviour) as upstream, gateway(upstream.url) as gw:
        async with gw.connect() as wire:
            await wire.send(GET)
            if behaviour is endless:
                await wire.head()
                assert await wire.chunk() == b"more"
            await upstream.got_request.wait()
            end(wire)
            await upstream.lost.wait()
        assert_client_gone(await gw.record())
        await until(lambda: not gw.pools[0].open)


async def test_p3_a_client_that_closes_its_side_is_gone() -> None:
    """After a FIN the client may not read any more, so the request is cancelled."""
    async with (
        FaultUpstream(FAULTS["hang before head"]) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(GET)
        await upstream.got_request.wait()
        wire.writer.write_eof()
        await upstream.lost.wait()
        assert await until_cut(wire) == b""
        assert_client_gone(await gw.record())


UPLOAD = b"POST / HTTP/1.1\r\nHost: gw\r\nContent-Length: 5\r\n\r\n"
CHUNKS = b"POST / HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        pytest.param([GET], 200, id="no body"),
        pytest.param([UPLOAD + b"12345"], 200, id="a body at once"),
        pytest.param([UPLOAD, b"123", b"45"], 200, id="a body in pieces"),
        pytest.param([UPLOAD, b"123"], None, id="an incomplete body"),
        pytest.param([CHUNKS, b"3\r\nabc\r\n", b"x\r\n"], 400, id="broken chunks"),
        pytest.param([b"GET / HTTP/1.1\r\nHost gw\r\n\r\n"], 400, id="a broken head"),
    ],
)
async def test_a_request_is_freed_when_its_connection_ends(
    pieces: list[bytes], status: int | None
) -> None:
    """Its objects, which hold tokens, are freed without the garbage collector.

    After a faulty request too, the next client's request is forwarded.
    """
    async with FaultUpstream(answer(OK)) as upstream, gateway(upstream.url) as gw:
        with collector_off(ClientConnection, Exchange) as leaked:
            for _ in range(3):
                async with gw.connect() as wire:
                    for piece in pieces:
                        await wire.send(piece)
                        await after_reading()  # a segment each
                    if status is not None:
                        assert (await wire.reply()).status == status
                await gw.record()
            await until(lambda: not gw.listener.connections)
            await until(lambda: not leaked())
        assert (await gw.ask("GET", "/next")).body == b"ok"
        assert upstream.requests[-1].line == b"GET /next HTTP/1.1"


FAILURES = {
    name: FAULTS[name]
    for name in (
        *("close before reply", "reset before reply"),
        *("hang before head", "hang in head"),
    )
} | {
    "a cut body": answer_and_close(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"),
    "a body that hangs": answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"),
    "broken chunks": answer(CHUNKED_HEAD + b"x\r\n"),
    "a broken head": answer(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
    "the client goes": FAULTS["hang before head"],
    "the client goes, in the body": answer(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
    ),
}


WARM = {"path": "/warm", "protected": False}
"""A route to the same service with the default timeouts."""


@pytest.mark.parametrize("at_once", [False, True], ids=["asking", "at once"])
@pytest.mark.parametrize("is_warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("fault", FAILURES)
async def test_a_failed_request_is_freed(
    fault: str, is_warm: bool, at_once: bool
) -> None:
    """An exception references the frames that it passed, and these the request.

    No reference cycle may arise, or tokens stay in memory until the garbage collector
    runs.
    """

    async def behaviour(peer: Peer) -> None:
        if is_warm:
            await peer.request()
            await peer.send(OK)
        await FAILURES[fault](peer)

    route = (QUICK if "hang" in fault else {}) | {"retry": {"attempts": 0}}
    async with (
        FaultUpstream(behaviour) as upstream,
        gateway(upstream.url, route=route, more_routes=[WARM]) as gw,
    ):
        gw.verifier.at_once = at_once
        for _ in range(2):
            if is_warm:
                assert (await gw.ask("GET", "/warm")).status == 200
                await gw.record()
            with collector_off(Exchange, Request, Reply) as leaked:
                async with gw.connect() as wire:
                    await wire.send(POST_AND_CLOSE)
                    if fault.startswith("the client"):
                        await upstream.got_request.wait()
                        upstream.got_request.clear()
                        if fault.endswith("body"):
                            await wire.head()
                        reset(wire)
                    else:
                        await until_cut(wire)
                await gw.record()
                await until(lambda: not gw.listener.connections)
                await until(lambda: not leaked())


async def test_an_upstream_connection_is_freed_when_it_has_ended() -> None:
    """It is freed without the garbage collector."""
    async with (
        FaultUpstream(FAULTS["close after reply"]) as upstream,
        gateway(upstream.url) as gw,
    ):
        with collector_off(UpstreamConnection) as leaked:
            for _ in range(3):
                assert (await gw.ask("GET", "/a")).status == 200
            await until(lambda: not gw.pools[0].open)
            await until(lambda: not leaked())


async def test_a_client_that_leaves_while_its_request_waits_for_a_connection() -> None:
    """Its request leaves the queue of the pool, and is never sent."""
    async with (
        FaultUpstream(FAULTS["hang before head"]) as upstream,
        gateway(upstream.url, service={"max_connections": 1}) as gw,
        gw.connect() as first,
    ):
        await first.send(GET)
        await upstream.got_request.wait()
        async with gw.connect() as second:
            await second.send(GET)
            await until(lambda: gw.pools[0].waiting)
        assert_client_gone(await gw.record())
        assert not gw.pools[0].waiting
        assert len(upstream.requests) == 1


async def test_a_record_has_the_duration_of_each_step() -> None:
    """A step that didn't run has None; the steps together fit into the whole.

    The first request connects, the second reuses the connection, and the third is
    refused.
    """
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, route={"protected": True}) as gw,
    ):
        connected, reused, refused = [
            (await gw.ask("GET", "/a", *fields), await gw.record())[1]
            for fields in ((ANN,), (ANN,), ())
        ]
        assert len(upstream.requests) == 2
    assert connected.connect_ms is not None
    assert connected.connect_ms > 0
    assert reused.connect_ms is None
    for record in (connected, reused):
        assert record.verify_ms is not None
        assert record.upstream_ms is not None
        assert min(record.verify_ms, record.upstream_ms) >= 0
        parts = record.verify_ms + (record.connect_ms or 0) + record.upstream_ms
        assert parts <= record.duration_ms
    assert refused.verify_ms is not None
    assert (refused.connect_ms, refused.upstream_ms) == (None, None)


# --- the gateway fails ------------------------------------------------------


_GET = ("GET", "/a")
_PREFLIGHT = (
    *("OPTIONS", "/a", ("Origin", ORIGIN)),
    ("Access-Control-Request-Method", "GET"),
)
_NEW = ("GET", "/a?query")
"""With a query: such a target isn't cached, but parsed and matched each time."""

FAULTY: dict[str, tuple[tuple[Any, ...], bytes, str, int]] = {
    # The function that fails: the request, its body, the stage in the record, and how
    # many requests reach the upstream.
    "http.target.parse": (_NEW, b"", "target", 0),
    "headers.ForwardedCache.find": (_GET, b"", "target", 0),
    "routes.RouteTable.match": (_NEW, b"", "target", 0),
    "downstream.cors.Cors.preflight": (_PREFLIGHT, b"", "preflight", 0),
    "decide._note_allowed": (_GET, b"", "verify", 0),
    "headers.to_upstream": (_GET, b"", "to_upstream", 0),
    "routes.Route.upstream_head": (_GET, b"", "send", 0),
    "downstream.exchange.Exchange.body_now": (("POST", "/a"), b"hi", "send", 0),
    "routes.Route.upstream_path": (_GET, b"", "send", 0),
    "upstream.UpstreamPool.exchange": (_GET, b"", "send", 0),
    "headers.to_client": (_GET, b"", "to_client", 1),
    "upstream.Reply.read_now": (_GET, b"", "copy", 1),
    "downstream.exchange.Exchange.start": (_GET, b"", "copy", 1),
}


@pytest.mark.parametrize("at_once", [False, True], ids=["asking", "at once"])
@pytest.mark.parametrize("name", FAULTY)
async def test_p12_an_internal_error_is_500(
    monkeypatch: pytest.MonkeyPatch, name: str, at_once: bool
) -> None:
    """The reply has no details; the log has one traceback.

    If a function fails before the request is sent, the upstream sees nothing. The
    next request is served.
    """
    args, body, stage, forwarded = FAULTY[name]

    def broken(*args: object, **kw: object) -> None:
        raise ValueError("secret detail")

    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, log_expected=True) as gw,
    ):
        gw.verifier.at_once = at_once
        for is_warm in (False, True):
            log, before = len(gw.log.lines), len(upstream.requests)
            with monkeypatch.context() as patch:
                patch.setattr(f"gateway.{name}", broken)
                reply = await gw.ask(*args, body=body or None)
            record = await gw.record()
            assert (reply.status, reply.json()["code"]) == (500, "internal_error")
            assert b"secret" not in reply.head + reply.body
            assert (record.status, record.side) == (500, "gateway")
            assert record.stage == stage
            assert len(upstream.requests) == before + forwarded
            assert len(gw.log.lines) == log + 1
            if not is_warm:  # the second time with an idle connection in the pool
                assert (await gw.ask("GET", "/a")).body == b"ok"
                await gw.record()


async def test_p12_a_verifier_that_fails_lets_nobody_in() -> None:
    """Fail closed: if it raises, the request gets 500 and isn't forwarded.

    Once the verifier works again, the session is accepted.
    """
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, route={"protected": True}, log_expected=True) as gw,
    ):
        gw.verifier.error = RuntimeError("secret detail")
        reply = await gw.ask("GET", "/a", ("Authorization", "Bearer ann"))
        assert (reply.status, reply.json()["code"]) == (500, "internal_error")
        assert not upstream.requests
        gw.verifier.error = None
        reply = await gw.ask("GET", "/a", ("Authorization", "Bearer ann"))
        assert (reply.status, len(upstream.requests)) == (200, 1)


async def test_p12_a_fault_in_the_copy_cuts_the_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head was sent, so no 500 can follow: the client sees a cut reply."""

    def broken(self: object, chunk: bytes) -> bool:
        raise ValueError("secret detail")

    monkeypatch.setattr("gateway.downstream.exchange.Exchange.write", broken)
    async with (
        FaultUpstream(FAULTS["echo while reading"]) as upstream,
        gateway(upstream.url, log_expected=True) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("POST", "/a", ("Transfer-Encoding", "chunked")))
        await wire.head()
        await wire.send(b"1\r\na\r\n")
        assert await until_cut(wire) == b""
        record = await gw.record()
        assert (record.status, record.stage, record.side) == (500, "copy", "gateway")


class Broken:
    """Patches a method so that its *at*-th call fails; other calls work as before."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str, at: int = 1) -> None:
        self.calls = 0
        owner, _, method = name.rpartition(".")
        cls = resolve_name(":".join(owner.rsplit(".", 1)))
        real = getattr(cls, method)

        def call(*args: object, **kw: object) -> object:
            self.calls += 1
            if self.calls == at:
                raise ValueError("secret detail")
            return real(*args, **kw)

        patch.setattr(cls, method, call)


@pytest.mark.parametrize("at_once", [False, True], ids=["asking", "at once"])
@pytest.mark.parametrize(
    ("name", "path"), [("finish", "/a"), ("drain", "/b")], ids=["reply", "answer"]
)
async def test_p12_a_fault_after_the_reply_cuts_it(
    monkeypatch: pytest.MonkeyPatch, name: str, path: str, at_once: bool
) -> None:
    """The reply was written, so no other can follow: the connection closes.

    The record has 500, and the next request is served.
    """
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(
            upstream.url,
            route={"match": {"path": {"exact": "/a"}}, "path": None},
            log_expected=True,
        ) as gw,
    ):
        gw.verifier.at_once = at_once
        broken = Broken(monkeypatch, f"gateway.downstream.exchange.Exchange.{name}")
        async with gw.connect() as wire:
            await wire.send(request("GET", path))
            await until_cut(wire)
        record = await gw.record()
        assert broken.calls == 1
        assert (record.status, record.side) == (500, "gateway")
        assert len(gw.log.lines) == 1
        assert (await gw.ask("GET", "/a")).body == b"ok"


CALLBACKS = {
    # The function that fails, at which call, what the client sends, and how many
    # replies it gets.
    "a head": ("gateway.http.request_head.RequestReader.read", 1, GET, 0),
    "the next head": ("gateway.http.request_head.RequestReader.read", 2, GET * 3, 1),
    "the next request": (
        "gateway.downstream.listener.ClientConnection._next_request",
        1,
        GET * 3,
        1,
    ),
    "the observer": ("gateway_under_test._Observer.observe", 1, GET * 3, 1),
}


@pytest.mark.parametrize("is_warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("at_once", [False, True], ids=["asking", "at once"])
@pytest.mark.parametrize("case", CALLBACKS)
async def test_p12_a_fault_in_a_client_connection_ends_only_that_one(
    monkeypatch: pytest.MonkeyPatch, case: str, at_once: bool, is_warm: bool
) -> None:
    """It is closed at once with one log entry; other clients are served.

    The upstream connection is kept, although its bytes may have triggered the fault.
    """
    name, at, sent, answered = CALLBACKS[case]
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, log_expected=True) as gw,
        gw.connect() as other,
    ):
        gw.verifier.at_once = at_once
        if is_warm:
            assert (await gw.ask("GET", "/a")).body == b"ok"
        with monkeypatch.context() as patch:
            Broken(patch, name, at)
            async with gw.connect() as wire:
                await wire.send(sent)
                received = await until_cut(wire)
        assert received.count(b"HTTP/1.1 200 ") == answered
        assert b"secret" not in received
        assert len(gw.log.lines) == 1
        await other.send(GET)
        assert (await other.reply()).body == b"ok"
        assert upstream.connections == max(1, is_warm or answered)
        assert gw.listener.connections == 1


async def in_two_pieces(peer: Peer) -> None:
    """Send the body a little later than the head."""
    while await peer.request():
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await after_reading()
        await peer.send(b"ok")


REPLIES = {"at once": answer(), "in two pieces": in_two_pieces}
UPSTREAM_CALLBACKS = {
    "its bytes": "gateway.upstream.reader.ReplyReader.feed",
    "its head": "gateway.http.reply_head.ReplyHeadReader.read",
    "its return to the pool": "gateway.upstream.pool.UpstreamPool.release",
}


@pytest.mark.parametrize("at_once", [False, True], ids=["asking", "at once"])
@pytest.mark.parametrize("case", UPSTREAM_CALLBACKS)
@pytest.mark.parametrize("behaviour", REPLIES.values(), ids=REPLIES)
async def test_p12_a_fault_in_an_upstream_connection_ends_only_that_one(
    monkeypatch: pytest.MonkeyPatch, case: str, at_once: bool, behaviour: Behaviour
) -> None:
    """Its request fails at once with a log entry; the next request is served."""
    async with (
        FaultUpstream(behaviour) as upstream,
        gateway(upstream.url, log_expected=True) as gw,
    ):
        gw.verifier.at_once = at_once
        with monkeypatch.context() as patch:
            Broken(patch, UPSTREAM_CALLBACKS[case])
            async with gw.connect() as wire:
                await wire.send(POST_AND_CLOSE)
                received = await until_cut(wire)
        record = await gw.record()
        assert record.status in (500, 502)
        # A reply that has begun is cut, unless its last byte was already sent.
        status = 200 if record.stage == "copy" else record.status
        assert received.startswith(b"HTTP/1.1 %d " % status)
        assert b"secret" not in received
        assert gw.log.lines
        await until(lambda: not gw.pools[0].open)
        assert (await gw.ask("GET", "/a")).status == 200


async def test_p4_a_gateway_without_file_descriptors_recovers() -> None:
    """With 64 descriptors for 200 clients, some get 503 and some are disconnected.

    The gateway doesn't spin meanwhile. When the clients are gone, it serves again.
    """
    script = Path(__file__).with_name("starved_gateway.py")
    async with FaultUpstream(answer()) as upstream:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), upstream.url, stdin=PIPE, stdout=PIPE
        )
        try:
            await starve(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def starve(process: asyncio.subprocess.Process) -> None:
    """Use up all descriptors of the gateway in *process*, then release them."""
    assert process.stdin is not None
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connect(port)) for _ in range(200)]
        loop = asyncio.get_running_loop()
        began, before = loop.time(), cpu_seconds(process.pid)
        statuses = set(await asyncio.gather(*(status(wire) for wire in wires)))
        # A real pause: a gateway that spins uses the CPU meanwhile, too. The work
        # before it takes a quarter of the whole time at most, on any machine.
        await asyncio.sleep(max(0.5, 3 * (loop.time() - began)))
        assert cpu_seconds(process.pid) - before < (loop.time() - began) / 2
        assert statuses <= {0, 200, 503}
        assert 0 in statuses
    async with asyncio.timeout(10):
        answered = 0
        while answered != 200:
            async with connect(port) as wire:
                answered = await status(wire)
    process.stdin.close()
    async with asyncio.timeout(10):
        summary = json.loads(await process.stdout.read())
        assert await process.wait() == 0
    assert summary["log"] < 5
    assert summary["statuses"]["200"] >= 1


async def status(wire: Wire) -> int:
    """Return the status that a client gets, or 0 if it is disconnected."""
    try:
        await wire.send(GET)
        return (await wire.reply()).status
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
