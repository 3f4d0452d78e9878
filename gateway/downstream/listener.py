"""edge. The clients' connections: heads read, requests served one after the other.

A deadline for the head and a limit for all of it; errors with their right status,
without an echo of what was received and without a traceback; an end for clients that
take nothing of their answer; a limit for how many there are.

A client that closes its sending side (FIN) is gone, whether or not it still reads:
the two look the same, and a request must end when its client does. nginx does so too.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, ClassVar, Protocol, cast

from gateway import responses
from gateway.config import LimitsConfig
from gateway.downstream.exchange import BODY_BYTES, NO_BODY, Body, Exchange
from gateway.errors import GatewayError, RequestTimeout
from gateway.http.fields import block
from gateway.http.request_head import (
    HeadTooLarge,
    RequestHead,
    RequestReader,
    check_begun,
)
from gateway.observe import Observer, Record
from gateway.pace import Pace
from gateway.running import Runner, Wait

_log = logging.getLogger("gateway")

Handler = Callable[[Exchange], Coroutine[Any, Any, None]]
"""Serves one request. When it returns, the answer is on the wire."""

_MOST_WAITING = 32
"""Requests of one client that are served in a row before it is others' turn."""

_UNREAD_BYTES = 32 * 1024
"""The connection isn't read while more than this much waits for its turn. What is read
at once comes on top of it: with uvloop up to 250 KiB."""


class TunnelFeed(Protocol):
    """What takes a connection's bytes after an upgrade (`websocket`)."""

    def feed_data(self, data: bytes) -> None: ...
    def feed_eof(self) -> None: ...


class ClientConnection(Runner, asyncio.Protocol):
    """One client connection: its requests read, and served one after the other.

    What comes while a request is served waits as it came, so that whoever serves it may
    still turn the connection into a tunnel. Then the next head is read.
    """

    __slots__ = (
        "_at",
        "_client",
        "_drained",
        "_ending",
        "_head_bytes",
        "_head_since",
        "_is_busy",
        "_is_reading",
        "_is_serving",
        "_listener",
        "_rests_since",
        "_served",
        "_stuck_since",
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
        super().__init__(loop)
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
        self._drained: Wait[None] | None = None
        """Ends when that is over; there is none while nobody waits for it."""
        self._is_busy = False
        """A request is served, or waits for its turn."""
        self._is_serving = False
        """`_serve` runs."""
        self._client: Exchange | None = None
        """Of the request that is served."""
        self._served = 0
        """Requests that were served since the loop had a turn."""
        self._unread = b""
        """What came and wasn't read, from `_at` on."""
        self._at = 0
        self._is_reading = True
        self._tunnel: TunnelFeed | None = None
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
        self._unread = b""
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.feed_eof()
        drained, self._drained = self._drained, None
        self.cancel()
        if drained is not None and not drained.is_over:
            drained.fail(ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        if self._is_busy:
            self._take(data)
            return
        if self._ending:
            return
        # Nothing is served, and a head that has begun stands at the beginning.
        known = 0
        if self._unread:
            known = len(self._unread)
            data = self._unread + data
        self._unread = data
        try:
            head = self._read_head(known)
        except GatewayError as error:
            self.reject_head(error)
            return
        if head is not None:
            self._serve(head)

    def _take(self, data: bytes) -> None:
        """Take what comes while a request is served."""
        if self._tunnel is not None:
            self._tunnel.feed_data(data)
            return
        if self._ending:
            return
        body = self.body
        if body is not None and not body.complete:
            data = body.feed(data)
        else:
            body = None
        if data:
            self._unread = self._unread[self._at :] + data
            self._at = 0
        self._settle_reading()
        if body is not None:
            body.wake()

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
        if drained is not None:
            drained.end(None)

    # --- one request after the other ------------------------------------------

    def _read_head(self, known: int) -> RequestHead | None:
        """Read the next head, and what is there of its body; None if it isn't whole.

        The first *known* bytes were looked at before.

        Raises:
            GatewayError: it is no sound head (`RequestReader.read`, `check_begun`).
        """
        data, at = self._unread, self._at
        # RFC 9112 §2.2: empty lines before a request are skipped.
        while data.startswith(b"\r\n", at):
            at += 2
            self._head_bytes += 2
        end = data.find(b"\r\n\r\n", known - 3 if known > 3 else at) + 4
        if end >= 4:
            head = self._listener.reader.read(
                data[at:end] if at or end < len(data) else data
            )
            self._head_since = 0.0
            self._head_bytes = 0
            body = Body(head, self._settle_reading) if head.has_body else NO_BODY
            self.body = body
            if end == len(data):
                self._unread = b""
                self._at = 0
            elif body.complete:
                self._at = end
            else:
                self._unread, self._at = body.feed(data[end:]), 0
            return head
        self._at = 0
        if at:
            self._unread = data = data[at:]
            known = max(0, known - at)
        check_begun(data, known, self._listener.reader.bounds)
        if self._head_bytes + len(data) > self._listener.reader.bounds.head:
            raise HeadTooLarge("empty lines before the request")
        if not self._head_since and (data or at):
            self._head_since = self._loop.time()
        return None

    def _serve(self, head: RequestHead) -> None:
        """Serve the request that was read, and those behind it, until one waits."""
        listener = self._listener
        self._is_serving = True
        while head is not None:
            body = self.body
            assert body is not None
            self._is_busy = True
            client = Exchange(self, head, body, listener.limits)
            self._client = client
            if self._unread or not (body.complete and self._is_reading):
                self._settle_reading()
            self.run(listener.handler(client))
            if self._client is not None:
                break  # it waits, and `on_end` goes on
            head = self._following()
        self._is_serving = False

    def on_end(self, error: BaseException | None) -> None:
        """Go on with what came while a request was served, or end the connection.

        The handlers write their answers, take the rest of a body and end in no error
        but that they were cancelled.
        """
        client, body = self._client, self.body
        self._client = self.body = None
        if error is not None:
            self.end()
            if isinstance(error, Exception):
                _log.error("a request failed in its end", exc_info=error)
            elif not isinstance(error, asyncio.CancelledError):
                raise error
        elif not (
            client is not None
            and client.keep_alive
            and body is not None
            and body.complete
        ):
            self.end()
        if self._is_serving:
            return  # `_serve` goes on
        self._go_on()

    def _following(self) -> RequestHead | None:
        """Return the head of the next request, None if it isn't to be served now."""
        if self._unread and not self._ending and self._at < len(self._unread):
            self._served += 1
            if self._served == _MOST_WAITING:
                self._served = 0
                self._loop.call_soon(self._go_on)
                return None
            try:
                head = self._read_head(0)
            except GatewayError as error:
                self.reject_head(error)
                return None
            if head is not None:
                return head
            if not self._unread:  # empty lines behind a request
                self._head_since = 0.0
                self._head_bytes = 0
        else:
            self._unread = b""
            self._at = 0
        self._served = 0
        self._is_busy = False
        self._rests_since = self._loop.time()
        if not self._is_reading:
            self._settle_reading()
        return None

    def _go_on(self) -> None:
        """Serve more of the requests that wait."""
        try:
            if (head := self._following()) is not None:
                self._serve(head)
        except Exception:  # noqa: BLE001 - whoever has called us has no part in it
            _log.exception("a client's connection failed")
            self.end()

    def _settle_reading(self) -> None:
        """Read the connection if there is room for what comes, else don't."""
        body = self.body
        has_room = len(self._unread) - self._at <= _UNREAD_BYTES and (
            body is None or body.size <= BODY_BYTES
        )
        if has_room == self._is_reading or self._tunnel is not None:
            return
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._is_reading = has_room
        if has_room:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def reject_head(self, error: GatewayError) -> None:
        """Answer a head that never became a request, and close."""
        self._head_since = 0.0
        transport = self.transport
        if transport is None or self._ending:
            return
        answer = self._listener.refused(error, self.address)
        fields = (
            *answer.fields,
            (b"Content-Length", b"%d" % len(answer.body)),
            (b"Connection", b"close"),
        )
        head = b"%b%b\r\n" % (responses.start(answer.status), block(fields))
        transport.write(head + answer.body)
        self.end()

    # --- for whoever answers --------------------------------------------------

    @property
    def pace(self) -> Pace:
        return self._listener.pace

    async def drained(self) -> None:
        """Return when the client has taken enough of what was written.

        Raises:
            ConnectionError: it is gone.
        """
        if self.transport is None:
            raise ConnectionResetError
        if not self.writing_paused:
            return
        drained: Wait[None] = Wait()
        self._drained = drained
        await drained
        if self.transport is None:
            raise ConnectionResetError

    def hand_over(self, tunnel: TunnelFeed) -> None:
        """Give everything that comes from now on, HTTP no more, to *tunnel*."""
        rest = self._unread[self._at :]
        self._unread, self._at = b"", 0
        self._settle_reading()
        self._tunnel = tunnel
        if rest:
            tunnel.feed_data(rest)  # last: it may pause reading itself

    # --- for the listener -----------------------------------------------------

    def check_deadlines(self, now: float) -> None:
        """End the connection if its head, its rest or its client is too slow."""
        limits = self._listener.limits
        if self._head_since:
            if now - self._head_since > limits.head_timeout:
                self.reject_head(RequestTimeout("the head didn't arrive in time"))
        elif not self._is_busy and now - self._rests_since > limits.keep_alive:
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

    def close_if_idle(self) -> None:
        """Close if no request is being served, and none is on its way."""
        if not self._is_busy and not self._head_since:
            self.end()

    def abort(self) -> None:
        """Cancel the request that is being served; whoever serves it closes."""
        if self.is_running:
            self.cancel()
        elif self._is_busy:
            self.end()

    def end(self) -> None:
        """Close as soon as everything is sent; nothing is read any more."""
        self._ending = True
        if self.transport is not None:
            self.transport.close()


class Listener:
    """Makes connections for a server socket and watches over their heads.

    Used as the protocol factory of `loop.create_server`.
    """

    connection_class: ClassVar[type[ClientConnection]] = ClientConnection

    def __init__(
        self,
        handler: Handler,
        *,
        reader: RequestReader,
        limits: LimitsConfig,
        observer: Observer,
        make_id: Callable[[], str],
        pace: Pace,
    ) -> None:
        self.limits = limits
        self.pace = pace
        self.reader = reader
        self._observer = observer
        self._make_id = make_id
        self._loop = asyncio.get_running_loop()
        self._open: set[ClientConnection] = set()
        self._leaving = False
        self._emptied: asyncio.Future[None] | None = None
        self.handler = handler
        self._sweep = self._loop.call_later(self.pace.sweep_s, self._look)

    def __call__(self) -> ClientConnection:
        return self.connection_class(self, self._loop)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._open)

    def admit(self, connection: ClientConnection) -> bool:
        """Return whether there is room for one more client."""
        if len(self._open) >= self.limits.max_connections:
            return False
        self._open.add(connection)
        return True

    def forget(self, connection: ClientConnection) -> None:
        """Give up the place of a connection that is lost, or was never admitted."""
        self._open.discard(connection)
        emptied = self._emptied
        if emptied is not None and not self._open and not emptied.done():
            emptied.set_result(None)

    def refused(self, error: GatewayError, client: str) -> responses.Response:
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
        answer = responses.failure(error, request_id)
        shown = (b"X-Request-Id", request_id.encode())
        return replace(answer, fields=(*answer.fields, shown))

    async def close(self, timeout_s: float) -> None:
        """Let requests in flight finish within *timeout_s* seconds, then cut them.

        The sockets must not accept any more when this is called, and whoever answers
        must end each connection with its answer.
        """
        self._leaving = True
        for connection in tuple(self._open):
            connection.close_if_idle()
        await self._empty(timeout_s)
        for connection in tuple(self._open):
            connection.abort()
        await self._empty(self.pace.cut_s)
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
        self._sweep = self._loop.call_later(self.pace.sweep_s, self._look)
        now = self._loop.time()
        for connection in tuple(self._open):
            connection.check_deadlines(now)
            if self._leaving:
                connection.close_if_idle()
