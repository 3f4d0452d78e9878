"""edge. One request of aiohttp's server, as a client of the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator

from aiohttp import StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from gateway import responses
from gateway.aiohttp_app.connection import AiohttpConnection
from gateway.aiohttp_app.replies import AiohttpReply
from gateway.config import LimitsConfig
from gateway.downstream.exchange import BodyReader
from gateway.downstream.read_progress import ReadProgress
from gateway.downstream.reset import reset_on_close
from gateway.downstream.send_queue import unreceived
from gateway.errors import BadReply, BadRequest, ClientGone, GatewayError
from gateway.http.fields import Field, Fields, has_control
from gateway.http.framing import BODILESS
from gateway.http.request_head import RequestHead
from gateway.pace import Pace
from gateway.responses import Response
from gateway.seams import aiohttp as aiohttp_seams

_CODINGS = frozenset({"gzip", "deflate", "br", "zstd"})
"""Content codings that aiohttp decodes unless `auto_decompress` is False."""


class _Body:
    """aiohttp's reader of a body, with the methods of the listener's `Body`."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader

    @property
    def complete(self) -> bool:
        """Whether the whole body has arrived."""
        return self._reader.is_eof()

    def read_now(self) -> bytes:
        """Return the bytes that have arrived and are unread.

        Raises:
            BadRequest: the chunked framing is broken.
            ClientGone: the client is gone.
        """
        with _translated():
            return self._reader.read_nowait()

    async def read(self) -> bytes:
        """Return the unread bytes; wait if there are none. b"" is the body's end.

        Raises: as `read_now`.
        """
        with _translated():
            return await self._reader.readany()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Translate the errors of aiohttp's reader to the gateway's."""
    try:
        yield
    except aiohttp_seams.body_errors() as exc:
        raise BadRequest("broken body framing") from exc.with_traceback(None)
    except ConnectionError:
        raise ClientGone from None


class AiohttpExchange(BodyReader):
    """One request of aiohttp's server, as a client of the proxy.

    Pieces that the proxy writes are kept until it awaits `drain`, which sends them.
    """

    def __init__(
        self, request: web.Request, head: RequestHead, limits: LimitsConfig, pace: Pace
    ) -> None:
        self._request = request
        self.head = head
        self._body = _Body(request.content)
        self._limits = limits
        self._exchange_pace = pace
        self._kept: deque[bytes] = deque()
        self._reply: AiohttpReply | None = None
        self._writer: AbstractStreamWriter | None = None
        self._is_finished = False
        """`finish` was called: the proxy has written the whole body."""
        self._is_cut_off = False
        self._progress: ReadProgress | None = None
        """How the client reads; None if no bytes have waited for it."""
        self._failure: GatewayError | None = None
        """What the connection was cut for; None if it wasn't."""
        self.is_tunnel = False
        """Whether the request was upgraded."""
        self._continued = False
        self._raw_bytes = 0
        """Bytes that were written to the transport directly."""
        self.connection = AiohttpConnection(request)
        self.client_address = self.connection.address
        # aiohttp's parser (3.14.5) misreads what follows such a request on the
        # connection: the last trailer of a chunked body becomes a field of the next
        # request, and bytes behind an upgrade to h2c are lost.
        self.keep_alive = not (head.chunked or head.has_upgrade)
        self.started = False
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def _pace(self) -> Pace:
        return self._exchange_pace

    # --- from the client ---------------------------------------------------

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
        """Yield the body's pieces as they arrive, without collecting them.

        Raises:
            GatewayError: aiohttp has decompressed it.
            ClientGone: the client is gone; or as in `BodyReader`.
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

    def cut(self, error: GatewayError) -> None:
        """Reset the connection; *error* is the reason in the access log."""
        self._failure = error
        if (transport := self._request.transport) is not None:
            reset_on_close(transport)
        self.abort()

    @property
    def gone_because(self) -> GatewayError:
        """What is recorded if the client is gone."""
        return self._failure or ClientGone()

    def _is_rest_small(self) -> bool:
        """Return whether aiohttp may read the rest of the body to keep the connection.

        False if the client waits for a 100. It may send either the body or its next
        request, and the two can't be distinguished.
        """
        if self._expects_continue():
            return False
        length = self._request.content_length
        return length is None or length - self.bytes_in <= self._limits.drain_body

    async def take_rest(self) -> None:
        """Do nothing: aiohttp reads the rest within `lingering_time`, or closes."""

    # --- to the client -----------------------------------------------------

    async def answer(self, answer: Response, extra: Fields = ()) -> None:
        """Write a complete response of the gateway, with the fields *extra*.

        Raises:
            ConnectionError: the client is gone.
        """
        if answer.close or (self.has_rest and not self._is_rest_small()):
            self.keep_alive = False
        self._kept.clear()
        date = responses.date(int(time.time()))
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

        aiohttp chooses the framing: Content-Length if *size* is known, else chunked,
        else (HTTP/1.0) the end of the connection.

        Raises:
            BadReply: aiohttp can't send one of the fields as it is.
        """
        is_unread = complete or status >= 300  # as in the listener's `Exchange`
        if is_unread and self.has_rest and not self._is_rest_small():
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
        headers: CIMultiDict[str] = CIMultiDict()
        for name, value in fields:
            if has_control(value):  # aiohttp 3.14 refuses it, too
                raise BadReply(f"a control character in {name.decode()}")
            try:
                headers.add(name.decode(), value.decode())
            except UnicodeDecodeError:
                raise BadReply(f"{name.decode()} isn't UTF-8") from None
        phrase: str | None = None
        if reason is not None and not has_control(reason):
            # Only people read the phrase; without it, aiohttp sends its own.
            with contextlib.suppress(UnicodeDecodeError):
                phrase = reason.decode()
        if size is not None and status != 204:
            headers[hdrs.CONTENT_LENGTH] = str(size)
        elif not self._is_bodiless(status) and self.head.http10:
            self.keep_alive = False
        reply = self._reply = AiohttpReply(status, phrase, headers)
        if not self.keep_alive:
            reply.force_close()

    def write(self, chunk: bytes) -> bool:
        """Keep a piece of the body until `drain`."""
        self._kept.append(chunk)
        return False

    def finish(self) -> None:
        """End the body. aiohttp sends the pieces that `drain` doesn't."""
        self._is_finished = True

    async def drain(self) -> None:
        """Write the kept pieces; return when the buffer has room for more.

        Raises:
            ConnectionError: the client is gone, or was cut off by `_watch`.
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
            if self._is_finished:
                await reply.write_eof()
            await writer.drain()
        self.bytes_out = self._raw_bytes + writer.output_size

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        """Abort the connection if its client stalls or is slow (`ReadProgress`)."""
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError
        loop = asyncio.get_running_loop()
        sweep_s = self._pace.sweep_s
        handle: asyncio.TimerHandle

        def check_progress() -> None:
            nonlocal handle
            if transport.get_write_buffer_size():
                error = self._check_progress(transport, loop.time())
                if error is not None:
                    self.cut(error)
                    return
            elif self._progress is not None:
                self._progress.pause()
            handle = loop.call_later(sweep_s, check_progress)

        handle = loop.call_later(sweep_s, check_progress)
        try:
            yield
        finally:
            handle.cancel()
            if self._progress is not None:
                self._progress.pause()

    def _check_progress(
        self, transport: asyncio.Transport, now: float
    ) -> GatewayError | None:
        """Return why the client must be cut off, None if it mustn't."""
        written = 0 if self._writer is None else self._writer.output_size
        position = written - unreceived(transport)
        if self._progress is None:
            self._progress = ReadProgress(now, position)
            return None
        limits = self._limits
        return self._progress.check(
            now, position, limits, self._pace, min_rate=limits.download_min_rate
        )

    def upgrade(self, head: bytes) -> None:
        """Write a 101 with *head*; the bytes after it on the connection aren't HTTP."""
        self.started = self.is_tunnel = True
        self._write(head + b"\r\n")

    def abort(self) -> None:
        """Abort the connection, so a truncated body can't pass for a complete one."""
        self.keep_alive = False
        self._is_cut_off = True
        transport = self._request.transport
        if transport is None:
            return
        if self.head.http10:  # some of its replies end with the connection
            reset_on_close(transport)
        transport.abort()

    def response(self) -> web.StreamResponse:
        """Return the response for aiohttp's server to finish after the proxy."""
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
