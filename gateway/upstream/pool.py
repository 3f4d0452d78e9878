"""edge. The pool of connections to one target.

Each target has its own limit of connections, so a target that hangs doesn't delay
requests to other targets. A *place* is one connection of that limit, open or dialling.
A connection whose exchange waits for its client has no place (see `places`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterable
from time import perf_counter
from typing import Final

from gateway.clients import Clients
from gateway.errors import (
    BadRequest,
    ConnectFailed,
    UpstreamBusy,
    UpstreamClosed,
)
from gateway.http.methods import SAFE_METHODS
from gateway.http.reply_head import ReplyHeadReader
from gateway.running import ensure_task
from gateway.timeouts import Timeouts
from gateway.upstream.address import UpstreamTarget
from gateway.upstream.connection import Client, State, UpstreamConnection
from gateway.upstream.dial import Dialer
from gateway.upstream.events import Events
from gateway.upstream.places import (
    RANKED,
    RANKED_S,
    ClientWait,
    PlaceLimits,
    slowest,
)
from gateway.upstream.reply import Reply

_SAME_S: Final = 0.2
"""Two times within which a service closed idle connections are taken for the same."""
_CLOSE_TIMEOUT_S: Final = 1.0
_IDLE = State.IDLE


class UpstreamPool:
    """The connections to one target, at most `max_connections` of them in use.

    The last used goes first. Connections whose exchanges wait for their clients come on
    top, up to `max_waiting`.
    """

    def __init__(
        self,
        target: UpstreamTarget,
        *,
        heads: ReplyHeadReader,
        events: Events,
        dialer: Dialer,
        limits: PlaceLimits,
        clients: Clients,
        keepalive_s: float,
    ) -> None:
        """Make a pool without connections; *dialer* makes them for `exchange`."""
        self.target = target
        self.authority = target.authority
        """The default value of the Host field."""
        self.limits = limits
        self._scarce_at = limits.scarce_at
        self.keepalive_s = keepalive_s
        self.dialled = 0
        """Connections made since the start."""
        self.replayed = 0
        """Requests sent a second time (see the package's docstring)."""
        self.cut = 0
        """Exchanges ended because their clients were the slowest."""
        self._clients = clients
        self.name = str(target)
        """The target's URL, for people."""
        self._heads = heads
        self._events = events
        self.dialer = dialer
        self._may_leave = dialer.is_named
        """Whether a connection can be one to close after its exchange."""
        self._is_retired = False
        self._idle: list[UpstreamConnection] = []
        self._connections: set[UpstreamConnection] = set()
        self._places = 0
        """Connections, those without a place included."""
        self._on_clients: dict[UpstreamConnection, None] = {}
        """Connections whose exchanges wait for their clients."""
        self._to_cut: list[tuple[UpstreamConnection, int]] = []
        """Exchanges with slow clients, the next one to be cut last (`slowest`): the
        connection, and its `served`, since it may have another exchange by then."""
        self._ranked_at = -math.inf
        self._kept_s = -math.inf
        """How long the service kept the last connection that it closed, idle."""
        self._dialling: list[str | None] = []
        """The keys of the clients for whom a connection is being made."""
        self._waiters: deque[asyncio.Future[UpstreamConnection | None]] = deque()
        self._over_share: deque[asyncio.Future[UpstreamConnection | None]] = deque()
        """Requests of clients that have their share: they come after all others."""
        self._is_serving_soon = False
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    def set_limits(self, limits: PlaceLimits) -> None:
        """Replace the limits. Exchanges above new ones go on to their end."""
        self.limits = limits
        self._scarce_at = limits.scarce_at
        if self._waiters or self._over_share:
            self._serve_waiters()

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
    def in_progress(self) -> int:
        """The number of exchanges that count against `max_connections`."""
        return self._places - len(self._idle) - len(self._on_clients)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a place."""
        return len(self._waiters) + len(self._over_share)

    @property
    def on_clients(self) -> int:
        """The number of exchanges that wait for their clients."""
        return len(self._on_clients)

    # --- the exchange ---------------------------------------------------------

    async def exchange(
        self,
        head: bytes,
        method: str,
        timeouts: Timeouts,
        body: bytes | AsyncIterable[bytes] | None = None,
        content_length: int | None = None,
        upgrade: bool = False,
        replay: bool = True,
        client: Client | None = None,
    ) -> Reply:
        """Send *head*, unchanged, and *body*; return the reply when its head is here.

        A *body* in bytes is sent in one write with the head. That is the cheapest way
        for a body that has already arrived. The body is framed by *content_length*, or
        chunked if that is None; *head* must agree. *upgrade*: a 101 is allowed.
        *client* is whose exchange it is: a client has a share of the places, and the
        slowest one may be cut.

        If the reply's head arrives before the whole body was sent, the rest is sent
        only if the status is 2xx.

        Raises:
            UpstreamBusy: no place became free within `timeouts.connect`.
            ClientSlow: this exchange was the slowest, and others needed its place.
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
        is_over_share, connection = False, None
        if self._places < self._scarce_at or self.in_progress < self._scarce_at:
            connection = self._take()
        else:
            is_over_share = self._is_over_share(client)
            if self._may_begin(is_over_share):
                connection = self._take()
        if connection is None:
            began = perf_counter()
            connection = await self._open(
                timeouts, total_at, client, is_over_share=is_over_share
            )
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
                client,
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
            connection = await self._open(timeouts, total_at, client, fresh=True)
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

    def _is_over_share(self, client: Client | None) -> bool:
        """Return whether *client* has its share of the places already."""
        key = None if client is None else self._clients.key(client.client_address)
        if key is None:
            return False
        held = self._dialling.count(key)
        for connection in self._connections:
            other = connection.client
            if (
                other is not None
                and not connection.waits_for
                and self._clients.key(other.client_address) == key
            ):
                held += 1
        return self.limits.is_over_share(held, self.limits.max_connections)

    async def _open(
        self,
        timeouts: Timeouts,
        total_at: float,
        client: Client | None,
        *,
        fresh: bool = False,
        is_over_share: bool = False,
    ) -> UpstreamConnection:
        """Return a new connection, or one that is released before a place is free.

        *fresh*: return a new one only. *is_over_share*: wait until enough places are
        free, behind all clients below their share.
        """
        await ensure_task()  # `asyncio.timeout` needs a task
        if self._closed:
            raise UpstreamBusy(f"{self.name}: the pool is closed")
        loop = asyncio.get_running_loop()
        deadline = min(loop.time() + timeouts.connect, total_at)
        while True:
            # Others may have released connections since `exchange` looked for one.
            if self._may_begin(is_over_share):
                if not fresh and (connection := self._take()) is not None:
                    return connection
                if self._has_place():
                    self._places += 1
                    break
                if self._idle:
                    self._take_over(self._idle.pop())
                    break
            connection = await self._acquire(deadline, is_over_share)
            if connection is None:
                break  # a place, without a connection
            if not (fresh or connection.closed) and connection.is_reusable():
                return connection
            if connection in self._connections:
                self._take_over(connection)
                break
        began = loop.time()
        key = None if client is None else self._clients.key(client.client_address)
        self._dialling.append(key)
        try:
            made = await self.dialer.dial(
                lambda: UpstreamConnection(self, self.name, self._heads, loop),
                deadline,
            )
        except BaseException as exc:
            self._free_place()
            self._events.connect_failed(self.target, exc)
            raise
        finally:
            self._dialling.remove(key)
        assert isinstance(made, UpstreamConnection)
        self.dialled += 1
        self._events.connected(self.target, loop.time() - began)
        if made.closed or self._closed:
            made.abort()
            self._free_place()
            raise ConnectFailed(f"{self.name}: closed as soon as it was made")
        self._connections.add(made)
        return made

    def _take_over(self, connection: UpstreamConnection) -> None:
        """Close *connection*; its place is the caller's now."""
        self._connections.discard(connection)
        connection.abort()

    async def _acquire(
        self, deadline: float, is_over_share: bool
    ) -> UpstreamConnection | None:
        """Wait in turn; return a released connection, or None for a free place."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[UpstreamConnection | None] = loop.create_future()
        queue = self._over_share if is_over_share else self._waiters
        queue.append(waiter)
        timer = loop.call_at(deadline, self._on_late, waiter, queue)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                with contextlib.suppress(ValueError):  # already dequeued
                    queue.remove(waiter)
            elif waiter.exception() is None:  # resolved before the cancellation
                connection = waiter.result()
                if connection is None:
                    self._free_place()
                elif not connection.closed:
                    self.release(connection)
            raise
        finally:
            timer.cancel()

    def _on_late(
        self,
        waiter: asyncio.Future[UpstreamConnection | None],
        queue: deque[asyncio.Future[UpstreamConnection | None]],
    ) -> None:
        if not waiter.done():
            queue.remove(waiter)
            limit = self.limits.max_connections
            if queue is self._over_share:
                what = (
                    f"few of {limit} connections are left, and this client has its"
                    f" share (gateway.limits.per_client.share)"
                )
            else:
                what = f"all {limit} connections are in use"
            waiter.set_exception(UpstreamBusy(f"{self.name}: {what}"))

    def _may_begin(self, is_over_share: bool) -> bool:
        """Return whether one more exchange may begin, of a client *is_over_share*."""
        if is_over_share:
            return self.in_progress < self._scarce_at
        return self.in_progress < self.limits.max_connections

    def _has_place(self) -> bool:
        """Return whether one more connection may be made."""
        return self._places - len(self._on_clients) < self.limits.max_connections

    def _is_over_limit(self) -> bool:
        """Return whether clients have ended their waits while no place was free."""
        return self._places - len(self._on_clients) > self.limits.max_connections

    def _free_place(self) -> None:
        self._places -= 1
        if self._waiters or self._over_share:
            self._serve_waiters()
        if self._emptied is not None and not self._places:
            self._emptied.set_result(None)

    def _serve_waiters(self) -> None:
        """Give idle connections, and then free places, to requests that wait."""
        self._is_serving_soon = False
        while (queue := self._next_in_turn()) is not None:
            connection = self._take()
            if connection is None:
                if not self._has_place():
                    return  # a connection is being closed: `on_closed` goes on
                self._places += 1
            queue.popleft().set_result(connection)

    def _next_in_turn(
        self,
    ) -> deque[asyncio.Future[UpstreamConnection | None]] | None:
        """Return the queue whose first request may begin, or None."""
        for queue in (self._waiters, self._over_share):
            while queue and queue[0].done():  # cancelled
                del queue[0]
            if queue:
                is_over_share = queue is self._over_share
                return queue if self._may_begin(is_over_share) else None
        return None

    # --- exchanges that wait for their clients --------------------------------

    def on_wait(self, connection: UpstreamConnection) -> None:
        """Give a connection's place back: its exchange waits for its client."""
        self._on_clients[connection] = None
        if len(self._on_clients) > self.limits.max_waiting:
            self._cut_slowest()
        elif self.waiting and not self._is_serving_soon:
            # Later, because a fast client may not keep it waiting.
            self._is_serving_soon = True
            asyncio.get_running_loop().call_soon(self._serve_waiters)

    def on_wait_end(self, connection: UpstreamConnection) -> None:
        """Count a connection again, even above `max_connections`."""
        self._on_clients.pop(connection, None)

    def _cut_slowest(self) -> None:
        """End the exchange with the slowest client."""
        now = asyncio.get_running_loop().time()
        if now > self._ranked_at + RANKED_S:
            self._to_cut.clear()
        while True:
            if not self._to_cut:
                self._to_cut = self._ranked(now)
            connection, served = self._to_cut.pop()
            if connection in self._on_clients and connection.served == served:
                break
        self.cut += 1
        connection.cut()

    def _ranked(self, now: float) -> list[tuple[UpstreamConnection, int]]:
        """Return some of the exchanges that wait for slow clients, the slowest last."""
        self._ranked_at = now
        connections = tuple(self._on_clients)
        waits = [self._client_wait(connection, now) for connection in connections]
        most = 1 + self.limits.max_waiting // RANKED
        ranked = slowest(waits, self.limits, most)
        slow = (connections[index] for index in reversed(ranked))
        return [(connection, connection.served) for connection in slow]

    def _client_wait(self, connection: UpstreamConnection, now: float) -> ClientWait:
        client, waited_s = connection.client, connection.waited_s(now)
        if client is None:
            return ClientWait(None, 0, waited_s)
        return ClientWait(
            self._clients.key(client.client_address),
            client.bytes_in + client.bytes_out,
            waited_s,
        )

    # --- the connections' side ------------------------------------------------

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection for reuse.

        It is closed if its name has moved, or if more connections are open than may be.
        """
        if self._may_leave and (
            self._is_retired or self.dialer.leads_away(connection.address)
        ):
            connection.abort()
        elif self._places > self.limits.max_connections and self._is_over_limit():
            self.on_closed(connection)  # at once: the next one may stay
            connection.abort()
        else:
            self._idle.append(connection)
            if self._waiters or self._over_share:
                self._serve_waiters()

    def retire(self) -> None:
        """Close connections as soon as they are idle: the target gets no requests."""
        self._is_retired = self._may_leave = True
        self.drop_idle()

    def drop_idle(self) -> None:
        """Close the idle connections."""
        for connection in tuple(self._idle):
            connection.abort()

    def on_idle_end(self, idle_s: float) -> None:
        """Note that the service closed a connection that was idle for *idle_s*.

        A service that does so after the same time twice in a row has that keep-alive
        time, and the gateway closes earlier from now on. One that is restarted closes
        connections of all ages.
        """
        is_same = abs(idle_s - self._kept_s) <= _SAME_S
        self._kept_s = idle_s
        if is_same:
            self.keepalive_s = min(self.keepalive_s, max(idle_s - 1.0, idle_s / 2))

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
        for waiter in (*self._waiters, *self._over_share):
            if not waiter.done():
                error = UpstreamBusy(f"{self.name}: the pool is closed")
                waiter.set_exception(error)
        self._waiters.clear()
        self._over_share.clear()
        for connection in tuple(self._connections):
            connection.abort()
        if self._places:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._emptied,), timeout=_CLOSE_TIMEOUT_S)


def _framed(body: bytes, content_length: int | None) -> bytes:
    if content_length is None:
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    if len(body) != content_length:
        raise BadRequest("the body's size is not its Content-Length")
    return body
