"""edge. One request of aiohttp's server, as a client of the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator

from aiohttp import StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from gateway.aiohttp_app.connection import AiohttpConnection
from gateway.aiohttp_app.replies import AiohttpReply
from gateway.config import LimitsConfig
from gateway.downstream.exchange import BodyReader, reset_on_close
from gateway.errors import BadReply, BadRequest, ClientGone, GatewayError
from gateway.http.fields import Field, Fields, has_control
from gateway.http.framing import BODILESS
from gateway.http.request_head import RequestHead
from gateway.pace import Pace
from gateway.responses import Response
from gateway.seams import aiohttp as aiohttp_seams

_CODINGS = frozenset({"gzip", "deflate", "br", "zstd"})
"""Content codings that aiohttp decodes, unless it is told not to."""


class _Body:
    """aiohttp's reader of a body, with the methods of the listener's `Body`."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader

    @property
    def complete(self) -> bool:
        """All of the body has arrived."""
        return self._reader.is_eof()

    def read_now(self) -> bytes:
        """Return what has arrived and is unread.

        Raises:
            BadRequest: the chunked framing is broken.
            ClientGone: the client left.
        """
        with _translated():
            return self._reader.read_nowait()

    async def read(self) -> bytes:
        """Return what has arrived, as soon as anything has; b"" at the end.

        Raises: as `read_now`.
        """
        with _translated():
            return await self._reader.readany()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Translate the errors of aiohttp's reader."""
    try:
        yield
    except aiohttp_seams.body_errors() as exc:
        raise BadRequest("broken body framing") from exc.with_traceback(None)
    except ConnectionError:
        raise ClientGone from None


class AiohttpExchange(BodyReader):
    """One request of aiohttp's server, as a client of the proxy.

    What the proxy writes is kept until it calls `drain`, which may wait.
    """

    def __init__(
        self, request: web.Request, head: RequestHead, limits: LimitsConfig, pace: Pace
    ) -> None:
        self._request = request
        self.head = head
        self._body = _Body(request.content)
        self._limits = limits
        self._given_pace = pace
        self._kept: deque[bytes] = deque()
        self._reply: AiohttpReply | None = None
        self._writer: AbstractStreamWriter | None = None
        self._is_whole = False
        """`finish` was called: the body is complete."""
        self._is_cut_off = False
        self.is_tunnel = False
        """Whether the request was upgraded."""
        self._continued = False
        self._raw_bytes = 0
        """Bytes written to the transport directly."""
        self.connection = AiohttpConnection(request)
        # aiohttp's parser (3.14.5) misreads what follows such a request on the
        # connection: the last trailer of a chunked body becomes a field of the next
        # request, and bytes behind an upgrade to h2c are lost.
        self.keep_alive = not (head.chunked or head.has_upgrade)
        self.started = False
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def _pace(self) -> Pace:
        return self._given_pace

    # --- what comes from the client ----------------------------------------

    @property
    def gone(self) -> bool:
        """The client's connection is closed."""
        return self._request.transport is None

    def body_now(self, max_size: int) -> bytes | None:
        """Return the whole body if all of it has arrived, else None.

        Raises:
            GatewayError: aiohttp has decompressed it; or as in `BodyReader`.
        """
        self._check_coding()
        return super().body_now(max_size)

    def body(self, max_size: int) -> AsyncIterator[bytes]:
        """Yield the body's pieces as they arrive, each at once.

        Raises:
            GatewayError: aiohttp has decompressed it.
            ClientGone: the client left; or as in `BodyReader`.
        """
        self._check_coding()
        return super().body(max_size)

    def _check_coding(self) -> None:
        """Refuse a body whose bytes aren't those that the client sent.

        Raises:
            GatewayError: aiohttp has decompressed it.
        """
        coding = self._request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
        if coding not in _CODINGS:
            return
        if aiohttp_seams.decompresses(self._request):
            raise GatewayError(
                "aiohttp decompresses request bodies: make the outer application with"
                " handler_args=gateway.aiohttp_app.HANDLER_ARGS"
            )

    def _is_rest_small(self) -> bool:
        """Return whether aiohttp may read the rest of the body to keep the connection.

        Not if the client waits for a 100: it may send its next request instead of the
        body, and the two can't be told apart.
        """
        if self._expects_continue():
            return False
        length = self._request.content_length
        return length is None or length - self.bytes_in <= self._limits.drain_body

    async def take_rest(self) -> None:
        """Do nothing: aiohttp reads the rest within `lingering_time`, or closes."""

    # --- what goes to the client -------------------------------------------

    async def answer(self, answer: Response, extra: Fields = ()) -> None:
        """Write a whole answer of the gateway's own.

        Raises:
            ConnectionError: the client is gone.
        """
        if answer.close or (self.has_rest and not self._is_rest_small()):
            self.keep_alive = False
        self._kept.clear()
        date = (b"Date", email.utils.formatdate(usegmt=True).encode())
        fields = (*answer.fields, *extra, date)
        self._begin(answer.status, None, fields, size=len(answer.body))
        if not self._is_bodiless(answer.status):
            self._kept.append(answer.body)
        self.finish()
        await self.drain()

    def start(
        self,
        head: bytes,
        status: int,
        size: int | None,
        first: bytes,
        complete: bool,
    ) -> bool:
        """Keep a proxied reply's head, and *first* of its body, until `drain`.

        The framing is aiohttp's: Content-Length when *size* is known, else chunked,
        else (HTTP/1.0) the end of the connection.

        Raises:
            BadReply: aiohttp can't send one of the fields as it is.
        """
        if status >= 300 and self.has_rest and not self._is_rest_small():
            self.keep_alive = False
        if complete and size is None and not self._is_bodiless(status):
            size = len(first)
        start, *lines = head.removesuffix(b"\r\n").split(b"\r\n")
        pairs = (line.partition(b": ") for line in lines)
        self._begin(
            status,
            start.split(b" ", 2)[2],
            ((name, value) for name, _, value in pairs),
            size=size,
        )
        self._kept.append(first)
        return False

    def _is_bodiless(self, status: int) -> bool:
        return self.head.method == "HEAD" or status in BODILESS

    def _begin(
        self,
        status: int,
        reason: bytes | None,
        fields: Iterable[Field],
        *,
        size: int | None,
    ) -> None:
        """Make the reply whose head `drain` writes first.

        Raises:
            BadReply: as `start`.
        """
        sent: CIMultiDict[str] = CIMultiDict()
        for name, value in fields:
            if has_control(value):  # aiohttp 3.14 refuses it, too
                raise BadReply(f"a control character in {name.decode()}")
            try:
                sent.add(name.decode(), value.decode())
            except UnicodeDecodeError:
                raise BadReply(f"{name.decode()} isn't UTF-8") from None
        phrase: str | None = None
        if reason is not None and not has_control(reason):
            # Only people read the phrase: without it, aiohttp's own is sent.
            with contextlib.suppress(UnicodeDecodeError):
                phrase = reason.decode()
        if size is not None and status != 204:
            sent[hdrs.CONTENT_LENGTH] = str(size)
        elif not self._is_bodiless(status) and self.head.http10:
            self.keep_alive = False
        reply = self._reply = AiohttpReply(status, phrase, sent)
        if not self.keep_alive:
            reply.force_close()

    def write(self, chunk: bytes) -> bool:
        """Keep a piece of the body until `drain`."""
        self._kept.append(chunk)
        return False

    def finish(self) -> None:
        """Complete the body. aiohttp sends what `drain` doesn't."""
        self._is_whole = True

    async def drain(self) -> None:
        """Write what was kept; return when the buffer has room for more.

        Raises:
            ConnectionError: the client is gone, or read nothing for
                `write_idle_timeout`.
        """
        reply, kept = self._reply, self._kept
        assert reply is not None
        with self._watch():
            if self._writer is None:
                self.started = True
                self._writer = await reply.prepare(self._request)
            writer = self._writer
            assert writer is not None, "prepare is called once, before write_eof"
            while kept:
                if piece := kept.popleft():
                    await reply.write(piece)
                del piece
            if self._is_whole:
                await reply.write_eof()
            await writer.drain()
        self.bytes_out = self._raw_bytes + writer.output_size

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        """Abort the connection if its client reads nothing for `write_idle_timeout`.

        Checked once in that time, so it may take twice as long.
        """
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError
        loop = asyncio.get_running_loop()
        limit = self._limits.write_idle_timeout
        before = 0
        handle: asyncio.TimerHandle

        def look() -> None:
            nonlocal before, handle
            left = transport.get_write_buffer_size()
            if left and left == before:
                transport.abort()
                return
            before = left
            handle = loop.call_later(limit, look)

        handle = loop.call_later(limit, look)
        try:
            yield
        finally:
            handle.cancel()

    def upgrade(self, head: bytes) -> None:
        """Write a 101 with *head*; what follows on the connection isn't HTTP."""
        self.started = self.is_tunnel = True
        self._write(head + b"\r\n")

    def abort(self) -> None:
        """Abort the connection, so that a cut body isn't taken for a whole one."""
        self.keep_alive = False
        self._is_cut_off = True
        transport = self._request.transport
        if transport is None:
            return
        if self.head.http10:  # some of its replies end with the connection
            reset_on_close(transport)
        transport.abort()

    def response(self) -> web.StreamResponse:
        """Return the response that aiohttp's server finishes after the proxy."""
        if self._reply is None or self._is_cut_off or self.is_tunnel:
            status = 101 if self.is_tunnel else 499
            return aiohttp_seams.Written(status)
        if not self.keep_alive:
            self._reply.force_close()
        return self._reply

    def _write(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        self._raw_bytes += len(data)
        self.bytes_out += len(data)
        transport.write(data)
