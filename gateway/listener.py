"""edge. The clients' connections: heads read, requests served one after the other.

A deadline for the head and a limit for all of it; errors with their right status,
without an echo of what was received and without a traceback; an end for clients that
take nothing of their answer; a limit for how many there are.

A client that closes its sending side (FIN) is gone, whether or not it still reads:
the two look the same, and a request must end when its client does. nginx does so too.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import ClassVar, Protocol, cast

from gateway import answers, heads
from gateway.client import BODY_BYTES, Body, Client
from gateway.config import Limits
from gateway.errors import GatewayError, RequestTimeout, ShuttingDown
from gateway.heads import HeadTooLarge, RequestHead
from gateway.observe import Observer, Record

Handler = Callable[[Client], Awaitable[None]]
"""Serves one request. When it returns, the answer is on the wire."""

_SWEEP_S = 0.5
"""How often all connections are looked at: by so much a deadline may be late."""

_MOST_WAITING = 32
"""Requests of one client that are served in a row before it is others' turn."""

_UNREAD_BYTES = 32 * 1024
"""The connection isn't read while more than this much waits for its turn. What is read
at once comes on top of it: with uvloop up to 250 KiB."""

_CUT_S = 1.0
"""How long requests that were cut may take to say so."""


class Tunnel(Protocol):
    """What takes a connection's bytes after an upgrade (`websocket`)."""

    def feed_data(self, data: bytes) -> None: ...
    def feed_eof(self) -> None: ...


class Connection(asyncio.Protocol):
    """One client connection: its requests read, and served one after the other.

    What comes while a request is served waits as it came, so that whoever serves it may
    still turn the connection into a tunnel. Then the next head is read.
    """

    __slots__ = (
        "_at",
        "_drained",
        "_ending",
        "_head",
        "_head_bytes",
        "_head_since",
        "_listener",
        "_loop",
        "_reading",
        "_rests_since",
        "_stuck_since",
        "_task",
        "_tunnel",
        "_unread",
        "_unwritten",
        "address",
        "body",
        "secure",
        "transport",
        "writing_paused",
    )

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listener = listener
        self.transport: asyncio.Transport | None = None
        """None before the connection is made and after it is lost."""
        self.address = "unix"
        """The connected peer's IP address; `unix` for a Unix socket."""
        self.secure = False
        """The connection to this gateway is TLS."""
        self.body: Body | None = None
        """Of the request that is served."""
        self.writing_paused = False
        """The client has much to take before more should be written."""
        self._drained: asyncio.Future[None] | None = None
        """Done when that is over; there is none while nobody waits for it."""
        self._task: asyncio.Task[None] | None = None
        """Serves what has arrived; there is none while nothing has."""
        self._head: RequestHead | None = None
        """Of a request that was read and whose turn hasn't come."""
        self._unread = b""
        """What came and wasn't read, from `_at` on."""
        self._at = 0
        self._reading = True
        self._tunnel: Tunnel | None = None
        self._ending = False
        self._rests_since = 0.0
        self._head_since = 0.0
        """When the first byte came of a head that isn't whole; 0: there is none."""
        self._head_bytes = 0
        """The bytes of empty lines before it."""
        self._unwritten = 0
        self._stuck_since = 0.0

    # --- asyncio.Protocol -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance: uvloop's transports have asyncio's methods, not its bases.
        wire = cast("asyncio.Transport", transport)
        if not self._listener.admit(self):
            self._ending = True
            wire.abort()
            return
        peer = wire.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address = sys.intern(str(peer[0]))
        self.secure = wire.get_extra_info("sslcontext") is not None
        self.transport = wire
        sock = wire.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._rests_since = self._loop.time()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whoever serves a request that its client is gone."""
        self._listener.forget(self)
        self._ending = True
        self.transport = None
        self.body = None  # it knows this connection: no ring is left
        self._head = None
        self._unread = b""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_exception(ConnectionResetError())
        if self._task is not None:
            self._task.cancel()
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.feed_eof()

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.feed_data(data)
            return
        if self._ending:
            return
        body = self.body
        if body is not None and not body.complete:
            data = body.feed(data)
        if self._task is not None:
            if data:
                self._unread = self._unread[self._at :] + data
                self._at = 0
            self._settle_reading()
            return
        # Nothing is served, and a head that has begun stands at the beginning.
        known = len(self._unread)
        self._unread = self._unread + data if known else data
        try:
            if self._next(known):
                self._task = self._loop.create_task(self._serve())
                self._settle_reading()
        except GatewayError as error:
            self.refuse(error)

    def eof_received(self) -> bool:
        """A FIN ends the connection, but a tunnel passes it on first."""
        if self._tunnel is None:
            return False
        self._tunnel.feed_eof()
        return True

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self._stuck_since = 0.0  # the client has taken something
        self.writing_paused = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # --- one request after the other ------------------------------------------

    def _next(self, known: int) -> bool:
        """Read the next head, and what is there of its body; False if it isn't whole.

        The first *known* bytes were looked at before.

        Raises:
            GatewayError: it is no sound head (`heads.read`, `heads.check_begun`).
        """
        data, at = self._unread, self._at
        # RFC 9112 §2.2: empty lines before a request are skipped.
        while data.startswith(b"\r\n", at):
            at += 2
            self._head_bytes += 2
        end = data.find(b"\r\n\r\n", max(at, known - 3)) + 4
        if end >= 4:
            self._head = head = heads.read(
                data[at:end] if at or end < len(data) else data, self._listener.bounds
            )
            self._head_since = 0.0
            self._head_bytes = 0
            self.body = body = Body(head, self._settle_reading)
            if end == len(data):
                self._unread, self._at = b"", 0
            elif body.complete:
                self._at = end
            else:
                self._unread, self._at = body.feed(data[end:]), 0
            return True
        self._at = 0
        if at:
            self._unread = data = data[at:]
            known = max(0, known - at)
        heads.check_begun(data, known, self._listener.bounds)
        if self._head_bytes + len(data) > self._listener.bounds.head:
            raise HeadTooLarge("empty lines before the request")
        if not self._head_since and (data or at):
            self._head_since = self._loop.time()
        return False

    async def _serve(self) -> None:
        """Serve what has arrived, and what comes meanwhile.

        The handlers write their answers, take the rest of a body and end in no error.
        """
        handler, limits = self._listener.handler, self._listener.limits
        served = 0
        try:
            while not self._ending:
                head, self._head = self._head, None
                body = self.body
                assert head is not None
                assert body is not None
                client = Client(self, head, body, limits)
                del head
                await handler(client)
                if not (client.keep_alive and body.complete):
                    self.end()
                    return
                del client, body  # what was served isn't kept while nothing comes
                self.body = None
                served += 1
                if served % _MOST_WAITING == 0:
                    await asyncio.sleep(0)
                if self._at == len(self._unread):
                    return
                try:
                    if not self._next(0):
                        if not self._unread:  # empty lines behind a request
                            self._head_since = 0.0
                            self._head_bytes = 0
                        return
                except GatewayError as error:
                    self.refuse(error)
                    return
                self._settle_reading()
        except BaseException:
            self.end()
            raise
        finally:
            self._task = None
            self.body = None
            if self._at == len(self._unread):
                self._unread, self._at = b"", 0
            self._rests_since = self._loop.time()
            self._settle_reading()

    def _settle_reading(self) -> None:
        """Read the connection if there is room for what comes, else don't."""
        body = self.body
        has_room = len(self._unread) - self._at <= _UNREAD_BYTES and (
            body is None or body.size <= BODY_BYTES
        )
        if has_room == self._reading or self._tunnel is not None:
            return
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._reading = has_room
        if has_room:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def refuse(self, error: GatewayError) -> None:
        """Answer a head that never became a request, and close."""
        self._head_since = 0.0
        transport = self.transport
        if transport is None or self._ending:
            return
        answer = self._listener.refused(error, self.address)
        fields = [
            *answer.fields,
            (b"Content-Length", b"%d" % len(answer.body)),
            (b"Connection", b"close"),
        ]
        transport.write(answers.head(answer.status, None, fields) + answer.body)
        self.end()

    # --- for whoever answers --------------------------------------------------

    async def drained(self) -> None:
        """Return when the client has taken enough of what was written.

        Raises:
            ConnectionError: it is gone.
        """
        if self.transport is None:
            raise ConnectionResetError
        if not self.writing_paused:
            return
        drained = self._drained
        if drained is None or drained.done():  # whoever waited was cancelled
            drained = self._drained = self._loop.create_future()
        await drained

    def hand_over(self, tunnel: Tunnel) -> None:
        """Give everything that comes from now on, HTTP no more, to *tunnel*."""
        rest = self._unread[self._at :]
        self._unread, self._at = b"", 0
        self._settle_reading()
        self._tunnel = tunnel
        if rest:
            tunnel.feed_data(rest)  # last: it may pause reading itself

    # --- for the listener -----------------------------------------------------

    def look(self, now: float) -> None:
        """End the connection if its head, its rest or its client is too slow."""
        limits = self._listener.limits
        if self._head_since:
            if now - self._head_since > limits.head_timeout:
                self.refuse(RequestTimeout("the head didn't arrive in time"))
        elif self._task is None and now - self._rests_since > limits.keep_alive:
            self.end()
        assert self.transport is not None
        unwritten = self.transport.get_write_buffer_size()
        if not unwritten:
            self._stuck_since = 0.0
        elif not self._stuck_since or unwritten != self._unwritten:
            self._unwritten = unwritten
            self._stuck_since = now
        elif now - self._stuck_since > limits.write_idle_timeout:
            # Whoever serves it is told by `connection_lost`.
            self.transport.abort()

    def leave(self) -> None:
        """Close if no request is being served, and none is on its way."""
        if self._task is None and not self._head_since:
            self.end()

    def cut(self) -> None:
        """Cancel the request that is being served; whoever serves it closes."""
        if self._task is None:
            return
        if self._head is not None:
            # Before its first step: then nothing of it runs.
            self.refuse(ShuttingDown())
        self._task.cancel()

    def end(self) -> None:
        """Close as soon as everything is sent; nothing is read any more."""
        self._ending = True
        if self.transport is not None:
            self.transport.close()


class Listener:
    """Makes connections for a server socket and watches over their heads.

    Used as the protocol factory of `loop.create_server`.
    """

    connection_class: ClassVar[type[Connection]] = Connection

    def __init__(
        self,
        handler: Handler,
        *,
        limits: Limits,
        observer: Observer,
        make_id: Callable[[], str],
    ) -> None:
        self.limits = limits
        self.bounds = heads.Bounds(
            target=limits.max_target_size,
            field=limits.max_field_size,
            head=limits.max_head_size,
            fields=limits.max_fields,
        )
        self._observer = observer
        self._make_id = make_id
        self._loop = asyncio.get_running_loop()
        self._open: set[Connection] = set()
        self._leaving = False
        self._emptied: asyncio.Future[None] | None = None
        self.handler = handler
        self._sweep = self._loop.call_later(_SWEEP_S, self._look)

    def __call__(self) -> Connection:
        return self.connection_class(self, self._loop)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._open)

    def admit(self, connection: Connection) -> bool:
        """Return whether there is room for one more client."""
        if len(self._open) >= self.limits.max_connections:
            return False
        self._open.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        """Give up the place of a connection that is lost, or was never admitted."""
        self._open.discard(connection)
        emptied = self._emptied
        if emptied is not None and not self._open and not emptied.done():
            emptied.set_result(None)

    def refused(self, error: GatewayError, client: str) -> answers.Answer:
        """Record a request that never was one; return its answer."""
        request_id = self._make_id()
        self._observer.observe(
            Record(
                started=time.perf_counter(),
                client=client,
                request_id=request_id,
                status=error.status,
                side=error.side,
                reason=error.code,
                note=error.detail,
            )
        )
        answer = answers.failure(error, request_id)
        shown = (b"X-Request-Id", request_id.encode())
        return replace(answer, fields=(*answer.fields, shown))

    async def close(self, timeout_s: float) -> None:
        """Let requests in flight finish within *timeout_s* seconds, then cut them.

        The sockets must not accept any more when this is called, and whoever answers
        must end each connection with its answer.
        """
        self._leaving = True
        for connection in tuple(self._open):
            connection.leave()
        await self._empty(timeout_s)
        for connection in tuple(self._open):
            connection.cut()
        await self._empty(_CUT_S)
        self._sweep.cancel()
        for connection in tuple(self._open):
            connection.end()

    async def _empty(self, timeout_s: float) -> None:
        """Return when no client is connected any more, or when the time is over."""
        if self._open:
            self._emptied = self._loop.create_future()
            await asyncio.wait((self._emptied,), timeout=timeout_s)

    def _look(self) -> None:
        # First, so that no deadline is lost with a look that fails.
        self._sweep = self._loop.call_later(_SWEEP_S, self._look)
        now = self._loop.time()
        for connection in tuple(self._open):
            connection.look(now)
            if self._leaving:
                connection.leave()
