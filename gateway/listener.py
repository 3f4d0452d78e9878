"""edge. aiohttp's server connection, with what an edge needs added.

A deadline for the head and a limit for all of it; errors with their right status,
without an echo of what was received and without a traceback; an end for clients that
take nothing of their answer; a limit for how many there are.

A client that closes its sending side (FIN) is gone, whether or not it still reads:
the two look the same, and a request must end when its client does. nginx does so too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, cast

from aiohttp import hdrs, http_parser, web
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from gateway import answers
from gateway.client import Client
from gateway.config import Limits
from gateway.errors import BadRequest, GatewayError, RequestTimeout
from gateway.framing import HeadTooLarge, TargetTooLong
from gateway.observe import Observer, Record

Handler = Callable[[Client], Awaitable[None]]
"""Serves one request. When it returns, the answer is on the wire."""

_SWEEP_S = 0.5
"""How often all connections are looked at: by so much a deadline may be late."""

_REST_S = 2.0
"""A connection that waits for longer gives up its parser, which keeps the last head:
with a token in it that is a third of what an idle connection takes."""

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


def _owed(message: Any, body: StreamReader, data: bytes) -> int:
    """Return how many bytes of *message*, the last one in *data*, are yet to come.

    Less than none: so many have come of the next one, whose head isn't whole; the
    parser doesn't tell. 0 in doubt (then `keep_alive` is the next head's limit): the
    end of the head isn't in *data*, because it was cut, or waited until there was
    room among the messages. A chunked body is the last on its connection (`Client`).
    """
    size = body.total_bytes
    if not body.is_eof():
        return int(message.headers.get(hdrs.CONTENT_LENGTH, size)) - size
    end = data.rfind(b"\r\n\r\n", 0, len(data) - size)
    return 0 if end < 0 else end + 4 + size - len(data)


class Connection(web.RequestHandler):
    """One client connection: aiohttp's, without its requests and responses.

    aiohttp parses and keeps the connection. What it makes of each request (an object
    of many parts, a task, a response to be written) costs more than all of ours does,
    and none of it is used: the handler gets the parsed message as a `Client`.
    """

    __slots__ = (
        "_head_bytes",
        "_head_since",
        "_listener",
        "_owed",
        "_stuck_since",
        "_unwritten",
        "_wire",
        "address",
        "body",
        "secure",
    )

    def __init__(self, listener: Listener, **kwargs: Any) -> None:
        super().__init__(listener.server, **kwargs)
        self._listener = listener
        self._wire: asyncio.Transport | None = None
        self.address = "unix"
        """The connected peer's IP address; `unix` for a Unix socket."""
        self.secure = False
        """The connection to this gateway is TLS."""
        self.body: StreamReader | None = None
        """Of the request that is served."""
        self._head_since = 0.0
        self._head_bytes = 0
        self._owed = 0
        self._unwritten = 0
        self._stuck_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance: uvloop's transports have asyncio's methods, not its bases.
        wire = cast("asyncio.Transport", transport)
        if not self._listener.admit(self):
            wire.abort()
            return
        self._wire = wire
        peer = wire.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address = str(peer[0])
        self.secure = wire.get_extra_info("sslcontext") is not None
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.forget(self)
        self.body = None  # it knows this connection: no ring is left
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse *data*; in place of aiohttp's, which does so for its applications."""
        if self._payload_parser is not None or self._upgraded:
            super().data_received(data)  # what a tunnel carries, or what waits for it
            return
        if self._force_close or self._close:
            return
        waiter = self._waiter
        if self._parser is None:
            self._parser = self._new_parser()
        try:
            messages, self._upgraded, tail = self._parser.feed_data(data)
        except HttpProcessingError as exc:
            # Without its traceback, which holds this frame, which holds the error.
            error = _ErrInfo(status=400, exc=exc.with_traceback(None), message="")
            messages, self._upgraded, tail = [(error, EMPTY_PAYLOAD)], False, b""
        if messages:
            queue = self._messages
            queue.extend(messages)
            message, body = messages[-1]
            if body is EMPTY_PAYLOAD and data.endswith(b"\r\n\r\n"):
                self._owed = 0  # as `_owed` would say; nearly always
            else:
                self._owed = _owed(message, body, data)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            if len(queue) >= self._max_msg_queue_size and not self._buffer_paused:
                self._pause_reading_for_buffer()
            if isinstance(message, _ErrInfo):
                self._break_body()
            if self._upgraded and tail:
                self._message_tail = tail
        else:
            self._owed -= len(data)
        if waiter is None or waiter.done():
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

    def _new_parser(self) -> http_parser.HttpRequestParser:
        """Return a parser as aiohttp made the first one."""
        return http_parser.HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=self._max_msg_queue_size,
        )

    def eof_received(self) -> bool:  # type: ignore[override] # what asyncio.Protocol says
        """A FIN ends the connection, but a tunnel passes it on first."""
        if self._payload_parser is None:
            return False
        self._payload_parser.feed_eof()
        return True

    def _break_body(self) -> None:
        """Tell the reader of the body that arrives that it will never be whole.

        aiohttp's parser puts an error behind the request, whose handler would wait.
        """
        body = self._messages[-2][1] if len(self._messages) > 1 else self.body
        if body is not None and not body.is_eof():
            body.set_exception(web.RequestPayloadError("broken framing"))

    async def start(self) -> None:
        """Serve one request after the other, all in the connection's own task.

        In place of aiohttp's, which makes a task for each request, to give it a
        context of its own. Nothing here uses contexts, and our handlers write their
        answers, take the rest of a body and end in no error.
        """
        messages, loop = self._messages, self._loop
        handler, limits = self._listener.handler, self._listener.limits
        while not self._force_close:
            if not messages:
                if self._owed < 0:
                    # A head has begun behind what was served. Its time begins now.
                    self._head_since = loop.time()
                    self._head_bytes = -self._owed
                self._waiter = loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            message, body = messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            if isinstance(message, _ErrInfo):
                self.refuse(self._listener.translated(message.exc))
                break
            self.body = body
            client = Client(self, message, body, limits)
            try:
                await handler(client)
            except BaseException:
                self.force_close()
                raise
            if not (client.keep_alive and body.is_eof()) or self._close:
                break
            del client, message  # what was served isn't kept while nothing comes
            self._next_keepalive_close_time = loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None:
                self._keepalive_handle = loop.call_at(
                    self._next_keepalive_close_time, self._process_keepalive
                )
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def drained(self) -> None:
        """Return when the client has taken enough of what was written.

        Raises:
            ConnectionError: it is gone.
        """
        if self._paused or self.transport is None:
            await self._drain_helper()

    def resume_writing(self) -> None:
        self._stuck_since = 0.0  # the client has taken something
        super().resume_writing()

    def look(self, now: float) -> None:
        """End the connection if its head, or its client's reading, takes too long."""
        limits = self._listener.limits
        if self._head_since and now - self._head_since > limits.head_timeout:
            self.refuse(RequestTimeout("the head didn't arrive in time"))
        assert self._wire is not None
        unwritten = self._wire.get_write_buffer_size()
        if not unwritten:
            self._stuck_since = 0.0
        elif not self._stuck_since or unwritten != self._unwritten:
            self._unwritten = unwritten
            self._stuck_since = now
        elif now - self._stuck_since > limits.write_idle_timeout:
            # Whoever serves it is told by `connection_lost`.
            self._wire.abort()
        rests_since = self._next_keepalive_close_time - self._keepalive_timeout
        if now - rests_since > _REST_S and self._is_idle():
            self._parser = None

    def _is_idle(self) -> bool:
        """Return whether no request is being served, and none is on its way."""
        waiter = self._waiter
        return waiter is not None and not waiter.done() and not self._head_since

    def leave(self) -> None:
        """Close if no request is being served, and none is on its way."""
        if self._is_idle():
            self.force_close()

    def cut(self) -> None:
        """Cancel the request that is being served; whoever serves it closes."""
        if self._task_handler is not None:
            self._task_handler.cancel()

    def refuse(self, error: GatewayError) -> None:
        """Answer a head that never became a request, and close."""
        self._head_since = 0.0
        transport = self.transport
        if transport is None:
            return
        answer = self._listener.refused(error, self.address)
        fields = [
            *answer.fields,
            (b"Content-Length", b"%d" % len(answer.body)),
            (b"Connection", b"close"),
        ]
        transport.write(answers.head(answer.status, None, fields) + answer.body)
        self.force_close()


async def _never(_request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("requests go to the listener's own handler")


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
        self.server = web.Server(_never, handler_cancellation=True)
        """Where aiohttp keeps its connections."""
        self._sweep = self._loop.call_later(_SWEEP_S, self._look)

    def __call__(self) -> Connection:
        limits = self.limits
        return self.connection_class(
            self,
            loop=self._loop,
            keepalive_timeout=limits.keep_alive,
            access_log=None,
            max_line_size=limits.max_target_size,
            # Distinct, so that the parser's error tells a target from a field.
            max_field_size=limits.max_field_size
            + (limits.max_field_size == limits.max_target_size),
            max_headers=limits.max_fields,
            read_bufsize=_BODY_BYTES,
            lingering_time=0,  # `Client.take_rest` does it, within limits
            auto_decompress=False,
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
        return answers.failure(error, request_id)

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
        must end each connection with its answer. (aiohttp's own shutdown isn't used:
        it throws away what arrives of a body from then on.)
        """
        self._leaving = True
        for connection in tuple(self._open):
            connection.leave()
        await self._empty(timeout_s)
        for connection in tuple(self._open):
            connection.cut()
        await self._empty(_CUT_S)
        self._sweep.cancel()
        await self.server.shutdown(0)

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
