"""The gateway in an aiohttp application: what clients and services receive.

SuperTokens is a fake, except in the tests about the SDK, which use a core. The corpus
is played in test_aiohttp_app_corpus.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, http_parser, web
from aiohttp.test_utils import TestClient
from any_core import new_email
from faults import (
    CHUNKED_HEAD,
    OK,
    FaultUpstream,
    Peer,
    after_reading,
    answer,
    answer_and_close,
    echo,
    until,
)
from gateway_under_test import ORIGIN, GatewayParts, Log, make, until_cut
from stack import Records, form
from test_aiohttp_app_corpus import CASES, REFUSED
from websockets.asyncio.client import connect as dialled
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from wire import DEADLINE_S, Wire, WireReply, ask, connect, request

from gateway import aiohttp_app, settings, websocket
from gateway.aiohttp_app import GATEWAY, HANDLER_ARGS, OneGateway, gateway_app
from gateway.app import App
from gateway.dev.core import ThreadedCore
from gateway.observe import Record
from gateway.pace import Pace

ANN = ("Authorization", "Bearer ann")


@dataclass
class Served:
    """A gateway with fake sessions, in an application that listens on loopback."""

    made: GatewayParts
    port: int
    runner: web.AppRunner

    async def ask(self, *args: Any, **kw: Any) -> WireReply:
        return await ask(self.port, *args, **kw)

    async def record(self) -> Record:
        async with asyncio.timeout(DEADLINE_S):
            return await self.made.records.get()

    def connect(self) -> Any:
        return connect(self.port)


def fake_app(made: GatewayParts) -> web.Application:
    @asynccontextmanager
    async def opening() -> AsyncIterator[App]:
        yield made.app

    return aiohttp_app.application(opening, limits=made.app.config.gateway.limits)


@asynccontextmanager
async def served(
    *targets: str,
    outer: web.Application | None = None,
    log_expected: bool = False,
    **options: Any,
) -> AsyncIterator[Served]:
    """Serve a gateway with *options*, which are those of `gateway_under_test.make`.

    With *outer*, it is a sub-application of that one, at `/sub`.
    """
    made = make(*targets, **options)
    app = fake_app(made)
    if outer is not None:
        outer.add_subapp("/sub", app)
        app = outer
    log = Log()
    logging.getLogger().addHandler(log)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield Served(made, runner.addresses[0][1], runner)
    finally:
        await runner.cleanup()
        await made.upstreams.close()
        logging.getLogger().removeHandler(log)
    await until(lambda: not any(pool.open for pool in made.upstreams.pools))
    assert log_expected or not log.lines, log.lines


# --- requests and replies --------------------------------------------------------


async def test_a_request_is_forwarded_and_aiohttp_adds_no_field() -> None:
    """The reply has the service's fields, unchanged, and the gateway's; no others."""
    reply = (
        b"HTTP/1.1 200 Fine By Me\r\nX-One: a\r\nSet-Cookie: a=1\r\n"
        b"x-one: \xc3\xa9\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok"
    )
    async with FaultUpstream(answer(reply)) as upstream, served(upstream.url) as gw:
        response = await gw.ask("GET", "/a?x=%zz&y", ("X-Sent", "\xff"))
        record = await gw.record()
    assert (response.status, response.reason, response.body) == (
        200,
        b"Fine By Me",
        b"ok",
    )
    assert {name for name, _ in response.fields} == {
        *("X-One", "Set-Cookie", "x-one"),
        *("Vary", "X-Request-Id", "Content-Length", "Date"),
    }
    assert len(response.all("Date")) == 1
    assert response.all("Set-Cookie") == ["a=1", "b=2"]
    assert response.all("X-One") == ["a", "\xc3\xa9"]
    (sent,) = upstream.requests
    assert sent.line == b"GET /a?x=%zz&y HTTP/1.1"
    assert sent.field(b"x-sent") == b"\xff"
    assert sent.field(b"x-auth-status") == b"anonymous"
    assert (record.status, record.client) == (200, "127.0.0.1")
    assert record.bytes_out == len(response.head) + 2


@pytest.mark.parametrize("name", ["Server", "Date", "Content-Type"])
async def test_fields_that_aiohttp_would_set_are_the_service_s(name: str) -> None:
    """A field that aiohttp sets by default keeps the service's value."""
    reply = f"HTTP/1.1 200 OK\r\n{name}: its own\r\nContent-Length: 2\r\n\r\nok"
    async with (
        FaultUpstream(answer(reply.encode())) as upstream,
        served(upstream.url) as gw,
    ):
        response = await gw.ask("GET", "/a")
    assert response.one(name) == "its own"


@pytest.mark.parametrize(
    ("method", "reply", "length", "body"),
    [
        ("GET", OK, "2", b"ok"),
        ("GET", CHUNKED_HEAD + b"2\r\nok\r\n0\r\n\r\n", "2", b"ok"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", "7", b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n", None, b""),
        ("GET", b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", None, b""),
        ("GET", b"HTTP/1.1 304 Same\r\nContent-Length: 7\r\n\r\n", "7", b""),
        ("GET", b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "0", b""),
    ],
)
async def test_the_framing_is_right(
    method: str, reply: bytes, length: str | None, body: bytes
) -> None:
    """The body's framing fields are right, so that the next request is served, too."""
    async with (
        FaultUpstream(answer(reply)) as upstream,
        served(upstream.url) as gw,
        gw.connect() as wire,
    ):
        for _ in range(2):
            await wire.send(request(method, "/a"))
            response = await wire.reply(method)
            assert response.one("Content-Length") == length
            assert response.one("Transfer-Encoding") is None
            assert response.body == body
            assert not response.all("Content-Type")


@pytest.mark.parametrize("kept", [False, True])
async def test_an_http_1_0_reply_of_unknown_length_ends_with_the_connection(
    kept: bool,
) -> None:
    """To an HTTP/1.0 client, a chunked reply is sent until the connection closes."""

    async def slowly(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD + b"2\r\nok\r\n")
        await after_reading()
        await peer.send(b"0\r\n\r\n")

    async with (
        FaultUpstream(slowly) as upstream,
        served(upstream.url) as gw,
        gw.connect() as wire,
    ):
        more = b"Connection: keep-alive\r\n" if kept else b""
        await wire.send(b"GET /a HTTP/1.0\r\nHost: gw\r\n" + more + b"\r\n")
        received = await wire.rest()
    head, _, body = received.partition(b"\r\n\r\n")
    assert body == b"ok"
    assert b"chunked" not in head
    assert b"keep-alive" not in head


async def test_options_asterisk_is_answered_by_the_gateway() -> None:
    """`OPTIONS *`, which has no path for aiohttp's router, is 204, without a 100."""
    async with (
        FaultUpstream(answer()) as upstream,
        served(upstream.url) as gw,
        gw.connect() as wire,
    ):
        for more in ((), (("Expect", "100-continue"),)):
            await wire.send(request("OPTIONS", "*", *more))
            response = await wire.reply()
            assert (response.status, response.one("Server")) == (204, None)
            assert response.one("X-Request-Id") is not None
        assert not wire.interim
    assert not upstream.requests


# --- refusals ----------------------------------------------------------------------


async def test_refused_requests_reach_no_service() -> None:
    """Requests that are refused with 400, 401, 404 or 405 aren't forwarded.

    Each has a record, and its reply has no Server field. The gateway's own path isn't
    forwarded either.
    """
    async with (
        FaultUpstream(answer()) as upstream,
        served(
            upstream.url,
            route={"path": "/a", "protected": True},
            more_routes=[
                {"match": {"path": {"prefix": "/m"}, "methods": ["GET"]}},
            ],
        ) as gw,
    ):
        for method, target, status in (
            ("GET", "/a", 401),
            ("POST", "/a", 401),
            ("HEAD", "/a", 401),
            ("GET", "/none", 404),
            ("POST", "/m", 405),
            ("GET", "/a%2fb", 400),
            ("GET", "/user", 401),
        ):
            response = await gw.ask(method, target)
            assert response.status == status, target
            assert response.one("Server") is None
            assert response.one("Date") is not None
            record = await gw.record()
            assert record.status == status
            assert response.one("X-Request-Id") == record.request_id
        response = await gw.ask("GET", "/user", ANN)
        assert (response.status, response.json()["userId"]) == (200, "ann")
        assert not upstream.requests
        assert (await gw.ask("GET", "/a", ANN)).status == 200
    (sent,) = upstream.requests
    assert sent.field(b"x-user-id") == b"ann"
    assert sent.field(b"authorization") is None


async def test_cors() -> None:
    """A preflight needs no session and isn't forwarded; replies allow the origin."""
    origin = ("Origin", ORIGIN)
    async with (
        FaultUpstream(answer()) as upstream,
        served(upstream.url, route={"protected": True}) as gw,
    ):
        wanted = ("Access-Control-Request-Method", "POST")
        response = await gw.ask("OPTIONS", "/a", origin, wanted)
        assert response.status == 204
        assert response.one("Access-Control-Allow-Origin") == ORIGIN
        response = await gw.ask("GET", "/a", origin)
        assert response.status == 401
        assert response.one("Access-Control-Allow-Origin") == ORIGIN
        response = await gw.ask("GET", "/a", origin, ANN)
        assert response.status == 200
        assert response.one("Access-Control-Allow-Origin") == ORIGIN
    assert len(upstream.requests) == 1


async def test_a_service_that_is_not_there_is_502(closed_port: int) -> None:
    """A refused connection is 502, and the record's side is the upstream."""
    async with served(f"http://127.0.0.1:{closed_port}") as gw:
        response = await gw.ask("GET", "/a")
        record = await gw.record()
    assert (response.status, response.json()["code"]) == (502, "upstream_unreachable")
    assert (record.side, record.status) == ("upstream", 502)


@pytest.mark.parametrize("value", [b"\xff", b"caf\xe9"])
async def test_a_field_that_cannot_be_sent_is_502(value: bytes) -> None:
    """A reply field that isn't UTF-8 is 502: aiohttp can't send it unchanged."""
    reply = b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: 2\r\n\r\nok" % value
    async with FaultUpstream(answer(reply)) as upstream, served(upstream.url) as gw:
        response = await gw.ask("GET", "/a")
        record = await gw.record()
    assert (response.status, response.json()["code"]) == (502, "upstream_bad_reply")
    assert record.note == "X isn't UTF-8"


async def test_an_unexpected_error_is_500() -> None:
    """An unexpected error is 500 without its text, and the request isn't forwarded."""
    async with (
        FaultUpstream(answer()) as upstream,
        served(upstream.url, log_expected=True) as gw,
    ):
        gw.made.verifier.error = ValueError("secret")
        response = await gw.ask("GET", "/a")
    assert (response.status, response.json()["code"]) == (500, "internal_error")
    assert b"secret" not in response.body
    assert not upstream.requests


# --- bodies --------------------------------------------------------------------------


async def test_uploads() -> None:
    """Bodies with a length or in chunks are forwarded, whole or in pieces."""
    async with FaultUpstream(echo) as upstream, served(upstream.url) as gw:
        response = await gw.ask("POST", "/a", body=b"whole")
        assert response.body == b"whole"
        async with gw.connect() as wire:
            await wire.send(request("PUT", "/a", ("Content-Length", "6")) + b"abc")
            await after_reading()
            await wire.send(b"def")
            assert (await wire.reply()).body == b"abcdef"
            await wire.send(request("PUT", "/a", ("Transfer-Encoding", "chunked")))
            await wire.send(b"3\r\nabc\r\n")
            await after_reading()
            await wire.send(b"1\r\nd\r\n0\r\n\r\n")
            assert (await wire.reply()).body == b"abcd"


async def test_a_compressed_body_is_forwarded_compressed() -> None:
    """aiohttp doesn't decompress the body, so that the service gets the same bytes."""
    packed = gzip.compress(b"x" * 1000)
    async with FaultUpstream(echo) as upstream, served(upstream.url) as gw:
        response = await gw.ask("POST", "/a", ("Content-Encoding", "gzip"), body=packed)
    assert response.body == packed
    assert upstream.requests[0].body == packed


async def test_a_body_over_the_limit_is_413() -> None:
    """A body over the limit is 413: at once if its length is announced, else later.

    The service gets no complete request.
    """
    route = {"request": {"max_body_size": 8}}
    async with (
        FaultUpstream(answer()) as upstream,
        served(upstream.url, route=route) as gw,
    ):
        response = await gw.ask("POST", "/a", body=b"123456789")
        assert (response.status, response.one("Connection")) == (413, "close")
        assert not upstream.requests
        async with gw.connect() as wire:
            await wire.send(request("POST", "/a", ("Transfer-Encoding", "chunked")))
            await wire.send(b"5\r\n12345\r\n")
            await upstream.got_request.wait()
            await wire.send(b"5\r\n12345\r\n")
            response = await wire.reply()
        assert (response.status, response.json()["code"]) == (413, "content_too_large")
    (begun,) = upstream.requests
    assert begun.body in (b"", b"12345")


async def test_a_body_that_stalls_is_408() -> None:
    """A body that pauses for `body_idle_timeout` is 408, and the connection ends."""
    async with (
        FaultUpstream(answer()) as upstream,
        served(upstream.url, settings={"limits": {"body_idle_timeout": 0.1}}) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("POST", "/a", ("Content-Length", "9")) + b"1")
        response = await wire.reply()
        assert (response.status, response.one("Connection")) == (408, "close")


async def test_a_body_with_broken_chunks_is_408() -> None:
    """Broken chunks end in `body_idle_timeout`: aiohttp tells the reader no error."""
    async with (
        FaultUpstream(answer()) as upstream,
        served(upstream.url, settings={"limits": {"body_idle_timeout": 0.2}}) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("POST", "/a", ("Transfer-Encoding", "chunked")))
        await upstream.got_request.wait()
        await wire.send(b"1\r\na\r\nzz\r\n")
        response = await wire.reply()
        record = await gw.record()
    assert (response.status, response.json()["code"]) == (408, "request_timeout")
    assert record.side == "client"
    (begun,) = upstream.requests
    assert begun.body in (b"", b"a")


async def test_a_complete_2xx_before_a_large_body_says_close() -> None:
    """As behind the gateway's own listener: nobody reads the rest (RFC 9112 §9.3)."""

    async def reply_early(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await peer.gone()

    async with (
        FaultUpstream(reply_early) as upstream,
        served(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("POST", "/a", ("Content-Length", "1000000")))
        found = await wire.reply()
        assert (found.body, found.one("Connection")) == (b"ok", "close")
        await upstream.lost.wait()


async def test_a_100_is_sent_when_the_request_is_allowed() -> None:
    """A client gets 100 after the request is allowed, and none if it is refused."""
    waits = (("Expect", "100-continue"), ("Content-Length", "4"))
    async with (
        FaultUpstream(echo) as upstream,
        served(upstream.url, route={"protected": True}) as gw,
    ):
        async with gw.connect() as wire:
            await wire.send(request("POST", "/a", *waits))
            response = await wire.reply()
            assert (response.status, wire.interim) == (401, [])
            assert response.one("Connection") == "close"
        async with gw.connect() as wire:
            await wire.send(request("POST", "/a", *waits, ANN))
            assert await wire.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            await wire.send(b"body")
            assert (await wire.reply()).body == b"body"
    assert len(upstream.requests) == 1


# --- streams -----------------------------------------------------------------------


async def test_an_event_arrives_before_the_next_is_sent() -> None:
    """The head and each chunk arrive before the service sends the next chunk."""
    go_on = asyncio.Event()

    async def events(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD)
        for number in range(5):
            async with asyncio.timeout(DEADLINE_S):
                await go_on.wait()
            go_on.clear()
            await peer.send(b"1\r\n%d\r\n" % number)
        await peer.send(b"0\r\n\r\n")

    async with (
        FaultUpstream(events) as upstream,
        served(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/a"))
        assert (await wire.head()).one("Transfer-Encoding") == "chunked"
        for number in range(5):
            go_on.set()
            assert await wire.chunk() == b"%d" % number
        assert await wire.chunk() == b""


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_cut_body_never_ends_cleanly(version: str) -> None:
    """A body that the service cuts has no last chunk; HTTP/1.0 gets a reset."""
    reply = CHUNKED_HEAD + b"2\r\nok\r\n"
    async with (
        FaultUpstream(answer_and_close(reply)) as upstream,
        served(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(f"GET /a HTTP/{version}\r\nHost: gw\r\n\r\n".encode())
        if version == "1.0":
            await until(lambda: wire.reader.exception() is not None)
            assert isinstance(wire.reader.exception(), ConnectionResetError)
        else:
            assert not (await until_cut(wire)).endswith(b"0\r\n\r\n")
        record = await gw.record()
    assert (record.reason, record.side) == ("upstream_closed", "upstream")


@pytest.mark.parametrize("reads", [True, False], ids=["waiting", "slow"])
async def test_a_stream_is_cut_with_its_session(reads: bool) -> None:
    """Whether the service is waited for, or a client that reads nothing."""

    async def events(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD + b"2\r\n1\n\r\n")
        while not reads:
            await peer.send(b"10000\r\n" + bytes(65536) + b"\r\n")
        await peer.gone()

    async with (
        FaultUpstream(events) as upstream,
        served(upstream.url, route={"protected": True}) as gw,
        gw.connect() as wire,
    ):
        proxy = gw.made.app.proxy
        await wire.send(request("GET", "/a", ANN))
        assert (await wire.head()).status == 200
        if not reads:
            wire.writer.transport.pause_reading()
            (pool,) = gw.made.upstreams.pools
            (connection,) = pool._connections
            await until(lambda: not connection._is_reading)
        proxy.session_ended("session-ann")
        record = await gw.record()
        assert (record.status, record.reason) == (401, "stream_session_ended")
        wire.writer.transport.resume_reading()
        assert not (await until_cut(wire)).endswith(b"0\r\n\r\n")
        await until(lambda: not proxy.forwarder.streams)


async def test_a_client_that_disconnects_ends_its_request() -> None:
    """When a client disconnects, the upstream connection is closed: 499 in the log.

    It does so while the service is awaited, in an upload and in a download.
    """

    async def disconnect(wire: Wire, gw: Served, upstream: FaultUpstream) -> None:
        await upstream.got_request.wait()
        wire.writer.transport.abort()
        async with asyncio.timeout(DEADLINE_S):
            await upstream.lost.wait()
        record = await gw.record()
        assert (record.status, record.reason) == (499, "client_gone")

    for reply, asked in (
        (b"", request("GET", "/a")),
        (CHUNKED_HEAD, request("GET", "/a")),
        (b"", request("POST", "/a", ("Content-Length", "100000")) + b"1"),
    ):

        async def wait(peer: Peer, reply: bytes = reply) -> None:
            await peer.head()
            await peer.send(reply)
            await peer.gone()

        async with (
            FaultUpstream(wait) as upstream,
            served(upstream.url) as gw,
            gw.connect() as wire,
        ):
            await wire.send(asked)
            await disconnect(wire, gw, upstream)


async def test_a_slow_client_holds_back_the_service() -> None:
    """A client that reads nothing for `write_idle_timeout` is disconnected.

    Meanwhile, under 32 MiB are read from the service.
    """
    sent = 0

    async def endless(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
        while True:
            await peer.send(b"x" * 65536)
            sent += 65536

    async with (
        FaultUpstream(endless) as upstream,
        served(upstream.url, settings={"limits": {"write_idle_timeout": 0.5}}) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/a"))
        await wire.head()
        wire.writer.transport.pause_reading()
        record = await gw.record()
    assert (record.status, record.reason) == (408, "client_stalled")
    assert sent < 32 * 1024**2


async def read_slowly(wire: Wire) -> None:
    """Read to the end, a little now and then."""
    piece = b"."
    while piece:
        piece = await wire.reader.read(4096)
        await asyncio.sleep(0.01)


async def test_a_download_has_a_least_rate() -> None:
    """A client that reads all the time, but not enough, is cut off by a RST."""
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(99999999)
    limits = {"download_min_rate": 10**12}
    pace = Pace(sweep_s=0.01, reply_rate_grace_s=0.1)
    async with (
        FaultUpstream(answer(reply)) as upstream,
        served(upstream.url, settings={"limits": limits}, pace=pace) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/a"))
        await wire.head()
        with pytest.raises(ConnectionResetError):
            await read_slowly(wire)
        record = await gw.record()
    assert (record.status, record.reason) == (408, "client_slow")


# --- WebSockets ----------------------------------------------------------------------


@asynccontextmanager
async def echo_service(**options: Any) -> AsyncIterator[str]:
    """Run a WebSocket service that echoes each message; yield its URL."""

    async def each(socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                await socket.send(message)
        await socket.close(4001, "bye")

    async with serve(each, "127.0.0.1", 0, max_size=None, **options) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def dial(gw: Served, **options: Any) -> Any:
    options = {"origin": ORIGIN, "max_size": None, "proxy": None, **options}
    return dialled(f"ws://127.0.0.1:{gw.port}/ws", **options)


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_a_websocket_is_tunnelled(compression: str | None) -> None:
    """Messages of any size arrive, compressed or not, and the subprotocol is chosen."""
    async with (
        echo_service(compression=compression, subprotocols=["b"]) as url,
        served(url) as gw,
    ):
        async with dial(gw, compression=compression, subprotocols=["a", "b"]) as ws:
            assert ws.subprotocol == "b"
            for size in (0, 1, 126, 70_000, 1_000_000):
                await ws.send("x" * size)
                assert await ws.recv() == "x" * size
        record = await gw.record()
    assert (record.status, record.bytes_in > 0) == (101, True)
    assert record.reason.endswith("_closed")


async def test_a_websocket_is_closed_with_a_code() -> None:
    """The close code is 4401 at the session's end, and 1001 at the application's."""
    async with echo_service() as url, served(url, route={"protected": True}) as gw:
        fields = dict([ANN])
        async with dial(gw, additional_headers=fields) as ws:
            gw.made.app.proxy.session_ended("session-ann")
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            assert ws.close_code == websocket.SESSION_ENDED
        async with dial(gw, additional_headers=fields) as ws:
            await ws.send("1")
            await ws.recv()
            await gw.runner.cleanup()
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            assert ws.close_code == websocket.GOING_AWAY


async def test_a_refused_handshake_reaches_no_service() -> None:
    """A handshake without a session, or from another origin, isn't forwarded."""
    async with (
        FaultUpstream(answer()) as upstream,
        served(upstream.url, route={"protected": True}) as gw,
    ):
        for origin, status in ((ORIGIN, 401), ("https://evil.example", 403)):
            with pytest.raises(InvalidStatus) as refused:
                await dial(gw, origin=origin, additional_headers={"Cookie": ""})
            assert refused.value.response.status_code == status
    assert not upstream.requests


async def test_the_last_frames_of_a_client_that_disconnects_arrive() -> None:
    """A message that a client sends just before it disconnects reaches the service.

    aiohttp cancels the handler then, but the tunnel first delivers what has come.
    """
    messages: asyncio.Queue[Any] = asyncio.Queue()

    async def each(socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                messages.put_nowait(message)

    async with serve(each, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with served(f"http://127.0.0.1:{port}") as gw:
            ws = await dial(gw)
            await ws.send("last words")
            ws.transport.close()
            async with asyncio.timeout(DEADLINE_S):
                assert await messages.get() == "last words"
            record = await gw.record()
    assert (record.status, record.reason) == (101, "client_closed")


# --- connections ---------------------------------------------------------------------


async def test_tls_and_unix_sockets(
    tmp_path: Path, self_signed: ssl.SSLContext
) -> None:
    """X-Forwarded-Proto is `https` over TLS; the client of a Unix socket is `unix`."""
    context = ssl.create_default_context(cafile=tmp_path / "server.pem")
    context.check_hostname = False
    sent = request("GET", "/a", ("Connection", "close"))
    async with FaultUpstream(answer()) as upstream, served(upstream.url) as gw:
        path = str(tmp_path / "socket")
        tls = web.TCPSite(gw.runner, "127.0.0.1", 0, ssl_context=self_signed)
        await tls.start()
        await web.UnixSite(gw.runner, path).start()
        port = gw.runner.addresses[1][1]
        for opened in (
            asyncio.open_connection("127.0.0.1", port, ssl=context),
            asyncio.open_unix_connection(path),
        ):
            reader, writer = await opened
            writer.write(sent)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
            writer.transport.abort()
        assert [(await gw.record()).client for _ in range(2)] == ["127.0.0.1", "unix"]
    schemes = [one.field(b"x-forwarded-proto") for one in upstream.requests]
    assert schemes == [b"https", b"http"]


async def test_a_chunked_request_is_the_last_on_its_connection() -> None:
    """A request pipelined after a chunked one isn't served, and the connection ends.

    aiohttp's parser may misread what follows a chunked body.
    """
    chunked = request("POST", "/a", ("Transfer-Encoding", "chunked")) + b"0\r\n\r\n"
    async with (
        FaultUpstream(answer()) as upstream,
        served(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(chunked + request("GET", "/b"))
        response = await wire.reply()
        assert (response.status, response.one("Connection")) == (200, "close")
        assert await wire.rest() == b""
    assert len(upstream.requests) == 1


async def test_a_request_in_flight_is_finished_at_cleanup() -> None:
    """At cleanup, a request in flight is answered with `Connection: close`."""
    go_on = asyncio.Event()

    async def slowly(peer: Peer) -> None:
        await peer.request()
        await go_on.wait()
        await peer.send(OK)

    async with (
        FaultUpstream(slowly) as upstream,
        served(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/a"))
        await upstream.got_request.wait()
        ending = asyncio.create_task(gw.runner.cleanup())
        await until(lambda: gw.made.app.proxy.draining)
        go_on.set()
        response = await wire.reply()
        assert (response.body, response.one("Connection")) == (b"ok", "close")
        await ending


# --- as a part of another application --------------------------------------------


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def test_as_a_sub_application() -> None:
    """Routes match the whole path, with the prefix; the outer routes stay in use."""
    outer = web.Application(handler_args=HANDLER_ARGS)
    outer.router.add_get("/hello", hello)
    packed = gzip.compress(b"x" * 1000)
    async with (
        FaultUpstream(echo) as upstream,
        served(upstream.url, outer=outer, route={"path": "/sub/a"}) as gw,
    ):
        assert (await gw.ask("GET", "/hello")).body == b"hello"
        assert (await gw.ask("GET", "/a")).status == 404
        response = await gw.ask(
            "POST", "/sub/a/b", ("Content-Encoding", "gzip"), body=packed
        )
        assert (response.status, response.body) == (200, packed)
        assert response.one("Server") is None
        assert (await gw.ask("GET", "/sub/b")).json()["code"] == "no_route"
    (sent,) = upstream.requests
    assert sent.line == b"POST /sub/a/b HTTP/1.1"


async def test_a_decompressed_body_is_not_forwarded() -> None:
    """A body that the outer application has decompressed is 500 and isn't forwarded.

    The record's note names `HANDLER_ARGS`, which would prevent it.
    """
    async with (
        FaultUpstream(echo) as upstream,
        served(upstream.url, outer=web.Application(), route={"path": "/sub"}) as gw,
    ):
        assert (await gw.ask("POST", "/sub", body=b"plain")).status == 200
        packed = gzip.compress(b"x")
        response = await gw.ask(
            "POST", "/sub", ("Content-Encoding", "gzip"), body=packed
        )
        assert (response.status, response.json()["code"]) == (500, "internal_error")
        records = [await gw.record() for _ in range(2)]
    assert "HANDLER_ARGS" in records[1].note
    assert len(upstream.requests) == 1


# --- with the SDK and a core -------------------------------------------------------

ROUTES = """
version: 1
supertokens:
  connection_uri: ${CORE}
  api_domain: http://localhost:8000
  website_domain: http://localhost:8000
  recipes: {emailpassword: {}}
routes:
  - {path: /open, upstream: "${UPSTREAM}", protected: false}
  - {path: /orders, upstream: "${UPSTREAM}"}
"""


@pytest.fixture
def table(
    tmp_path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> Iterator[Callable[..., web.Application]]:
    """Return a function that makes an application from a configuration's text."""
    aiohttp_app.reset()
    file = tmp_path / "routes.yaml"

    def make_app(text: str = ROUTES, **options: Any) -> web.Application:
        file.write_text(text, encoding="utf-8")
        environ = {"CORE": st_core.url, "UPSTREAM": upstream.url}
        return gateway_app(file, environ=environ, **options)

    yield make_app
    aiohttp_app.reset()


async def test_with_the_sdk_and_a_core(
    table: Callable[..., web.Application],
    aiohttp_client: Callable[..., Awaitable[TestClient[Any, Any]]],
    upstream: FaultUpstream,
) -> None:
    """From sign-up to sign-out, the service and `user_path` get the user's id.

    A stream is cut at the sign-out.
    """

    async def events_or_ok(peer: Peer) -> None:
        while b"events" not in (await peer.request()).line:
            await peer.send(OK)
        await peer.send(CHUNKED_HEAD + b"2\r\n1\n\r\n")
        await peer.gone()

    upstream.behaviour = events_or_ok
    records = Records()
    client = await aiohttp_client(table(observer=records))
    assert (await client.get("/open")).status == 200
    refused = await client.get("/orders")
    assert refused.status == 401
    assert len(upstream.requests) == 1
    signed_up = await client.post(
        "/auth/signup",
        json=form(new_email("ann")),
        headers={"st-auth-mode": "header"},
    )
    assert (await signed_up.json())["status"] == "OK"
    bearer = {"Authorization": f"Bearer {signed_up.headers['st-access-token']}"}
    user_id = (await signed_up.json())["user"]["id"]
    assert (await client.get("/orders", headers=bearer)).status == 200
    assert upstream.requests[-1].field(b"x-user-id") == user_id.encode()
    me = await client.get("/user", headers=bearer)
    assert (await me.json())["userId"] == user_id
    async with client.get("/orders/events", headers=bearer) as stream:
        assert await stream.content.readany() == b"1\n"
        assert (await client.post("/auth/signout", headers=bearer)).status == 200
        with pytest.raises(ClientError):
            await stream.content.read()
    assert (await client.get("/orders", headers=bearer)).status == 401
    assert (await client.get("/none")).status == 404
    ended = [r for r in records.all if r.reason == "stream_session_ended"]
    assert len(ended) == 1
    assert [record.status for record in records.all if record not in ended] == [
        *(200, 401, 200, 200, 200, 200, 401, 404)
    ]
    assert client.app is not None
    assert client.app[GATEWAY].config.gateway.user_path == "/user"


async def test_one_gateway_at_a_time(
    table: Callable[..., web.Application],
    aiohttp_client: Callable[..., Awaitable[TestClient[Any, Any]]],
) -> None:
    """A second gateway, other settings, and a reset while one runs are refused.

    After a reset, the settings may be others.
    """
    client = await aiohttp_client(table())
    with pytest.raises(OneGateway, match="another gateway runs in this process"):
        await web.AppRunner(table()).setup()
    with pytest.raises(OneGateway, match="still runs"):
        aiohttp_app.reset()
    assert (await client.get("/open")).status == 200
    await client.close()
    other = ROUTES.replace("{emailpassword: {}}", "{emailpassword: {}, userroles: {}}")
    with pytest.raises(OneGateway, match="with other supertokens settings"):
        await web.AppRunner(table(other)).setup()
    again = await aiohttp_client(table())
    assert (await again.get("/open")).status == 200
    await again.close()
    aiohttp_app.reset()
    another = await aiohttp_client(table(other))
    assert (await another.get("/open")).status == 200


async def test_a_bad_file_is_an_error_at_once(
    table: Callable[..., web.Application],
) -> None:
    """`gateway_app` raises the file's problems, before anything starts."""
    with pytest.raises(settings.ConfigError) as caught:
        table("version: 1\nroutes: [{path: x}]\n")
    assert caught.value.problems


async def test_aiohttp_s_python_parser_is_refused(
    table: Callable[..., web.Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway doesn't start with it: the corpus is tested with llhttp only."""
    lax = http_parser.HttpRequestParserPy
    monkeypatch.setattr(http_parser, "HttpRequestParser", lax)
    with pytest.raises(aiohttp_app.NoStrictParser):
        await web.AppRunner(table()).setup()


# --- docs/embedding.md -------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "embedding.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """Return the blocks of *language* on the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def main_of(text: str) -> web.Application:
    """Return the application that the function `main` of the program *text* makes."""
    names: dict[str, Any] = {"__name__": "service"}
    exec(text, names)
    app = names["main"]()
    assert isinstance(app, web.Application)
    return app


async def test_the_page_s_programs_serve(
    aiohttp_client: Callable[..., Awaitable[TestClient[Any, Any]]],
    st_core: ThreadedCore,
    upstream: FaultUpstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The page's programs serve: the gateway alone, and beside other routes."""

    def write(text: str) -> None:
        (tmp_path / "routes.yaml").write_text(text, encoding="utf-8")

    alone, beside, _ = blocks("python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORE", st_core.url)
    monkeypatch.setenv("UPSTREAM", upstream.url)
    aiohttp_app.reset()
    write(ROUTES)
    client = await aiohttp_client(main_of(alone))
    assert (await client.get("/open")).status == 200
    await client.close()
    write(ROUTES.replace("path: /", "path: /api/"))
    client = await aiohttp_client(main_of(beside))
    assert await (await client.get("/health")).text() == "fine"
    assert (await client.get("/api/open")).status == 200
    assert (await client.get("/api/orders")).status == 401
    assert (await client.get("/open")).status == 404
    await client.close()
    aiohttp_app.reset()


def test_the_page_s_test_passes(tmp_path: Path) -> None:
    """The page's test passes in a directory with nothing but the page's files."""
    (table,) = blocks("yaml")
    (tmp_path / "routes.yaml").write_text(table, "utf-8")
    (tmp_path / "test_routes.py").write_text(blocks("python")[-1], "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_the_page_counts_the_cases() -> None:
    """The page states how many cases of the corpus aiohttp refuses."""
    refused, all_cases = len(REFUSED), len(CASES)
    assert f"{refused} of {all_cases} end this way" in " ".join(PAGE.split())
