"""Surplus bytes of a service that are unread when its connection is used again."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from faults import until
from gateway_under_test import gateway
from wire import Wire, connect, request

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
