"""edge. The pool of connections to one target, and the owner of all pools.

Each target has its own limit of connections, so a target that hangs doesn't delay
requests to other targets. A *place* is one connection of that limit, open or dialling.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterable
from time import perf_counter
from typing import Final

from gateway.config import TimeoutsConfig
from gateway.errors import (
    BadRequest,
    ConnectFailed,
    UpstreamBusy,
    UpstreamClosed,
)
from gateway.http.methods import SAFE_METHODS
from gateway.http.reply_head import ReplyHeadReader
from gateway.running import ensure_task
from gateway.upstream.address import UpstreamTarget
from gateway.upstream.connection import State, UpstreamConnection
from gateway.upstream.dial import DNS_TTL_S, Dialer, Lookup, Resolver
from gateway.upstream.events import Events, NoEvents
from gateway.upstream.reply import Reply

KEEPALIVE_S: Final = 30.0
"""How long an idle connection is kept. Most upstreams keep it longer (nginx 75 s), so
the gateway closes first. Those that keep it shorter (Node.js, 5 s) send Keep-Alive."""

_CLOSE_TIMEOUT_S: Final = 1.0
_IDLE = State.IDLE


class UpstreamPool:
    """At most `max_connections` connections to one target; the last used goes first."""

    def __init__(
        self,
        target: UpstreamTarget,
        *,
        heads: ReplyHeadReader,
        events: Events,
        resolver: Resolver,
        max_connections: int,
        keepalive_s: float,
    ) -> None:
        """Make a pool without connections; `exchange` dials them.

        Raises:
            ValueError: the target's `ca_file` can't be read.
        """
        self.target = target
        self.authority = target.authority
        """The default value of the Host field."""
        self.max_connections = max_connections
        self.keepalive_s = keepalive_s
        self.dialled = 0
        """Connections made since the start."""
        self.replayed = 0
        """Requests sent a second time (see the package's docstring)."""
        self._name = str(target)
        self._heads = heads
        self._events = events
        self._dialer = Dialer(target, resolver)
        self._is_named = self._dialer.is_named
        self._idle: list[UpstreamConnection] = []
        self._connections: set[UpstreamConnection] = set()
        self._places = 0
        self._waiters: deque[asyncio.Future[UpstreamConnection | None]] = deque()
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    @property
    def open(self) -> int:
        """The number of connections, including those being dialled."""
        return self._places

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """The number of connections in an exchange or being dialled."""
        return self._places - len(self._idle)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a place."""
        return len(self._waiters)

    # --- the exchange ---------------------------------------------------------

    async def exchange(
        self,
        head: bytes,
        method: str,
        timeouts: TimeoutsConfig,
        body: bytes | AsyncIterable[bytes] | None = None,
        content_length: int | None = None,
        upgrade: bool = False,
        replay: bool = True,
    ) -> Reply:
        """Send *head*, unchanged, and *body*; return the reply when its head is here.

        A *body* in bytes is sent in one write with the head. That is the cheapest way
        for a body that has already arrived. The body is framed by *content_length*, or
        chunked if that is None; *head* must agree. *upgrade*: a 101 is allowed.

        If the reply's head arrives before the whole body was sent, the rest is sent
        only if the status is 2xx.

        Raises:
            UpstreamBusy: no place became free within `timeouts.connect`.
            ConnectFailed: no connection was made (`ConnectTimeout`: not in time).
            UpstreamTimeout: the upstream didn't accept the request or reply in time.
            UpstreamClosed: the connection ended before the reply's head did.
            BadReply: the reply is malformed or ambiguous.
            BadRequest: the body's size isn't *content_length*.
            Exception: the one raised by reading *body*, unchanged.
        """
        once = body is not None or upgrade or not replay or method not in SAFE_METHODS
        if isinstance(body, bytes):
            head += _framed(body, content_length)
            body = None
        total_at = math.inf
        if timeouts.total is not None:
            total_at = asyncio.get_running_loop().time() + timeouts.total
        connect_s = 0.0
        connection = self._take()
        if connection is None:
            began = perf_counter()
            connection = await self._open(timeouts, total_at)
            connect_s = perf_counter() - began
        while True:
            wait = connection.send(
                head,
                method == "HEAD",
                body,
                content_length,
                timeouts,
                total_at,
                upgrade,
            )
            upload = connection.upload
            try:
                reply = await wait
                if connect_s:
                    reply.connect_ms = connect_s * 1000
                return reply
            except asyncio.CancelledError:
                connection.give_up(wait)
                raise
            except UpstreamClosed as exc:
                if once or connection.begun or not exc.reused:
                    raise
            finally:
                if upload is not None and upload.cancelling():
                    # Return only when the upload no longer reads the client's stream:
                    # the caller may read it next.
                    try:
                        await asyncio.wait((upload,), timeout=1.0)
                    except asyncio.CancelledError:
                        connection.give_up(wait)
                        raise
                # Their error references this frame: drop both to avoid a cycle.
                del wait, upload
            # This happens at most once: on a fresh connection, `reused` is False.
            began = perf_counter()
            connection = await self._open(timeouts, total_at, fresh=True)
            connect_s = perf_counter() - began
            self.replayed += 1
            self._events.replayed(self.target)

    # --- places and connections -----------------------------------------------

    def _take(self) -> UpstreamConnection | None:
        """Return the most recently used idle connection that is reusable, or None."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.state is not _IDLE:
                continue
            if not connection.is_reusable():
                connection.abort()
                continue
            return connection
        return None

    async def _open(
        self, timeouts: TimeoutsConfig, total_at: float, *, fresh: bool = False
    ) -> UpstreamConnection:
        """Return a new connection, or one that is released before a place is free.

        *fresh*: return a new one only.
        """
        if self._closed:
            raise UpstreamBusy(f"{self._name}: the pool is closed")
        await ensure_task()  # `asyncio.timeout` needs a task
        loop = asyncio.get_running_loop()
        deadline = min(loop.time() + timeouts.connect, total_at)
        while self._places >= self.max_connections:
            connection = await self._acquire(deadline)
            if connection is None:
                break  # a place, without a connection
            if not (fresh or connection.closed) and connection.is_reusable():
                return connection
            if connection in self._connections:
                # Close the connection and take over its place.
                self._connections.discard(connection)
                connection.abort()
                break
        else:
            self._places += 1
        began = loop.time()
        try:
            made = await self._dialer.dial(
                lambda: UpstreamConnection(self, self._name, self._heads, loop),
                deadline,
            )
        except BaseException as exc:
            self._free_place()
            self._events.connect_failed(self.target, exc)
            raise
        assert isinstance(made, UpstreamConnection)
        self.dialled += 1
        self._events.connected(self.target, loop.time() - began)
        if made.closed or self._closed:
            made.abort()
            self._free_place()
            raise ConnectFailed(f"{self._name}: closed as soon as it was made")
        self._connections.add(made)
        return made

    async def _acquire(self, deadline: float) -> UpstreamConnection | None:
        """Wait in turn; return a released connection, or None for a free place."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[UpstreamConnection | None] = loop.create_future()
        self._waiters.append(waiter)
        timer = loop.call_at(deadline, self._on_late, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                with contextlib.suppress(ValueError):  # already dequeued
                    self._waiters.remove(waiter)
            elif waiter.exception() is None:  # resolved before the cancellation
                connection = waiter.result()
                if connection is None:
                    self._free_place()
                elif not connection.closed:
                    self.release(connection)
            raise
        finally:
            timer.cancel()

    def _on_late(self, waiter: asyncio.Future[UpstreamConnection | None]) -> None:
        if not waiter.done():
            self._waiters.remove(waiter)
            limit = self.max_connections
            error = UpstreamBusy(f"{self._name}: all {limit} connections are in use")
            waiter.set_exception(error)

    def _free_place(self) -> None:
        if self._places <= self.max_connections:
            waiter = self._next_waiter()
            if waiter is not None:
                waiter.set_result(None)
                return
        self._places -= 1
        if self._emptied is not None and not self._places:
            self._emptied.set_result(None)

    def _next_waiter(self) -> asyncio.Future[UpstreamConnection | None] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    # --- the connections' side ------------------------------------------------

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection for reuse; close it if its name has moved."""
        if self._is_named and self._dialer.leads_away(connection.address):
            connection.abort()
        elif self._waiters and (waiter := self._next_waiter()) is not None:
            waiter.set_result(connection)
        else:
            self._idle.append(connection)

    def on_closed(self, connection: UpstreamConnection) -> None:
        """Remove a connection whose socket is closed, and free its place."""
        if connection in self._connections:
            self._connections.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._free_place()
            self._events.closed(self.target, connection.served)

    async def close(self) -> None:
        """Close every connection; exchanges and waiting requests fail. Idempotent.

        Returns when all are closed, or after 1 s.
        """
        self._closed = True
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(UpstreamBusy(f"{self._name}: the pool is closed"))
        for connection in tuple(self._connections):
            connection.abort()
        if self._places:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._emptied,), timeout=_CLOSE_TIMEOUT_S)


class Upstreams:
    """All pools of a worker, one per target; `app` makes it and closes it."""

    def __init__(
        self,
        heads: ReplyHeadReader | None = None,
        *,
        events: Events | None = None,
        keepalive_s: float = KEEPALIVE_S,
        dns_ttl_s: float = DNS_TTL_S,
        lookup: Lookup | None = None,
    ) -> None:
        """*heads* reads the replies' heads; by default, it keeps all fields.

        *lookup* replaces the system's resolver.
        """
        self._heads = heads or ReplyHeadReader()
        self._events = events or NoEvents()
        self._keepalive_s = keepalive_s
        self._resolver = Resolver(ttl_s=dns_ttl_s, lookup=lookup)
        self._pools: dict[UpstreamTarget, UpstreamPool] = {}

    def pool(
        self, target: UpstreamTarget, *, max_connections: int = 256
    ) -> UpstreamPool:
        """Return the pool of *target*, the same one each time, with the given limit.

        Call it at load only: it may read a CA bundle, which blocks.

        Raises:
            ValueError: the target's `ca_file` can't be read.
        """
        pool = self._pools.get(target)
        if pool is None:
            pool = self._pools[target] = UpstreamPool(
                target,
                heads=self._heads,
                events=self._events,
                resolver=self._resolver,
                max_connections=max_connections,
                keepalive_s=self._keepalive_s,
            )
        pool.max_connections = max_connections
        return pool

    @property
    def pools(self) -> tuple[UpstreamPool, ...]:
        """Every pool, for metrics."""
        return tuple(self._pools.values())

    async def close(self) -> None:
        """Close every connection of every pool, and cancel all look-ups."""
        await self._resolver.close()
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))


def _framed(body: bytes, content_length: int | None) -> bytes:
    if content_length is None:
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    if len(body) != content_length:
        raise BadRequest("the body's size is not its Content-Length")
    return body
