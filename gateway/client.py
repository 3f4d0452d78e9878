"""edge. The client's side of one exchange: its body read, our bytes written.

aiohttp's server parses requests and owns the connection. What goes back is
written here as raw bytes, so that a proxied reply leaves exactly as it came.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any, Protocol

from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from gateway import answers
from gateway.answers import Answer
from gateway.config import Limits
from gateway.errors import BadRequest, ContentTooLarge, RequestTimeout
from gateway.fields import Field, Fields

_RATE_GRACE_S = 10.0
"""A body may start slowly: its rate is judged after this long."""

_DRAIN_S = 2.0
"""How long the rest of a body that nobody wanted may take to arrive."""

_LINGER_BYTES = 4 * 1024**2
"""How much of it is thrown away on a connection that ends: for as long as its bytes
wait unread, closing would make TCP reset it, and a browser that is still sending
might never see the 401 that tells it to refresh its session."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, on and with no time: closing sends a RST."""

_CLOSE: Field = (b"Connection", b"close")
_KEEP_ALIVE: Field = (b"Connection", b"keep-alive")
_CHUNKED: Field = (b"Transfer-Encoding", b"chunked")


class Connection(Protocol):
    """What carries the request: the listener's, as far as one answer needs it."""

    transport: asyncio.Transport | None
    address: str
    secure: bool

    @property
    def writing_paused(self) -> bool: ...

    def hand_over(self, tunnel: Any, /) -> None: ...
    async def drained(self) -> None: ...


class Client:
    """One request's client: used by one task, for one answer."""

    __slots__ = (
        "_chunked",
        "_content",
        "_continued",
        "_ends_with_connection",
        "_limits",
        "_message",
        "bytes_in",
        "bytes_out",
        "connection",
        "fields",
        "has_body",
        "headers",
        "http10",
        "keep_alive",
        "method",
        "started",
        "version",
    )

    def __init__(
        self,
        connection: Connection,
        message: RawRequestMessage,
        content: StreamReader,
        limits: Limits,
    ) -> None:
        self.connection = connection
        self._message = message
        self._content = content
        self._limits = limits
        self._continued = False
        self._chunked = False
        self._ends_with_connection = False
        self.method = message.method
        self.fields: Fields = message.raw_headers
        self.headers = message.headers
        """The same fields, to be found by name."""
        self.version: tuple[int, int] = message.version
        self.http10 = self.version < (1, 1)
        # Some requests are the last on their connection, because aiohttp's parser
        # (3.14.5) can't be trusted with what follows them: the last trailer field of a
        # chunked body becomes the first field of the next request, and what comes in
        # the same segment as a request with `Upgrade: h2c` is lost.
        self.keep_alive = not (
            message.should_close or message.chunked or message.upgrade
        )
        """Cleared by whatever makes the connection unfit for another request."""
        self.started = False
        """A byte of the answer was written: from here on, failures only abort."""
        self.has_body = content is not EMPTY_PAYLOAD
        self.bytes_in = 0
        self.bytes_out = 0

    # --- what came ---------------------------------------------------------

    @property
    def target(self) -> bytes:
        """The request target, byte for byte."""
        return self._message.path.encode("utf-8", "surrogateescape")

    @property
    def gone(self) -> bool:
        """The client's connection is closed."""
        return self.connection.transport is None

    @property
    def content_length(self) -> int | None:
        """The declared size of the body; None when it is chunked or there is none."""
        found = self.headers.get(hdrs.CONTENT_LENGTH)
        return int(found) if found is not None else None

    @property
    def has_rest(self) -> bool:
        """Not all of the body has arrived yet."""
        return not self._content.is_eof()

    def body_now(self, max_size: int) -> bytes | None:
        """Return the whole body if it came along with the head, else None.

        Raises:
            ContentTooLarge: it has more than *max_size* bytes.
            BadRequest: the chunked framing is broken.
        """
        content = self._content
        if not content.is_eof():
            return None
        try:
            body = content.read_nowait()
        except (web.RequestPayloadError, HttpProcessingError) as exc:
            raise BadRequest("broken body framing") from exc.with_traceback(None)
        self.bytes_in += len(body)
        if len(body) > max_size:
            raise ContentTooLarge
        return body

    async def body(self, max_size: int) -> AsyncIterator[bytes]:
        """Yield the body's pieces as they arrive, each at once.

        Whoever asked with `Expect: 100-continue` is answered here, that is after
        the request was allowed (RFC 9110 §10.1.1).

        Raises:
            ContentTooLarge: more than *max_size* bytes came.
            RequestTimeout: a gap longer than `body_idle_timeout`, or a rate below
                `body_min_rate`, while the client is waited for (not the upstream).
            BadRequest: the chunked framing is broken.
        """
        content, limits = self._content, self._limits
        if self._expects_continue():
            self._continued = True
            self._write(_CONTINUE)
        loop = asyncio.get_running_loop()
        waited = 0.0
        idle = asyncio.timeout(None)
        try:
            async with idle:
                while True:
                    asked = loop.time()
                    idle.reschedule(asked + limits.body_idle_timeout)
                    chunk = await content.readany()
                    idle.reschedule(None)
                    if not chunk:
                        return
                    waited += loop.time() - asked
                    self.bytes_in += len(chunk)
                    if self.bytes_in > max_size:
                        raise ContentTooLarge
                    if (
                        waited > _RATE_GRACE_S
                        and self.bytes_in < limits.body_min_rate * waited
                    ):
                        raise RequestTimeout("body below gateway.limits.body_min_rate")
                    yield chunk
        except TimeoutError:
            raise RequestTimeout("body stalled") from None
        except (web.RequestPayloadError, HttpProcessingError) as exc:
            raise BadRequest("broken body framing") from exc.with_traceback(None)
        finally:
            # It knows the task, whose error may hold this frame: no ring is left.
            del idle

    def _expects_continue(self) -> bool:
        """Return whether the body isn't sent before a 100 (RFC 9110 §10.1.1)."""
        return not self.http10 and not self._continued and hdrs.EXPECT in self.headers

    def _is_rest_small(self) -> bool:
        """Return whether the rest of the body will be taken to keep the connection.

        Not when the client waits for a 100: it may as well send its next request in
        place of the body, and the two can't be told apart.
        """
        if self._expects_continue():
            return False
        length = self.content_length
        return length is None or length - self.bytes_in <= self._limits.drain_body

    async def take_rest(self) -> None:
        """Throw the rest of an unwanted body away, or see that the connection ends.

        Called when the answer is written. The connection stays if at most `drain_body`
        bytes were left and came within 2 s. When it ends, the client is told so (FIN)
        and its bytes are taken for as long, up to 4 MiB of them.
        """
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            return
        left = self._limits.drain_body
        if not self.keep_alive:
            left = max(left, _LINGER_BYTES)
        content = self._content
        try:
            if not self.keep_alive and transport.can_write_eof():
                transport.write_eof()
            async with asyncio.timeout(_DRAIN_S):
                while left >= 0:
                    chunk = await content.readany()
                    if not chunk:
                        return
                    left -= len(chunk)
        except (
            OSError,  # TimeoutError is one, and that the client is gone
            web.RequestPayloadError,
            HttpProcessingError,
        ) as exc:
            exc.with_traceback(None)  # the body keeps it, and it would keep the body
        self.keep_alive = False

    # --- what goes back ----------------------------------------------------

    async def answer(self, answer: Answer, extra: Fields = ()) -> None:
        """Write a whole answer of the gateway's own, in one piece."""
        if answer.close or (self.has_rest and not self._is_rest_small()):
            self.keep_alive = False
        fields = [*answer.fields, *extra, (b"Date", rfc822_formatted_time().encode())]
        bodiless = answer.status in (204, 304)
        if not bodiless:
            fields.append((b"Content-Length", b"%d" % len(answer.body)))
        self._end_of_head(fields)
        out = answers.head(answer.status, None, fields)
        if not bodiless and self.method != "HEAD":
            out += answer.body
        self.started = True
        self._write(out)
        await self.drain()

    def start(
        self,
        status: int,
        reason: bytes,
        fields: list[Field],
        *,
        size: int | None,
        first: bytes,
        complete: bool,
    ) -> bool:
        """Write a proxied reply's head, with what is there of its body.

        Returns what `write` does. *size* is the body's whole length if it is known.
        *complete* says that *first* is all of the body. The framing is chosen here
        (RFC 9112 §6): Content-Length, else chunked, else (HTTP/1.0) the end of the
        connection.
        """
        # RFC 9110 §15: a refusal says that the rest of the body isn't wanted.
        if status >= 300 and self.has_rest and not self._is_rest_small():
            self.keep_alive = False
        bodiless = self.method == "HEAD" or status in (204, 304)
        if complete and size is None and not bodiless:
            size = len(first)
        if size is not None:
            if status != 204:
                fields.append((b"Content-Length", b"%d" % size))
        elif not bodiless:
            if self.http10:
                self.keep_alive = False
                self._ends_with_connection = True
            else:
                self._chunked = True
                fields.append(_CHUNKED)
        self._end_of_head(fields)
        self.started = True
        out = answers.head(status, reason, fields)
        if not first:
            self._write(out)
        elif self._chunked:
            self._write(b"%b%x\r\n%b\r\n" % (out, len(first), first))
        else:
            self._write(out + first)
        return not self.connection.writing_paused

    def upgrade(self, reason: bytes, fields: list[Field]) -> None:
        """Write the head of a 101; what follows on the connection isn't HTTP."""
        self.started = True
        self._write(answers.head(101, reason, fields))

    def write(self, chunk: bytes) -> bool:
        """Write a piece of the body; False asks the caller to `drain` first."""
        if self._chunked:
            self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        else:
            self._write(chunk)
        return not self.connection.writing_paused

    async def drain(self) -> None:
        """Return when the client has taken enough of what was written.

        Raises:
            ConnectionError: it is gone.
        """
        await self.connection.drained()

    def finish(self) -> None:
        """End a body that is whole. Never called for one that was cut."""
        if self._chunked:
            self._write(_LAST_CHUNK)

    def abort(self) -> None:
        """Drop the connection, so that a cut body can't be taken for a whole one."""
        self.keep_alive = False
        transport = self.connection.transport
        if transport is None:
            return
        if self._ends_with_connection:
            # An end by FIN would be a clean one: only a reset tells (RFC 9112 §8).
            sock = transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

    def _end_of_head(self, fields: list[Field]) -> None:
        if not self.keep_alive:
            fields.append(_CLOSE)
        elif self.http10:
            fields.append(_KEEP_ALIVE)

    def _write(self, data: bytes) -> None:
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        self.bytes_out += len(data)
        transport.write(data)
