"""Surplus bytes of a service: behind a reply, and before the next request."""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from compiled import timeouts_of
from faults import CHUNKED_HEAD, OK, FaultUpstream, answer, until
from gateway_under_test import gateway
from wire import Wire, connect, request

from gateway.http.reply_head import ReplyHeadReader
from gateway.upstream.connection import UpstreamConnection

METHODS = ["GET", "HEAD", "OPTIONS", "POST"]
FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
"""A reply that a service sends without a request."""


class Service:
    """A service that answers one request per connection; the test may write to it."""

    def __init__(self, accepting: socket.socket, method: str) -> None:
        self.url = f"http://127.0.0.1:{accepting.getsockname()[1]}"
        self._accepting = accepting
        self._method = method
        self._open: list[socket.socket] = []

    async def take(self) -> Callable[[], Awaitable[socket.socket]]:
        """Take the next connection and a request; return what answers that."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(5):  # none comes if an open one was used again
            connection, _ = await loop.sock_accept(self._accepting)
            self._open.append(connection)
            await loop.sock_recv(connection, 65536)

        async def answer() -> socket.socket:
            body = b"" if self._method == "HEAD" else b"ok"
            head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
            await loop.sock_sendall(connection, head + body)
            return connection

        return answer

    def close(self) -> None:
        for connection in self._open:
            connection.close()


@pytest.fixture
def service(method: str) -> Iterator[Service]:
    with socket.create_server(("127.0.0.1", 0)) as accepting:
        accepting.setblocking(False)
        service = Service(accepting, method)
        yield service
        service.close()


async def is_own(wire: Wire, method: str) -> bool:
    """Return whether the reply is the one that `Service` gives."""
    reply = await wire.reply(method)
    return (reply.one("Content-Length"), reply.body) == (
        "2",
        b"" if method == "HEAD" else b"ok",
    )


@pytest.mark.parametrize("method", METHODS)
async def test_surplus_on_an_idle_connection_is_no_reply(
    method: str, service: Service
) -> None:
    """Surplus bytes, unread on an idle connection, aren't the next request's reply."""
    async with (
        gateway(service.url) as gw,
        connect(gw.port) as ann,
        connect(gw.port) as bob,
    ):
        gw.verifier.at_once = True  # from the head to the service without a pause
        first = asyncio.create_task(service.take())
        await ann.send(request(method, "/ann"))
        connection = await (await first)()
        assert await is_own(ann, method)
        await until(lambda: gw.pools[0].idle == 1)
        # The loop doesn't run while both arrive, as when it is busy. It will read them
        # in this order.
        client = bob.writer.get_extra_info("socket").fileno()
        os.write(client, request(method, "/bob"))
        connection.send(FORGED)
        await (await service.take())()
        assert await is_own(bob, method)


@pytest.mark.parametrize("method", METHODS)
async def test_surplus_is_no_reply_to_a_request_that_waited(
    method: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Surplus bytes aren't the reply to a request that waited for the connection."""
    async with (
        gateway(service.url, service={"max_connections": 1}) as gw,
        connect(gw.port) as ann,
        connect(gw.port) as bob,
    ):
        pool = gw.pools[0]
        first = asyncio.create_task(service.take())
        await ann.send(request(method, "/ann"))
        answer = await first
        await bob.send(request(method, "/bob"))
        await until(lambda: pool.waiting == 1)
        release = pool.release
        sent: list[int] = []

        def put_back(connection: Any) -> None:
            """Release it; surplus arrives before the waiting request has run."""
            release(connection)
            if not sent:
                sent.append(connections[0].send(FORGED))

        connections = service._open
        # Connections call the pool as their owner.
        for each in pool._connections:
            monkeypatch.setattr(each, "_owner", _Owner(pool, put_back))
        await answer()
        assert await is_own(ann, method)
        await (await service.take())()
        assert await is_own(bob, method)
        assert sent


class _Owner:
    """The pool with another `release`."""

    def __init__(self, pool: object, release: Callable[[object], None]) -> None:
        self._pool = pool
        self.release = release

    def __getattr__(self, name: str) -> object:
        return getattr(self._pool, name)


# --- surplus behind a whole reply -----------------------------------------------

WHOLE: dict[str, tuple[str, bytes, bytes]] = {
    "length": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "empty": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "chunked": ("GET", CHUNKED_HEAD + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok"),
    "trailer": ("GET", CHUNKED_HEAD + b"2\r\nok\r\n0\r\nA: b\r\n\r\n", b"ok"),
    "HEAD": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b""),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "304": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", b""),
    "interim": ("GET", b"HTTP/1.1 103 Early\r\nA: b\r\n\r\n" + OK, b"ok"),
    "HTTP/1.0": (
        "GET",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        b"ok",
    ),
}
"""Replies with an end of their own: method, bytes, body."""

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n"
SURPLUS: dict[str, bytes] = {
    "upgrade": SWITCHING + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00",
    "upgrade to h2c": SWITCHING + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\nPRI * ",
    "upgrade in a request": b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n"
    b"Connection: Upgrade\r\n\r\n",
    "200 with Upgrade": b"HTTP/1.1 200 OK\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "another reply": FORGED,
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n",
    "chunk": b"2\r\nok\r\n0\r\n\r\n",
    "empty line": b"\r\n",
    "bare LF": b"\n",
    "NUL": b"\0",
    "TLS": b"\x15\x03\x03\x00\x02\x02\x28",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
}
"""What may follow; a parser that goes on would take some of these for an upgrade."""


class _Taken:
    """An owner without a pool: it keeps what the connection reports."""

    keepalive_s = 30.0

    def __init__(self) -> None:
        self.released = 0

    def release(self, _: UpstreamConnection) -> None:
        self.released += 1

    def on_wait(self, _: UpstreamConnection) -> None:
        pass

    on_wait_end = on_closed = on_wait

    def on_idle_end(self, idle_s: float) -> None:
        pass


class _Transport(asyncio.Transport):
    """Sends nothing; remembers that it was aborted."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock})
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        self.is_aborted = True


def _cuts(size: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to cut *size* bytes in two, and all single bytes."""
    yield ()
    for place in range(1, size):
        yield (place,)
    yield tuple(range(1, size))


@pytest.mark.parametrize("upgrade", [False, True], ids=["plain", "upgrading"])
@pytest.mark.parametrize("reply", WHOLE)
async def test_a_whole_reply_is_delivered_whatever_follows_it(
    reply: str, upgrade: bool
) -> None:
    """In every split: the reply is whole, and its connection is used no more.

    A parser of a library went on behind the reply's end, raised at an upgrade there,
    and a whole 200 became a 502.
    """
    method, whole, body = WHOLE[reply]
    heads, timeouts = ReplyHeadReader(), timeouts_of()
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        for data, cut in (
            (whole + more, cut)
            for more in SURPLUS.values()
            for cut in _cuts(len(whole + more))
        ):
            owner = _Taken()
            transport = _Transport(sock)
            connection = UpstreamConnection(owner, "up", heads, loop)
            connection.connection_made(transport)
            waiting = connection.send(
                b"", method == "HEAD", None, None, timeouts, math.inf, upgrade
            )
            edges = (0, *cut, len(data))
            for begin, end in pairwise(edges):
                connection.data_received(data[begin:end])
            taken = await waiting
            read = b""
            while piece := await taken.read():
                read += piece
            assert (taken.complete, read) == (True, body), cut
            assert connection.closed, cut
            assert transport.is_aborted, cut
            # Released only if no surplus had come by then.
            assert owner.released == (len(whole) in cut), cut
            connection.connection_lost(None)


@pytest.mark.parametrize("more", SURPLUS)
async def test_the_client_gets_the_whole_reply(more: str) -> None:
    """On real sockets: 200, and the next request takes another connection."""
    async with (
        FaultUpstream(answer(OK + SURPLUS[more])) as upstream,
        gateway(upstream.url) as gw,
        connect(gw.port) as ann,
    ):
        for number in (1, 2):
            await ann.send(request("GET", "/"))
            reply = await ann.reply()
            assert (reply.status, reply.body) == (200, b"ok")
            assert upstream.connections == number
