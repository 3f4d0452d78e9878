"""edge. The clients' connections: aiohttp's parser, with what an edge needs round it.

A deadline for the head and a limit for all of it; errors with their right status,
without an echo of what was received and without a traceback; an end for clients that
take nothing of their answer; a limit for how many there are.

A client that closes its sending side (FIN) is gone, whether or not it still reads:
the two look the same, and a request must end when its client does. nginx does so too.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, cast

from aiohttp import hdrs, http_parser, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.tcp_helpers import tcp_keepalive

from gateway import answers
from gateway.client import Client
from gateway.config import Limits
from gateway.errors import BadRequest, GatewayError, RequestTimeout, ShuttingDown
from gateway.framing import HeadTooLarge, TargetTooLong
from gateway.observe import Observer, Record

Handler = Callable[[Client], Awaitable[None]]
"""Serves one request. When it returns, the answer is on the wire."""

_SWEEP_S = 0.5
"""How often all connections are looked at: by so much a deadline may be late."""

_REST_S = 0.5
"""A connection that waits for longer gives up its parser, which keeps the last head:
with a token in it that is more than half of what an idle connection takes."""

_MOST_WAITING = 32
"""Requests of one client that wait while one is served; then it is read no more."""

_BODY_BYTES = 16 * 1024
"""Reading stops while twice this much of a body waits for the upstream. What is read at
once comes on top of it: with uvloop up to 250 KiB."""

_CUT_S = 1.0
"""How long requests that were cut may take to say so."""


def has_strict_parser() -> bool:
    """Return whether aiohttp parses requests with llhttp, in C.

    Its other parser, in Python, takes some requests that llhttp refuses (a chunk size
    of twenty digits, say): what the corpus proves holds for llhttp only.
    """
    return http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy


def _owed(message: Any, body: StreamReader, data: bytes, *, is_alone: bool) -> float:
    """Return how many bytes of *message*, the last one in *data*, are yet to come.

    Less than none: so many have come of the next one, whose head isn't whole; the
    parser doesn't tell. *is_alone*: nothing stands before it in *data*. NaN in doubt,
    when `keep_alive` is the next head's limit: the end of the head isn't whole in
    *data*, because it was cut, or waited until there was room among the messages; or
    what looks like its end may be a part of the body. A chunked body is the last on
    its connection (`Client`).
    """
    size = 0
    if body is not EMPTY_PAYLOAD:
        size = int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
    if is_alone:
        end = data.find(b"\r\n\r\n")
    elif body.total_bytes < size:
        return size - body.total_bytes
    else:
        end = data.rfind(b"\r\n\r\n", 0, len(data) - size)
    if end < 0:
        is_all_end = data and not size and not data.strip(b"\r\n")
        return 0 if is_all_end else math.nan
    owed = end + 4 + size - len(data)
    return owed if owed or is_alone else math.nan


class Tunnel(Protocol):
    """What takes a connection's bytes after an upgrade (`websocket`)."""

    def feed_data(self, data: bytes) -> None: ...
    def feed_eof(self) -> None: ...


class Connection(BaseProtocol):
    """One client connection: its requests parsed, and served one after the other.

    aiohttp parses, and carries bodies; its own server connection isn't used. It makes
    of each request an object of many parts, a task and a response, which cost more
    than all that happens here, and it keeps a task for a client that sends nothing.
    """

    __slots__ = (
        "_ending",
        "_head_bytes",
        "_head_since",
        "_listener",
        "_messages",
        "_owed",
        "_rests_since",
        "_stuck_since",
        "_tail",
        "_task",
        "_tunnel",
        "_unwritten",
        "address",
        "body",
        "secure",
    )

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._listener = listener
        self.address = "unix"
        """The connected peer's IP address; `unix` for a Unix socket."""
        self.secure = False
        """The connection to this gateway is TLS."""
        self.body: StreamReader | None = None
        """Of the request that is served."""
        self._task: asyncio.Task[None] | None = None
        """Serves what has arrived; there is none while nothing has."""
        self._messages: list[tuple[Any, StreamReader]] = []
        """Requests that wait for their turn, or an error in place of the last one."""
        self._tunnel: Tunnel | None = None
        self._tail = b""
        """What came behind a request to upgrade, before it was answered."""
        self._ending = False
        self._rests_since = 0.0
        self._head_since = 0.0
        self._head_bytes = 0
        self._owed = 0.0
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
        super().connection_made(wire)
        tcp_keepalive(wire)
        self._rests_since = self._loop.time()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whoever serves a request that its client is gone."""
        self._listener.forget(self)
        self._ending = True
        super().connection_lost(exc)
        self._parser = None
        self.body = None  # it knows this connection: no ring is left
        self._messages.clear()
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
        if self._upgraded:
            self._tail += data
            if len(self._tail) >= _BODY_BYTES and not self._buffer_paused:
                self._pause_reading_for_buffer()
            return
        if self._parser is None:
            self._parser = self._listener.new_parser(self)
        try:
            messages, self._upgraded, tail = self._parser.feed_data(data)
        except (HttpProcessingError, IndexError, ValueError) as exc:
            if self._messages and isinstance(
                self._messages[-1][0], HttpProcessingError
            ):
                return  # one is enough, and each holds what it refuses
            # The others are yarl's, for some targets.
            known = isinstance(exc, HttpProcessingError)
            error = exc if known else BadHttpMessage("malformed target")
            # Without its traceback, which holds this frame, which holds the error.
            messages = [(error.with_traceback(None), EMPTY_PAYLOAD)]
            self._upgraded, tail = False, b""
        if messages:
            message, body = messages[-1]
            if body is EMPTY_PAYLOAD and data.endswith(b"\r\n\r\n"):
                self._owed = 0  # as `_owed` would say; nearly always
            else:
                is_alone = len(messages) == 1 and not self._owed
                self._owed = _owed(message, body, data, is_alone=is_alone)
            self._queue(messages)
            if tail:
                self._tail = tail
        else:
            self._owed -= len(data)
        if self._task is not None:
            # A request is being served, or is about to be; its body is judged there.
            self._head_since = 0.0
            self._head_bytes = 0
        elif data:
            # A head is on its way and not whole yet.
            if not self._head_since:
                self._head_since = self._loop.time()
            self._head_bytes += len(data)
            if self._head_bytes > self._listener.limits.max_head_size:
                self.refuse(HeadTooLarge())

    def eof_received(self) -> bool:
        """A FIN ends the connection, but a tunnel passes it on first."""
        if self._tunnel is None:
            return False
        self._tunnel.feed_eof()
        return True

    def resume_writing(self) -> None:
        self._stuck_since = 0.0  # the client has taken something
        super().resume_writing()

    # --- one request after the other ------------------------------------------

    def _queue(self, messages: Sequence[tuple[Any, StreamReader]]) -> None:
        """Have *messages* served, in their turn."""
        queue = self._messages
        queue += messages
        if isinstance(queue[-1][0], HttpProcessingError):
            self._break_body()
        if len(queue) >= _MOST_WAITING and not self._buffer_paused:
            self._pause_reading_for_buffer()
        if self._task is None:
            self._task = self._loop.create_task(self._serve())

    def _break_body(self) -> None:
        """Tell the reader of the body that arrives that it will never be whole.

        The parser puts its error behind the request, whose handler would wait.
        """
        body = self._messages[-2][1] if len(self._messages) > 1 else self.body
        if body is not None and not body.is_eof():
            body.set_exception(web.RequestPayloadError("broken framing"))

    async def _serve(self) -> None:
        """Serve what waits, and what comes meanwhile.

        The handlers write their answers, take the rest of a body and end in no error.
        """
        queue = self._messages
        handler, limits = self._listener.handler, self._listener.limits
        try:
            while queue and not self._ending:
                message, body = queue.pop(0)
                self._make_room()
                if isinstance(message, HttpProcessingError):
                    self.refuse(self._listener.translated(message))
                    return
                self.body = body
                client = Client(self, message, body, limits)
                del message
                await handler(client)
                if not (client.keep_alive and body.is_eof()):
                    self.end()
                    return
                del client  # what was served isn't kept while nothing comes
        except BaseException:
            self.end()
            raise
        finally:
            self._task = None
            self._rest()

    def _make_room(self) -> None:
        """Let more requests in, now that one has left the line."""
        assert self._parser is not None
        self._parser.message_consumed()
        if self._upgraded:
            return  # nothing comes that needs it
        if self._buffer_paused and len(self._messages) <= _MOST_WAITING // 2:
            # The parser has kept what it had no room for. Still paused meanwhile.
            self.data_received(b"")
            if len(self._messages) < _MOST_WAITING:
                self._resume_reading_for_buffer()

    def _rest(self) -> None:
        """Wait for the next request."""
        now = self._rests_since = self._loop.time()
        self.body = None
        if self._owed < 0:
            # A head has begun behind what was served. Its time begins now.
            self._head_since = now
            self._head_bytes = int(-self._owed)

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
        if self._paused or self.transport is None:
            await self._drain_helper()

    def hand_over(self, tunnel: Tunnel) -> None:
        """Give everything that comes from now on, HTTP no more, to *tunnel*."""
        self._tunnel = tunnel
        if self._buffer_paused:
            self._resume_reading_for_buffer()
        tail, self._tail = self._tail, b""
        if tail:
            tunnel.feed_data(tail)  # last: it may pause reading itself

    # --- for the listener -----------------------------------------------------

    def look(self, now: float) -> None:
        """End the connection if its head, its client's reading or its rest is too long.

        One that rests gives up its parser, which keeps the last head.
        """
        limits = self._listener.limits
        if self._head_since:
            if now - self._head_since > limits.head_timeout:
                self.refuse(RequestTimeout("the head didn't arrive in time"))
        elif self._task is None:
            rested_s = now - self._rests_since
            if rested_s > limits.keep_alive:
                self.end()
            elif rested_s > _REST_S and not self._owed:  # nothing, and no doubt
                self._parser = None
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
        if self.body is None:
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

    def new_parser(self, connection: Connection) -> http_parser.HttpRequestParser:
        """Return a parser that knows the limits, for *connection*."""
        limits = self.limits
        return http_parser.HttpRequestParser(
            connection,
            self._loop,
            _BODY_BYTES,
            max_line_size=limits.max_target_size,
            # Distinct, so that the parser's error tells a target from a field.
            max_field_size=limits.max_field_size
            + (limits.max_field_size == limits.max_target_size),
            max_headers=limits.max_fields,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=_MOST_WAITING,
        )

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

    def translated(self, exc: BaseException | None) -> GatewayError:
        """Return our error for one of aiohttp's parser, without its text."""
        if isinstance(exc, LineTooLong):
            if exc.args[1] == self.limits.max_target_size:
                return TargetTooLong()
            return HeadTooLarge()
        if isinstance(exc, BadHttpMessage) and exc.message.startswith("Too many"):
            return HeadTooLarge("too many fields")
        return BadRequest(f"the parser refused the request: {type(exc).__name__}")

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
