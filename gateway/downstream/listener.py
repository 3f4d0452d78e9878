"""edge. The clients' connections: reads heads and serves one request after the other.

The listener limits the time and the size of a head, the time that a client may read
nothing of its response, the rate at which it reads, and the number of connections, of
all clients and of each. A head that is refused gets the
right status, without an echo of the received bytes and without a traceback.

A client that closes its sending side (FIN) counts as gone, whether or not it still
reads: the gateway can't distinguish the two, and a request must end when its client is
gone. nginx does the same.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final, Protocol, cast

from gateway import responses
from gateway.clients import Clients
from gateway.config import LimitsConfig
from gateway.downstream.admission import Admission
from gateway.downstream.arrival import DIRECT, Arrival, Handler
from gateway.downstream.exchange import (
    BODY_BYTES,
    NO_BODY,
    Body,
    Exchange,
)
from gateway.downstream.memory import CONNECTION_BYTES, Held, Ledger, Standing
from gateway.downstream.read_progress import ReadProgress
from gateway.downstream.refusal import refusal
from gateway.downstream.rejections import Rejections
from gateway.downstream.reset import reset_on_close
from gateway.downstream.send_queue import unreceived
from gateway.errors import GatewayError, MemoryFull, RequestTimeout
from gateway.events import RuntimeEvent, about
from gateway.http.fields import block
from gateway.http.request_head import (
    HeadTooLarge,
    RequestHead,
    RequestReader,
    check_begun,
)
from gateway.observe import Observer
from gateway.pace import Pace
from gateway.running import Runner, Wait, turns_of

_log = logging.getLogger("gateway")

REQUESTS_PER_TURN: Final = 4
"""Pipelined requests of one client that are served in one turn of the event loop: less
than a millisecond of work. Requests that wait for an upstream end the turn."""

_UNREAD_BYTES = 32 * 1024
"""Reading pauses while more pipelined bytes than this wait for the current request. One
read can exceed the limit: with uvloop by up to 250 KiB."""


_empty_lines = re.compile(rb"(?:\r\n)*+").match


class TunnelFeed(Protocol):
    """Receives a connection's bytes after an upgrade (`websocket`)."""

    def feed_data(self, data: bytes) -> None: ...
    def feed_eof(self) -> None: ...


class ClientConnection(Runner, asyncio.Protocol):
    """One client connection: reads requests and serves them one after the other.

    Bytes that arrive while a request is served are kept unparsed, because its handler
    may still turn the connection into a tunnel. After it, the next head is read.
    """

    __slots__ = (
        "_at",
        "_collected",
        "_drained",
        "_ending",
        "_exchange",
        "_handler",
        "_head_bytes",
        "_head_since",
        "_idle_since",
        "_is_busy",
        "_is_reading",
        "_is_serving",
        "_listener",
        "_progress",
        "_progress_of",
        "_served",
        "_tunnel",
        "_unread",
        "address",
        "arrival",
        "body",
        "failure",
        "held",
        "own_fields",
        "secure",
        "subject",
        "transport",
        "verified",
        "writing_paused",
    )

    def __init__(
        self,
        listener: Listener,
        loop: asyncio.AbstractEventLoop,
        arrival: Arrival = DIRECT,
    ) -> None:
        super().__init__(loop)
        self._listener = listener
        self.arrival = arrival
        self._handler = arrival.handler or listener.handler
        self.own_fields = arrival.hsts
        """The lines that all replies get because of the address, each with CRLF."""
        self.transport: asyncio.Transport | None = None
        """None before the connection is made and after it is lost."""
        self.address = arrival.address or "unix"
        """The connected peer's IP address; `unix` for a Unix socket."""
        self.secure = False
        """Whether the connection to this gateway is TLS."""
        self.subject = b""
        """The subject of the client's certificate, as the value of a field."""
        self.body: Body | None = None
        """The body of the request that is served."""
        self.writing_paused = False
        """The write buffer is above its limit: no more should be written now."""
        self._drained: Wait[None] | None = None
        """Ends when writing resumes or the client is gone; None if nothing waits."""
        self._is_busy = False
        """A request is served, or pipelined requests wait for the event loop."""
        self._is_serving = False
        """`_serve` is on the call stack."""
        self._exchange: Exchange | None = None
        """The exchange of the request that is served."""
        self._served = 0
        """Pipelined requests served in this turn of the event loop."""
        self._unread = b""
        """Received bytes; those from `_at` on aren't parsed yet."""
        self._at = 0
        self._is_reading = True
        self._tunnel: TunnelFeed | None = None
        self._ending = False
        self._idle_since = 0.0
        self._head_since = 0.0
        """Loop time when the incomplete head began to arrive; 0 without such a head."""
        self._head_bytes = 0
        """The number of bytes in empty lines before that head."""
        self._progress: ReadProgress | None = None
        """How the client reads; None if no bytes wait for it."""
        self._progress_of: Exchange | None = None
        """The exchange of `_progress`, None for what is left of earlier ones."""
        self.failure: GatewayError | None = None
        """What the connection was cut for; None if it wasn't."""
        self.held = 0
        """The bytes that are in the listener's ledger for this connection."""
        self.verified = False
        """The last request that was forwarded has a verified session."""
        self._collected = 0

    # --- asyncio.Protocol -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance: uvloop's transports have asyncio's methods, not its bases.
        wire = cast("asyncio.Transport", transport)
        peer = wire.get_extra_info("peername")
        if isinstance(peer, tuple) and not self.arrival.address:
            self.address = sys.intern(str(peer[0]))
        if not self._listener.admit(self):
            self._ending = True
            wire.abort()
            return
        self.secure = wire.get_extra_info("sslcontext") is not None
        self.transport = wire
        sock = wire.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._idle_since = self._loop.time()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the request that is served, or end the tunnel: the client is gone."""
        self._listener.forget(self)
        self._ending = True
        self.transport = None
        # They reference this connection: avoid a cycle.
        self.body = self._progress_of = None
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
            self._receive_while_busy(data)
            return
        if self._ending:
            return
        # No request is served: `_unread` is empty or begins with an incomplete head.
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
        if head is None or known:
            self.weigh()
        if head is not None:
            self._serve(head)

    def _receive_while_busy(self, data: bytes) -> None:
        """Pass on or keep bytes that arrive while a request is served."""
        if self._tunnel is not None:
            self._tunnel.feed_data(data)
            return
        if self._ending:
            return
        body = self.body
        if body is not None and not body.complete:
            data = self._feed_body(body, data)
        else:
            body = None
        if data:
            self._unread = self._unread[self._at :] + data
            self._at = 0
        self._settle_reading()
        if body is not None:
            body.wake()

    def _feed_body(self, body: Body, data: bytes) -> bytes:
        """Feed *body*; return the bytes after its end. Put off what is too much."""
        was_behind = body.is_behind
        rest = body.feed(data)
        if body.is_behind and not was_behind:
            self._listener.turns.put_off(partial(self._feed_more, body))
        return rest

    def _feed_more(self, body: Body) -> None:
        """Go on with a body that is behind, unless its request has ended."""
        if self.body is not body:
            return
        rest = body.feed(b"")
        if body.is_behind:
            self._listener.turns.put_off(partial(self._feed_more, body))
        elif rest:
            self._unread, self._at = rest, 0
        self._settle_reading()
        body.wake()

    def eof_received(self) -> bool:
        """Return False to close the connection after a FIN; a tunnel forwards it."""
        if self._tunnel is None:
            return False
        self._tunnel.feed_eof()
        return True

    def pause_writing(self) -> None:
        self.writing_paused = True
        self.weigh()

    def resume_writing(self) -> None:
        self.writing_paused = False
        self.weigh()
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.end(None)

    # --- one request after the other ------------------------------------------

    def _read_head(self, known: int) -> RequestHead | None:
        """Return the next head, None if it is incomplete; feed its body what follows.

        The first *known* bytes of `_unread` were searched before.

        Raises:
            GatewayError: the head is refused (`RequestReader.read`, `check_begun`).
        """
        data, at = self._unread, self._at
        # RFC 9112 §2.2: empty lines before a request are skipped.
        if data.startswith(b"\r\n", at):
            found = _empty_lines(data, at)
            assert found is not None
            self._head_bytes += found.end() - at
            at = found.end()
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
                self._unread, self._at = b"", 0
                self._unread = self._feed_body(body, data[end:])
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
        """Serve *head* and the pipelined requests after it, until one has to wait."""
        listener = self._listener
        self._is_serving = True
        while head is not None:
            body = self.body
            assert body is not None
            self._is_busy = True
            client = Exchange(self, head, body, listener.limits)
            self._exchange = client
            if self._unread or not (body.complete and self._is_reading):
                self._settle_reading()
            self.run(self._handler(client))
            if self._exchange is not None:
                self._served = 0
                break  # it waits; `on_coroutine_end` continues
            head = self._next_request()
        self._is_serving = False

    def on_coroutine_end(self, error: BaseException | None) -> None:
        """Serve the next pipelined request, or close the connection.

        Handlers write their responses and discard the rest of a body. The only error
        that they should raise is CancelledError; any other Exception is logged.
        """
        client, body = self._exchange, self.body
        self._exchange = self.body = None
        if error is not None:
            self.end()
            if isinstance(error, Exception):
                _log.error(
                    "a request failed in its end",
                    exc_info=error,
                    extra=about(RuntimeEvent.CONNECTION_FAILED),
                )
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
            return  # `_serve` continues
        self._serve_waiting()

    def _next_request(self) -> RequestHead | None:
        """Return the head of the next request, None if none can be served now."""
        if self._unread and not self._ending and self._at < len(self._unread):
            self._served += 1
            if self._served == REQUESTS_PER_TURN:
                self._served = 0
                self._listener.turns.put_off(self._serve_waiting)
                return None
            try:
                head = self._read_head(0)
            except GatewayError as error:
                self.reject_head(error)
                return None
            if head is not None:
                return head
            if not self._unread:  # only empty lines after a request
                self._head_since = 0.0
                self._head_bytes = 0
        else:
            self._unread = b""
            self._at = 0
        self._served = 0
        self._is_busy = False
        self._idle_since = self._loop.time()
        if not self._is_reading:
            self._settle_reading()
        return None

    def _serve_waiting(self) -> None:
        """Serve the pipelined requests that wait."""
        try:
            if (head := self._next_request()) is not None:
                self._serve(head)
        except Exception:  # noqa: BLE001 - the caller isn't concerned
            _log.exception(
                "a client's connection failed",
                extra=about(RuntimeEvent.CONNECTION_FAILED),
            )
            self.end()

    def _settle_reading(self) -> None:
        """Pause reading if too many bytes are unread; else resume it."""
        body = self.body
        has_room = len(self._unread) - self._at <= _UNREAD_BYTES and (
            body is None or (body.size <= BODY_BYTES and not body.is_behind)
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
        self.weigh()

    def reject_head(self, error: GatewayError) -> None:
        """Answer a head that was refused, and close."""
        self._head_since = 0.0
        transport = self.transport
        if transport is None or self._ending:
            return
        answer = self._listener.refused(error, self.address)
        fields = (
            *answer.fields,
            (b"Content-Length", b"%d" % len(answer.body)),
            (b"Connection", b"close"),
            responses.date(int(time.time())),
        )
        own = block(fields) + self.own_fields
        head = b"%b%b\r\n" % (responses.start(answer.status), own)
        transport.write(head + answer.body)
        self.end()

    # --- for the exchange -----------------------------------------------------

    @property
    def pace(self) -> Pace:
        return self._listener.pace

    async def drained(self) -> None:
        """Return when the client has received enough for more to be written.

        Raises:
            ConnectionError: the client is gone.
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

    def collected(self, size: int) -> None:
        """Note that *size* bytes of the body were read and are kept; 0: none are."""
        self._collected = size
        self.weigh()

    def hand_over(self, tunnel: TunnelFeed) -> None:
        """Feed all further bytes to *tunnel*, without parsing them as HTTP."""
        rest = self._unread[self._at :]
        self._unread, self._at = b"", 0
        self._settle_reading()
        self._tunnel = tunnel
        if rest:
            tunnel.feed_data(rest)  # last: it may pause reading itself

    # --- for the listener -----------------------------------------------------

    def weigh(self) -> None:
        """Tell the listener's ledger what this connection makes the worker hold.

        Called where bytes stay held: after a part of a head, and when reading or
        writing is paused or resumed. Bytes that pass at once are never weighed.
        """
        ledger, transport = self._listener.ledger, self.transport
        if ledger is None or transport is None or self.failure is not None:
            return
        body = self.body
        held = (
            CONNECTION_BYTES
            + self.arrival.extra_bytes
            + len(self._unread)
            + (0 if body is None else body.held)
            + self._collected
            + transport.get_write_buffer_size()
        )
        ledger.used += held - self.held
        self.held = held
        if ledger.is_full:
            self._listener.make_room_soon()

    @property
    def standing(self) -> Standing:
        """Who this is when memory is short."""
        if not self.verified:
            return Standing.UNVERIFIED
        return Standing.VERIFIED if self._exchange is None else Standing.SERVED

    @property
    def is_tunnel(self) -> bool:
        """Whether bytes are passed on without being parsed as HTTP."""
        return self._tunnel is not None

    @property
    def is_serving(self) -> bool:
        """Whether a request is in progress."""
        return self._exchange is not None

    def check_deadlines(self, now: float) -> None:
        """Close the connection if one of its deadlines has passed at loop time *now*.

        The deadlines are `head_timeout`, `keep_alive`, `write_idle_timeout`, and that
        of `download_min_rate`.
        """
        limits = self._listener.limits
        self.weigh()
        if self._head_since:
            if now - self._head_since > limits.head_timeout:
                self.reject_head(RequestTimeout("the head didn't arrive in time"))
        elif not self._is_busy and now - self._idle_since > limits.keep_alive:
            self.end()
        assert self.transport is not None
        if self.transport.get_write_buffer_size():
            self._check_progress(self.transport, now)
        elif self._progress is not None:
            if self._exchange is not None and self._exchange is self._progress_of:
                self._progress.pause()
            else:
                self._progress = self._progress_of = None

    def _check_progress(self, transport: asyncio.Transport, now: float) -> None:
        """Cut off a client that doesn't read what waits for it, or reads too slowly."""
        client, progress = self._exchange, self._progress
        written = 0 if client is None else client.bytes_out
        position = written - unreceived(transport)
        if progress is None:
            self._progress, self._progress_of = ReadProgress(now, position), client
            return
        if client is not self._progress_of:
            self._progress_of = client
            progress.rebase(now, position)
        limits = self._listener.limits
        # A WebSocket is no download: it has `websocket.idle_timeout`.
        min_rate = 0 if self._tunnel is not None else limits.download_min_rate
        error = progress.check(now, position, limits, self.pace, min_rate=min_rate)
        if error is not None:
            self.cut(error)

    def cut(self, error: GatewayError) -> None:
        """Reset the connection; the request that is served is recorded with *error*.

        A RST also frees what the kernel holds for a client that doesn't read.
        """
        self.failure = error
        if self.transport is not None:
            reset_on_close(self.transport)
            self.transport.abort()  # `connection_lost` cancels the request

    def close_if_idle(self) -> None:
        """Close if no request is served and no head is incomplete."""
        if not self._is_busy and not self._head_since:
            self.end()

    def abort(self) -> None:
        """Cancel the request that is served; its handler closes the connection."""
        if self.is_running:
            self.cancel()
        elif self._is_busy:
            self.end()

    def end(self) -> None:
        """Stop reading, and close when everything is sent."""
        self._ending = True
        if self.transport is not None:
            self.transport.close()


class Listener:
    """Makes the connections of a server socket and enforces their deadlines.

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
        clients: Clients,
    ) -> None:
        self.limits = limits
        self.pace = pace
        self._clients = clients
        self.rejections = Rejections(pace.rejections_s)
        self.reader = reader
        self._observer = observer
        self._make_id = make_id
        self._loop = asyncio.get_running_loop()
        self.turns = turns_of(self._loop)
        self._open: dict[ClientConnection, None] = {}
        """The connections, the oldest first."""
        self.ledger: Ledger | None = None
        """What they make this worker hold; None: there is no budget for it."""
        if limits.memory is not None:
            self.ledger = Ledger(limits.memory, limits.per_client.share)
        self.admission = Admission(
            limits, clients=clients, ledger=self.ledger, rejections=self.rejections
        )
        self._cuts = Rejections(pace.rejections_s, "connections cut")
        self._making_room = False
        self._closing = False
        self._emptied: asyncio.Future[None] | None = None
        self.handler = handler
        self._sweep = self._loop.call_later(self.pace.sweep_s, self._check_connections)

    def __call__(self) -> ClientConnection:
        return self.connection(DIRECT)

    def connection(self, arrival: Arrival) -> ClientConnection:
        """Return the protocol of a new connection."""
        return self.connection_class(self, self._loop, arrival)

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        return len(self._open)

    @property
    def active(self) -> int:
        """The number of requests in progress, open WebSockets included."""
        return sum(1 for one in self._open if one.is_serving)

    def admit(self, connection: ClientConnection) -> bool:
        """Add *connection*; return False if all or its client have too many already."""
        if not self.admission.admit(connection.address, self._loop.time()):
            return False
        self._open[connection] = None
        if self.ledger is not None:
            self.ledger.used += CONNECTION_BYTES
            connection.held = CONNECTION_BYTES
        return True

    def forget(self, connection: ClientConnection) -> None:
        """Remove a connection that is lost, or was never admitted."""
        if connection in self._open:
            del self._open[connection]
            self._release(connection)
            self.admission.release(connection.address)
        emptied = self._emptied
        if emptied is not None and not self._open and not emptied.done():
            emptied.set_result(None)

    def _release(self, connection: ClientConnection) -> None:
        if self.ledger is not None:
            self.ledger.used -= connection.held
            connection.held = 0

    def make_room_soon(self) -> None:
        """Cut connections, after what runs now: it may be writing to one of them."""
        if not self._making_room:
            self._making_room = True
            self._loop.call_soon(self._make_room)

    def _make_room(self) -> None:
        """Cut connections until there is room, as `memory` says.

        If there are too few to cut, the next sweep tries again.
        """
        ledger = self.ledger
        assert ledger is not None
        connections = tuple(reversed(self._open))
        chosen = ledger.to_cut(
            [
                Held(each.held, each.standing, self._clients.key(each.address))
                for each in connections
            ]
        )
        now = self._loop.time()
        for index in chosen:
            connection = connections[index]
            self._cuts.add("gateway.limits.memory", connection.address, now)
            connection.cut(MemoryFull("gateway.limits.memory is used up"))
            self._release(connection)
        self._making_room = ledger.is_full

    def refused(self, error: GatewayError, client: str) -> responses.Response:
        """Record a request whose head was refused; return the response."""
        return refusal(error, client, self._make_id(), self._observer)

    async def close(self, timeout_s: float, *, keeps_tunnels: bool = False) -> None:
        """Let requests in flight finish within *timeout_s* seconds, then cancel them.

        Before this is called, the sockets must have stopped accepting, and the handler
        must close each connection after its response. With *keeps_tunnels*, tunnels
        are left as they are, and `close` is called once more.
        """
        self._closing = True
        for connection in tuple(self._open):
            connection.close_if_idle()
        await self.wait_until_empty(timeout_s)
        for connection in tuple(self._open):
            if not (keeps_tunnels and connection.is_tunnel):
                connection.abort()
        await self.wait_until_empty(self.pace.cut_s)
        for connection in tuple(self._open):
            if not (keeps_tunnels and connection.is_tunnel):
                connection.end()
        if not keeps_tunnels:
            self._sweep.cancel()

    async def wait_until_empty(
        self,
        timeout_s: float | None = None,
        *,
        unless: asyncio.Future[float] | None = None,
    ) -> None:
        """Return when no client is connected, *timeout_s* is over, or *unless* is."""
        if self._open:
            self._emptied = self._loop.create_future()
            ends = {self._emptied, unless or self._emptied}
            await asyncio.wait(
                ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )

    def _check_connections(self) -> None:
        # First, so that later sweeps happen even if this one fails.
        self._sweep = self._loop.call_later(self.pace.sweep_s, self._check_connections)
        now = self._loop.time()
        self.rejections.report(now)
        self._cuts.report(now)
        self._making_room = False
        for connection in tuple(self._open):
            connection.check_deadlines(now)
            if self._closing:
                connection.close_if_idle()
