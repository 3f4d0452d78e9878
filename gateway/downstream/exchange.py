"""edge. The client's side of one exchange: its body read, our bytes written.

The listener reads heads and owns the connection. What goes back is written here as
raw bytes, so that a proxied reply leaves exactly as it came.
"""

from __future__ import annotations

import asyncio
import email.utils
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import Any, Final, Protocol

from gateway import responses
from gateway.config import LimitsConfig
from gateway.errors import BadRequest, ContentTooLarge, RequestTimeout
from gateway.http.chunks import ChunkDecoder
from gateway.http.fields import Fields, block
from gateway.http.framing import BODILESS
from gateway.http.request_head import RequestHead
from gateway.pace import Pace
from gateway.responses import Response
from gateway.running import Wait, in_task

BODY_BYTES: Final = 32 * 1024
"""The connection isn't read while more than this much of a body waits for the upstream.
What is read at once comes on top of it: with uvloop up to 250 KiB."""

_LINGER_BYTES = 4 * 1024**2
"""How much of it is thrown away on a connection that ends: for as long as its bytes
wait unread, closing would make TCP reset it, and a browser that is still sending
might never see the 401 that tells it to refresh its session."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, on and with no time: closing sends a RST."""

_CLOSE = b"Connection: close\r\n\r\n"
_KEEP_ALIVE = b"Connection: keep-alive\r\n\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"


class ExchangeConnection(Protocol):
    """What carries the request: the listener's, as far as one answer needs it."""

    transport: asyncio.Transport | None
    address: str
    secure: bool

    @property
    def pace(self) -> Pace: ...

    @property
    def writing_paused(self) -> bool: ...

    def hand_over(self, tunnel: Any, /) -> None: ...
    async def drained(self) -> None: ...


class Body:
    """One request's body, as it arrives: fed by the connection, read by one task."""

    __slots__ = (
        "_arrival",
        "_chunks",
        "_is_broken",
        "_left",
        "_on_room",
        "_pieces",
        "complete",
        "size",
    )

    def __init__(self, head: RequestHead, on_room: Callable[[], None]) -> None:
        """*on_room* is called when somebody has read what was there."""
        self.complete = not head.has_body
        """All of it has arrived (some may still be unread)."""
        self.size = 0
        """Bytes that have arrived and are unread."""
        self._chunks = ChunkDecoder(BadRequest) if head.chunked else None
        self._left = head.content_length or 0
        """Bytes to come, if its length was declared."""
        self._is_broken = False
        self._pieces: list[bytes] = []
        self._on_room = on_room
        self._arrival: Wait[None] | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the connection; return those behind the body's end.

        A body whose framing is broken has no end: nothing behind it is a request.
        """
        if self._is_broken:
            return b""
        rest = b""
        chunks = self._chunks
        if chunks is not None:
            try:
                pieces = chunks.feed(data)
            except BadRequest:
                self._is_broken = True
            else:
                self._pieces += pieces
                self.size += sum(map(len, pieces))
                if chunks.ended:
                    self.complete = True
                    rest, chunks.rest = chunks.rest, b""
        else:
            if len(data) >= self._left:
                self.complete = True
                if len(data) > self._left:
                    data, rest = data[: self._left], data[self._left :]
            self._left -= len(data)
            self.size += len(data)
            self._pieces.append(data)
        return rest

    def wake(self) -> None:
        """Let a reader that waits have what is there. It may run it: call it last."""
        arrival = self._arrival
        if arrival is not None and (self._pieces or self.complete or self._is_broken):
            self._arrival = None
            arrival.end(None)

    def read_now(self) -> bytes:
        """Return what has arrived and is unread.

        Raises:
            BadRequest: the chunked framing is broken.
        """
        if self._is_broken:
            raise BadRequest("broken body framing")
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.size = 0
        self._on_room()
        return data

    async def read(self) -> bytes:
        """Return what has arrived, as soon as anything has; b"" at the end.

        Raises:
            BadRequest: the chunked framing is broken.
        """
        while not (self._pieces or self.complete or self._is_broken):
            arrival: Wait[None] = Wait()
            self._arrival = arrival
            try:
                await arrival
            finally:
                self._arrival = None
        return self.read_now()


class _NoBody(Body):
    """The body of a request that has none: nothing of it changes."""

    __slots__ = ()

    def __init__(self) -> None:
        self.complete = True
        self.size = 0

    def read_now(self) -> bytes:
        return b""

    async def read(self) -> bytes:
        return b""


NO_BODY: Final = _NoBody()


def check_upload(
    size: int, waited_s: float, max_size: int, limits: LimitsConfig, pace: Pace
) -> None:
    """Refuse a body that is too large, or comes too slowly.

    *size* is what came of it, in bytes, and *waited_s* how long that was waited for.
    The rate is judged after `pace.body_rate_grace_s`.

    Raises:
        ContentTooLarge: it has more than *max_size* bytes.
        RequestTimeout: it comes at a rate below `gateway.limits.body_min_rate`.
    """
    if size > max_size:
        raise ContentTooLarge
    grace_s = pace.body_rate_grace_s
    if waited_s > grace_s and size < limits.body_min_rate * waited_s:
        raise RequestTimeout("body below gateway.limits.body_min_rate")


class Readable(Protocol):
    """A request's body, as `BodyReader` reads it: see `Body`."""

    @property
    def complete(self) -> bool: ...

    def read_now(self) -> bytes: ...
    async def read(self) -> bytes: ...


class BodyReader(ABC):
    """The side of a client that reads its request's body, within the limits."""

    __slots__ = ("_body", "_continued", "_limits", "bytes_in", "head")

    head: RequestHead
    bytes_in: int
    _body: Readable
    _limits: LimitsConfig
    _continued: bool

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """Write to the client's connection at once.

        Raises:
            ConnectionError: the client is gone.
        """

    @property
    @abstractmethod
    def _pace(self) -> Pace: ...

    @property
    def has_rest(self) -> bool:
        """Not all of the body has arrived yet."""
        return not self._body.complete

    def body_now(self, max_size: int) -> bytes | None:
        """Return the whole body if all of it has arrived, else None.

        Raises:
            ContentTooLarge: it has more than *max_size* bytes.
            BadRequest: the chunked framing is broken.
        """
        if not self._body.complete:
            return None
        body = self._body.read_now()
        self.bytes_in += len(body)
        if len(body) > max_size:
            raise ContentTooLarge
        return body

    async def body(self, max_size: int) -> AsyncIterator[bytes]:
        """Yield the body's pieces as they arrive, each at once.

        A request with `Expect: 100-continue` gets its 100 here, which is after the
        request was allowed (RFC 9110 §10.1.1).

        Raises:
            ContentTooLarge: more than *max_size* bytes came.
            RequestTimeout: a gap longer than `body_idle_timeout`, or a rate below
                `body_min_rate`, while the client is waited for (not the upstream).
            BadRequest: the chunked framing is broken.
        """
        content, limits, pace = self._body, self._limits, self._pace
        if self._expects_continue():
            self._continued = True
            self._write(_CONTINUE)
        await in_task()  # for its deadlines
        loop = asyncio.get_running_loop()
        waited = 0.0
        idle = asyncio.timeout(None)
        try:
            async with idle:
                while True:
                    asked = loop.time()
                    idle.reschedule(asked + limits.body_idle_timeout)
                    chunk = await content.read()
                    idle.reschedule(None)
                    if not chunk:
                        return
                    waited += loop.time() - asked
                    self.bytes_in += len(chunk)
                    check_upload(self.bytes_in, waited, max_size, limits, pace)
                    yield chunk
        except TimeoutError:
            raise RequestTimeout("body stalled") from None
        finally:
            # It holds the task, whose exception may hold this frame: avoid a cycle.
            del idle

    def _expects_continue(self) -> bool:
        """Return whether the client waits for a 100 (RFC 9110 §10.1.1)."""
        return self.head.expects_continue and not self._continued


def reset_on_close(transport: asyncio.Transport) -> None:
    """Make the connection end with a RST when it is closed, not with a FIN.

    A body that ends with its connection would be complete after a FIN (RFC 9112 §8).
    """
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


class Exchange(BodyReader):
    """One request's client: used by one task, for one answer."""

    __slots__ = (
        "_chunked",
        "_ends_with_connection",
        "bytes_out",
        "connection",
        "keep_alive",
        "started",
    )

    def __init__(
        self,
        connection: ExchangeConnection,
        head: RequestHead,
        body: Body,
        limits: LimitsConfig,
    ) -> None:
        self.connection = connection
        self.head = head
        self.keep_alive = head.keep_alive
        """Cleared by whatever makes the connection unfit for another request."""
        self.started = False
        """A byte of the answer was written: from here on, failures only abort."""
        self.bytes_in = 0
        self.bytes_out = 0
        self._body = body
        self._limits = limits
        self._continued = False
        self._chunked = False
        self._ends_with_connection = False

    @property
    def _pace(self) -> Pace:
        return self.connection.pace

    # --- what came ---------------------------------------------------------

    @property
    def gone(self) -> bool:
        """The client's connection is closed."""
        return self.connection.transport is None

    def _has_much_left(self) -> bool:
        """Return whether too much of the body is left to keep the connection.

        It always is when the client waits for a 100 that didn't come: it may as well
        send its next request in place of the body, and the two can't be told apart.
        """
        if self.head.has_body and not self.bytes_in and self._expects_continue():
            return True
        if not self.has_rest:
            return False
        length = self.head.content_length
        return length is not None and length - self.bytes_in > self._limits.drain_body

    async def take_rest(self) -> None:
        """Throw the rest of an unwanted body away, or see that the connection ends.

        Called when the answer is written. The connection stays if at most `drain_body`
        bytes were left and came within `pace.drain_body_s`. When it ends, the client
        is told so (FIN) and its bytes are taken for as long, up to 4 MiB of them.
        """
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            return
        await in_task()  # for its deadline
        left = self._limits.drain_body
        if not self.keep_alive:
            left = max(left, _LINGER_BYTES)
        try:
            if not self.keep_alive and transport.can_write_eof():
                transport.write_eof()
            async with asyncio.timeout(self.connection.pace.drain_body_s):
                while left >= 0:
                    chunk = await self._body.read()
                    if not chunk:
                        return
                    left -= len(chunk)
        except (OSError, BadRequest):
            pass  # TimeoutError is an OSError, and so is that the client is gone
        self.keep_alive = False

    # --- what goes back ----------------------------------------------------

    async def answer(self, answer: Response, extra: Fields = ()) -> None:
        """Write a whole answer of the gateway's own, in one piece."""
        if answer.close or self._has_much_left():
            self.keep_alive = False
        date = (b"Date", _date(int(time.time())))
        parts = [
            responses.start(answer.status),
            block((*answer.fields, *extra, date)),
        ]
        is_bodiless = answer.status in BODILESS
        if not is_bodiless:
            parts.append(b"Content-Length: %d\r\n" % len(answer.body))
        parts.append(self._end_of_head())
        if not is_bodiless and self.head.method != "HEAD":
            parts.append(answer.body)
        self.started = True
        self._write(b"".join(parts))
        await self.drain()

    def start(
        self,
        head: bytes,
        status: int,
        size: int | None,
        first: bytes,
        complete: bool,
    ) -> bool:
        """Write a proxied reply's head, with what is there of its body.

        Returns what `write` does. *head* is the status line and the fields, each with
        CRLF. *size* is the body's whole length if it is known. *complete* says that
        *first* is all of the body. The framing is chosen here (RFC 9112 §6):
        Content-Length, else chunked, else (HTTP/1.0) the end of the connection.
        """
        # RFC 9110 §15: a refusal says that the rest of the body isn't wanted.
        if status >= 300 and self._has_much_left():
            self.keep_alive = False
        framing = b""
        if size is not None:
            if status != 204:
                framing = b"Content-Length: %d\r\n" % size
        elif self.head.method == "HEAD" or status in BODILESS:
            pass
        elif complete:
            framing = b"Content-Length: %d\r\n" % len(first)
        elif self.head.http10:
            self.keep_alive = False
            self._ends_with_connection = True
        else:
            self._chunked = True
            framing = _CHUNKED
            if first:
                first = b"%x\r\n%b\r\n" % (len(first), first)
        self.started = True
        self._write(b"".join((head, framing, self._end_of_head(), first)))
        return not self.connection.writing_paused

    def upgrade(self, head: bytes) -> None:
        """Write a 101 with *head*; what follows on the connection isn't HTTP."""
        self.started = True
        self._write(head + b"\r\n")

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
            reset_on_close(transport)
        transport.abort()

    def _end_of_head(self) -> bytes:
        """Return the empty line, with Connection before it where that is needed."""
        if not self.keep_alive:
            return _CLOSE
        return _KEEP_ALIVE if self.head.http10 else b"\r\n"

    def _write(self, data: bytes) -> None:
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        self.bytes_out += len(data)
        transport.write(data)


@lru_cache(maxsize=1)
def _date(at: int) -> bytes:
    """Return the value of Date for *at*, in seconds since 1970 (RFC 9110 §5.6.7)."""
    return email.utils.formatdate(at, usegmt=True).encode()
