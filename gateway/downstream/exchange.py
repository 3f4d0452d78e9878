"""edge. The client's side of one exchange: reads the body, writes the response.

The listener reads heads and owns the connection. Responses are written here as raw
bytes, so a proxied reply is sent exactly as the service sent it.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

from gateway import responses
from gateway.config import LimitsConfig
from gateway.downstream import hsts
from gateway.downstream.reset import reset_on_close
from gateway.errors import (
    BadRequest,
    ClientGone,
    ContentTooLarge,
    GatewayError,
    RequestTimeout,
    ShuttingDown,
)
from gateway.http.chunks import ChunkDecoder
from gateway.http.fields import Fields, block
from gateway.http.framing import BODILESS
from gateway.http.pieces import append
from gateway.http.request_head import RequestHead
from gateway.pace import Pace
from gateway.responses import Response
from gateway.running import Wait, ensure_task

BODY_BYTES: Final = 32 * 1024
"""Reading from the connection pauses while more bytes of a body than this wait for the
upstream. One read can exceed the limit: with uvloop by up to 250 KiB."""

_LINGER_BYTES = 4 * 1024**2
"""Bytes of a body that are discarded, at most, on a connection that is to be closed.
Closing while bytes are unread would make TCP reset the connection, and a browser that
is still sending might never see the 401 that makes it refresh its session."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"

_CLOSE = b"Connection: close\r\n\r\n"
_KEEP_ALIVE = b"Connection: keep-alive\r\n\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"


class ExchangeConnection(Protocol):
    """The attributes of the listener's connection that one exchange uses."""

    transport: asyncio.Transport | None
    address: str
    secure: bool
    own_fields: bytes
    """The lines of fields that all its replies get, each with CRLF."""
    failure: GatewayError | None
    """What the connection was cut for; None if it wasn't."""

    def cut(self, error: GatewayError) -> None: ...
    @property
    def pace(self) -> Pace: ...

    @property
    def writing_paused(self) -> bool: ...

    def hand_over(self, tunnel: Any, /) -> None: ...
    async def drained(self) -> None: ...


class Body:
    """The body of one request: fed by the connection, read by one coroutine."""

    __slots__ = (
        "_arrival",
        "_chunks",
        "_is_broken",
        "_left",
        "_lent",
        "_on_read",
        "_pieces",
        "complete",
        "size",
    )

    def __init__(self, head: RequestHead, on_read: Callable[[], None]) -> None:
        """*on_read* is called each time unread bytes were read."""
        self.complete = not head.has_body
        """The whole body has arrived (some may still be unread)."""
        self.size = 0
        """Bytes that have arrived and are unread."""
        self._lent = 0
        """Bytes of the last piece that was read. The upstream may not have taken it."""
        self._chunks = ChunkDecoder(BadRequest) if head.chunked else None
        self._left = head.content_length or 0
        """Bytes that are still to come, if the body's length was declared."""
        self._is_broken = False
        self._pieces: list[bytes] = []
        self._on_read = on_read
        self._arrival: Wait[None] | None = None

    @property
    def is_behind(self) -> bool:
        """Whether bytes have arrived that aren't decoded: `feed(b"")` goes on.

        Meanwhile the connection isn't read, and none of these bytes count in `size`.
        """
        chunks = self._chunks
        return chunks is not None and bool(chunks.unread) and not self._is_broken

    @property
    def held(self) -> int:
        """The bytes that may be in memory: the unread ones, and the last piece."""
        undecoded = 0 if self._chunks is None else len(self._chunks.unread)
        return self.size + self._lent + undecoded

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the connection; return those after the body's end.

        Of a chunked body, a bounded number of chunks is decoded; see `is_behind`. A
        body with broken framing has no known end, so no bytes after it are returned.
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
                if pieces:
                    # One for each read: as objects of their own, small chunks would
                    # take 28 times the memory of their bytes.
                    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                    append(self._pieces, data)
                    self.size += len(data)
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
            if data:
                append(self._pieces, data)
        return rest

    def wake(self) -> None:
        """Resume the waiting reader if it has something to read.

        The reader may run before this returns, so callers do nothing after it.
        """
        arrival = self._arrival
        if arrival is not None and (self._pieces or self.complete or self._is_broken):
            self._arrival = None
            arrival.end(None)

    def read_now(self) -> bytes:
        """Return the bytes that have arrived and are unread.

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
        self._lent = len(data)
        self.size = 0
        self._on_read()
        return data

    async def read(self) -> bytes:
        """Return the unread bytes; wait if there are none. b"" is the body's end.

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
    """The body of a request without one. It never changes, so all share it."""

    __slots__ = ()

    def __init__(self) -> None:
        self.complete = True
        self.size = 0
        self._chunks = None
        self._lent = 0

    def read_now(self) -> bytes:
        return b""

    async def read(self) -> bytes:
        return b""


NO_BODY: Final = _NoBody()


def check_upload(
    size: int, waited_s: float, max_size: int, limits: LimitsConfig, pace: Pace
) -> None:
    """Refuse a body that is too large, or arrives too slowly.

    *size* is the number of bytes that have arrived, and *waited_s* the seconds spent
    waiting for them. The rate is checked after `pace.body_rate_grace_s`.

    Raises:
        ContentTooLarge: *size* is above *max_size*.
        RequestTimeout: the rate is below `gateway.limits.body_min_rate`.
    """
    if size > max_size:
        raise ContentTooLarge
    grace_s = pace.body_rate_grace_s
    if waited_s > grace_s and size < limits.body_min_rate * waited_s:
        raise RequestTimeout("body below gateway.limits.body_min_rate")


class Readable(Protocol):
    """The members of a request's body that `BodyReader` uses (see `Body`)."""

    @property
    def complete(self) -> bool: ...

    def read_now(self) -> bytes: ...
    async def read(self) -> bytes: ...


class BodyReader(ABC):
    """Reads the body of a client's request, within the limits."""

    __slots__ = ("_body", "_continued", "_limits", "bytes_in", "head")

    head: RequestHead
    bytes_in: int
    _body: Readable
    _limits: LimitsConfig
    _continued: bool

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """Write to the client's connection immediately.

        Raises:
            ConnectionError: the client is gone.
        """

    @property
    @abstractmethod
    def _pace(self) -> Pace: ...

    @property
    def ended_because(self) -> GatewayError:
        """What a request is answered with that outlasts the drain."""
        return ShuttingDown()

    @property
    def has_rest(self) -> bool:
        """Whether a part of the body hasn't arrived yet."""
        return not self._body.complete

    def body_now(self, max_size: int) -> bytes | None:
        """Return the whole body if all of it has arrived, else None.

        Raises:
            ContentTooLarge: the body has more than *max_size* bytes.
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
        """Yield the body's pieces as they arrive, without collecting them.

        A request with `Expect: 100-continue` gets its 100 here, which is after the
        request was allowed (RFC 9110 §10.1.1).

        Raises:
            ContentTooLarge: more than *max_size* bytes arrived.
            RequestTimeout: a gap is longer than `body_idle_timeout`, or the rate is
                below `body_min_rate`. Only time spent waiting for the client counts,
                not time spent waiting for the upstream.
            ConnectionError: the client is gone.
            BadRequest: the chunked framing is broken.
        """
        content, limits, pace = self._body, self._limits, self._pace
        if self._expects_continue():
            self._continued = True
            self._write(_CONTINUE)
        await ensure_task()  # `asyncio.timeout` needs a task
        loop = asyncio.get_running_loop()
        waited = 0.0
        idle = asyncio.timeout(None)
        try:
            async with idle:
                while True:
                    waiting_since = loop.time()
                    idle.reschedule(waiting_since + limits.body_idle_timeout)
                    chunk = await content.read()
                    idle.reschedule(None)
                    if not chunk:
                        return
                    waited += loop.time() - waiting_since
                    self.bytes_in += len(chunk)
                    check_upload(self.bytes_in, waited, max_size, limits, pace)
                    yield chunk
        except TimeoutError:
            raise RequestTimeout(
                "body stalled for gateway.limits.body_idle_timeout"
            ) from None
        finally:
            # `idle` holds the task, whose exception may hold this frame: avoid a cycle.
            del idle

    def _expects_continue(self) -> bool:
        """Return whether the client waits for a 100 (RFC 9110 §10.1.1)."""
        return self.head.expects_continue and not self._continued


class Exchange(BodyReader):
    """The client of one request; one coroutine uses it, for one response."""

    client_address: str

    __slots__ = (
        "_chunked",
        "_ends_with_connection",
        "bytes_out",
        "client_address",
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
        """False once the connection can't take another request."""
        self.started = False
        """A byte of the response was written: later failures abort the connection."""
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

    # --- from the client ---------------------------------------------------

    @property
    def gone(self) -> bool:
        """The client's connection is closed."""
        return self.connection.transport is None

    @property
    def gone_because(self) -> GatewayError:
        """What is recorded if the client is gone."""
        return self.connection.failure or ClientGone()

    def _has_much_left(self) -> bool:
        """Return whether too much of the body is left to keep the connection.

        This is always true when the client waits for a 100 that wasn't sent. It may
        send either the body or its next request, and the two can't be distinguished.
        """
        if self.head.has_body and not self.bytes_in and self._expects_continue():
            return True
        if not self.has_rest:
            return False
        length = self.head.content_length
        return length is not None and length - self.bytes_in > self._limits.drain_body

    async def take_rest(self) -> None:
        """Discard the rest of an unwanted body, or mark the connection to be closed.

        Called after the response is written. The connection stays open if at most
        `drain_body` bytes are left and arrive within `pace.drain_body_s`. If it is to
        be closed, a FIN is sent first, and up to 4 MiB are discarded within the same
        time.
        """
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            return
        await ensure_task()  # `asyncio.timeout` needs a task
        try:
            async with asyncio.timeout(self.connection.pace.drain_body_s):
                if (
                    self.keep_alive
                    and not self._has_much_left()
                    and await self._discard(self._limits.drain_body)
                ):
                    return
                self.keep_alive = False
                if transport.can_write_eof():
                    transport.write_eof()
                await self._discard(_LINGER_BYTES)
        except (OSError, BadRequest):
            pass  # TimeoutError and ConnectionError (the client is gone) are OSErrors
        self.keep_alive = False

    async def _discard(self, size: int) -> bool:
        """Discard the rest of the body; return False if it has more than *size* bytes.

        Raises:
            BadRequest: the chunked framing is broken.
        """
        while size >= 0:
            chunk = await self._body.read()
            if not chunk:
                return True
            size -= len(chunk)
        return False

    # --- to the client -----------------------------------------------------

    async def answer(self, answer: Response, extra: Fields = ()) -> None:
        """Write a complete response of the gateway in one piece, with fields *extra*.

        Raises:
            ConnectionError: the client is gone.
        """
        if answer.close or self._has_much_left():
            self.keep_alive = False
        date = responses.date(int(time.time()))
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
        """Write a proxied reply's head, and *first*, the available part of its body.

        Returns the same as `write`. *head* is the status line and the fields, each
        with CRLF. *size* is the length of the whole body in bytes, None if it isn't
        known. *complete* means that *first* is the whole body. The framing is chosen
        here (RFC 9112 §6): Content-Length, else chunked, else (HTTP/1.0) the end of
        the connection.

        Raises:
            ConnectionError: the client is gone.
        """
        # RFC 9112 §9.3: nobody reads the rest of the body after a complete reply, nor
        # after such a status (RFC 9110 §15).
        if self.head.has_body and (complete or status >= 300) and self._has_much_left():
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
        if self.connection.own_fields:
            head = hsts.without(head)
        self.started = True
        self._write(b"".join((head, framing, self._end_of_head(), first)))
        return not self.connection.writing_paused

    def upgrade(self, head: bytes) -> None:
        """Write a 101 with *head*; the bytes after it on the connection aren't HTTP.

        Raises:
            ConnectionError: the client is gone.
        """
        self.started = True
        self._write(head + b"\r\n")

    def write(self, chunk: bytes) -> bool:
        """Write a piece of the body; return False if `drain` must be awaited next.

        Raises:
            ConnectionError: the client is gone.
        """
        if self._chunked:
            self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        else:
            self._write(chunk)
        return not self.connection.writing_paused

    async def drain(self) -> None:
        """Return when the client has received enough for more to be written.

        Raises:
            ConnectionError: the client is gone.
        """
        await self.connection.drained()

    def finish(self) -> None:
        """End a complete body. Never called for a truncated one."""
        if self._chunked:
            self._write(_LAST_CHUNK)

    def abort(self) -> None:
        """Abort the connection, so a truncated body can't pass for a complete one."""
        self.keep_alive = False
        transport = self.connection.transport
        if transport is None:
            return
        if self._ends_with_connection:
            reset_on_close(transport)
        transport.abort()

    def cut(self, error: GatewayError) -> None:
        """Abort the connection; *error* is the reason in the access log."""
        self.connection.cut(error)

    def _end_of_head(self) -> bytes:
        """Return the empty line that ends a head, after the fields of the connection.

        These are Connection, if it is needed, and the address' own.
        """
        last = b"\r\n"
        if not self.keep_alive:
            last = _CLOSE
        elif self.head.http10:
            last = _KEEP_ALIVE
        own = self.connection.own_fields
        return own + last if own else last

    def _write(self, data: bytes) -> None:
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        self.bytes_out += len(data)
        transport.write(data)
