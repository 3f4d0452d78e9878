"""edge. The gateway as an aiohttp application, for services and tests that embed it.

    web.run_app(gateway_app("routes.yaml"))
    outer.add_subapp("/api", gateway_app("routes.yaml"))

`proxy` has the ten steps, here as behind the listener; only the client's side is
aiohttp's. docs/embedding.md has examples.

Limits
- One gateway runs in a process at a time, because the SDK is one: a second `init` is
  ignored. A gateway with other `supertokens` settings can't follow in the same process,
  but for tests, after `reset`.
- aiohttp's server reads requests and answers malformed ones itself: its 400 has another
  form, and no record. Chunks that break off in their framing are a 408 after
  `body_idle_timeout`. There is no `head_timeout`, `max_head_size` is judged when the
  head is whole, and `max_connections`, `listen` and `drain_timeout` aren't used.
- aiohttp writes header fields as UTF-8: a reply with other bytes in one is a 502. Its
  replies begin with the version of the request, `HTTP/1.0` say.
- An application around it must be made with `handler_args=HANDLER_ARGS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
import time
from collections import deque
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, http_parser, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from multidict import CIMultiDict

from gateway import answers, sdk, settings
from gateway.answers import Answer
from gateway.app import App, building
from gateway.client import check_upload
from gateway.config import Limits
from gateway.errors import (
    BadReply,
    BadRequest,
    ClientGone,
    ContentTooLarge,
    GatewayError,
    RequestTimeout,
)
from gateway.fields import Field, Fields, block
from gateway.http.request_head import RequestHead, RequestReader
from gateway.observe import NoLog, Observer, Record
from gateway.sdk import testing

if TYPE_CHECKING:
    from gateway.sdk.delivery import EmailSender

HANDLER_ARGS: Mapping[str, Any] = MappingProxyType(
    {
        "auto_decompress": False,  # a body goes on as it came
        "handler_cancellation": True,  # a request ends when its client is gone
        "lingering_time": 2.0,  # seconds for the rest of a body that nobody wanted
    }
)
"""What aiohttp's server must do otherwise than by default: the `handler_args` of an
application that has the gateway as a sub-application. The gateway's own has them."""

GATEWAY: web.AppKey[App] = web.AppKey("supertokens_gateway", App)
"""The gateway in its application, from startup to cleanup."""

_CODINGS = frozenset({"gzip", "deflate", "br", "zstd"})
"""The content codings that aiohttp takes off a body unless it is told not to."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, on and with no time: closing sends a RST."""

_ADDED = (hdrs.CONTENT_TYPE, hdrs.DATE, hdrs.SERVER)
"""Fields that aiohttp gives every reply without them."""

_UNSENDABLE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""Bytes that aiohttp's writer refuses in a field (3.14)."""


class OneGateway(RuntimeError):
    """This process can't have another gateway; the text says why and what to do."""


class NoStrictParser(RuntimeError):
    """aiohttp was installed without its C extensions."""


def gateway_app(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    observer: Observer | None = None,
    email: EmailSender | None = None,
) -> web.Application:
    """Return an application that serves the route table in the file at *path*.

    The file is read now, with the variables of *environ* (unsaid: `os.environ`).
    What it describes starts and ends with the application. *observer* takes a `Record`
    of each request (unsaid: nobody does; there is no access log). *email* takes every
    mail in place of `supertokens.email_delivery`.

    Raises:
        ConfigError: the file can't be used; it has every problem with its place.

    Raised when the application starts:
        OneGateway: another gateway runs in this process, or did with other settings.
        NoStrictParser: aiohttp would read requests with its parser in Python.
        RecipeError: the SDK refuses a recipe's settings, or a route's claim validator
            can't be loaded.
        BadService: a service's CA file can't be read.
    """
    loaded = settings.load(path, os.environ if environ is None else environ)
    config = loaded.config

    @contextlib.asynccontextmanager
    async def opening() -> AsyncIterator[App]:
        async with contextlib.AsyncExitStack() as opened:
            opened.enter_context(_only_one())
            try:
                app = await opened.enter_async_context(
                    building(
                        config,
                        loaded.table,
                        observer=NoLog() if observer is None else observer,
                        email=email,
                    )
                )
            except sdk.AlreadyStarted as exc:
                raise OneGateway(
                    "a gateway with other supertokens settings ran in this process,"
                    " and the SDK keeps them: start another process, or in tests call"
                    " gateway.aiohttp_app.reset()"
                ) from exc
            yield app

    return application(opening, limits=config.gateway.limits)


def application(
    opening: Callable[[], AbstractAsyncContextManager[App]], *, limits: Limits
) -> web.Application:
    """Return an application that serves the gateway that *opening* makes.

    It is opened when the application starts, and closed with it.
    """
    app = web.Application(
        handler_args={
            **HANDLER_ARGS,
            "keepalive_timeout": limits.keep_alive,
            "max_field_size": limits.max_field_size,
            "max_headers": limits.max_fields,
            "max_line_size": limits.max_target_size,
        },
    )

    async def running(app: web.Application) -> AsyncIterator[None]:
        check_parser()
        async with opening() as gateway:
            app[GATEWAY] = gateway
            yield

    async def drain(app: web.Application) -> None:
        app[GATEWAY].proxy.drain()

    async def serve(request: web.Request) -> web.StreamResponse:
        return await _serve(request, app[GATEWAY])

    @web.middleware
    async def every(
        request: web.Request,
        handler: Handler,  # noqa: ARG001 - what the router has found
    ) -> web.StreamResponse:
        """Serve whatever comes here, if the router finds it or not."""
        return await serve(request)

    async def wait(_: web.Request) -> None:
        """Send no 100 yet: it is sent when the body is asked for."""

    app.middlewares.append(every)
    app.cleanup_ctx.append(running)
    app.on_shutdown.append(drain)
    app.on_response_prepare.append(_as_it_was)
    everything = _Everything()
    everything.add_route("*", serve, expect_handler=wait)
    app.router.register_resource(everything)
    return app


_runs = False
"""A gateway runs in this process."""


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    global _runs  # noqa: PLW0603 - the SDK is global itself
    if _runs:
        raise OneGateway(
            "another gateway runs in this process, and the SuperTokens SDK serves one"
            " only: close its application first, or start another process"
        )
    _runs = True
    try:
        yield
    finally:
        _runs = False


def reset() -> None:
    """Forget the SuperTokens SDK, so that a test can start a gateway of its own.

    For tests only, when the application before it is closed.

    Raises:
        OneGateway: a gateway still runs.
    """
    if _runs:
        raise OneGateway("a gateway still runs: close its application first")
    testing.reset()


def check_parser() -> None:
    """Make sure that aiohttp reads requests with llhttp.

    Raises:
        NoStrictParser: it would use its other parser, which is too lax for a gateway.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise NoStrictParser(
            "aiohttp was installed without its C extensions, and its other parser is"
            " too lax for a gateway: install a wheel of aiohttp, or build it with a C"
            " compiler, and leave AIOHTTP_NO_EXTENSIONS unset"
        )


class _Everything(web.PlainResource):
    """What aiohttp's router finds for each request, `OPTIONS *` among them."""

    def __init__(self) -> None:
        super().__init__("/")

    async def resolve(
        self, request: web.Request
    ) -> tuple[web.UrlMappingMatchInfo, set[str]]:
        """Return the only route."""
        (route,) = self
        return web.UrlMappingMatchInfo({}, route), set()


async def _serve(request: web.Request, gateway: App) -> web.StreamResponse:
    limits = gateway.config.gateway.limits
    try:
        head = _head(request, gateway.proxy.parts.reader)
    except GatewayError as error:
        return _refused(request, gateway, error)
    client = _Client(request, head, limits)
    if hdrs.UPGRADE in request.headers:
        await _to_the_end(gateway.proxy.handle(client), client)
    else:
        await gateway.proxy.handle(client)
    return client.response()


def _head(request: web.Request, reader: RequestReader) -> RequestHead:
    """Return the request's head as the listener would have read it.

    Raises:
        GatewayError: it isn't sound (`RequestReader.read`).
    """
    major, minor = request.version
    target = request.raw_path.encode("utf-8", "surrogateescape")
    start = b"%b %b HTTP/%d.%d\r\n" % (request.method.encode(), target, major, minor)
    return reader.read(b"%b%b\r\n" % (start, block(request.raw_headers)))


def _refused(
    request: web.Request, gateway: App, error: GatewayError
) -> web.StreamResponse:
    """Record a request whose head isn't sound; return its answer."""
    connection = _Connection(request)
    record = Record.begin(time.perf_counter(), connection.address, request.method)
    record.request_id = gateway.make_id()
    record.status, record.side = error.status, error.side
    record.reason, record.note = error.code, error.detail
    gateway.observer.observe(record)
    answer = answers.failure(error, record.request_id)
    fields = [*answer.fields, (b"X-Request-Id", record.request_id.encode())]
    response = _Refusal(
        status=answer.status,
        body=answer.body,
        headers=CIMultiDict((name.decode(), value.decode()) for name, value in fields),
    )
    response.force_close()
    return response


async def _to_the_end(serving: Coroutine[Any, Any, None], client: _Client) -> None:
    """Serve a request that may become a WebSocket.

    aiohttp cancels when the client is gone. A tunnel is told so by its connection, too,
    and still carries the client's last frames to the service.
    """
    task = asyncio.create_task(serving)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if not (client.gone and client.is_tunnel):
            task.cancel()
        await asyncio.wait((task,))
        raise
    finally:
        task.cancel()


class _Reply(web.StreamResponse):
    """A reply that aiohttp writes."""

    def __init__(self, status: int, reason: str | None, fields: CIMultiDict[str]):
        super().__init__(status=status, reason=reason, headers=fields)
        self.not_ours = [name for name in _ADDED if name not in fields]
        """What aiohttp adds, and what must not be sent."""
        self.length = fields.get(hdrs.CONTENT_LENGTH)


class _Refusal(web.Response):
    """The answer to a head that isn't sound."""


async def _as_it_was(_: web.Request, response: web.StreamResponse) -> None:
    """Take out of a reply what aiohttp has added, and put back what it took out."""
    if isinstance(response, _Refusal):
        response.headers.popall(hdrs.SERVER, None)
    if isinstance(response, _Reply):
        for name in response.not_ours:
            response.headers.popall(name, None)
        if response.status == 304 and response.length is not None:
            response.headers[hdrs.CONTENT_LENGTH] = response.length


class _Written(web.StreamResponse):
    """A reply that aiohttp mustn't write: it was cut, or a WebSocket took its place."""

    def __init__(self, status: int) -> None:
        super().__init__(status=status)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing."""


class _Connection:
    """What carries a request: the client's end of a WebSocket, once it is one."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.transport = transport = request.transport
        self.address = "-"
        """The connected peer's IP address; `unix` for a Unix socket."""
        self.secure = False
        """The connection to this server is TLS."""
        if transport is not None:
            peer = transport.get_extra_info("peername")
            self.address = str(peer[0]) if isinstance(peer, tuple) else "unix"
            self.secure = transport.get_extra_info("sslcontext") is not None

    def hand_over(self, tunnel: Any) -> None:
        """Give everything that comes from now on to *tunnel*.

        Frames aren't parsed here, as aiohttp's WebSocketResponse would: they pass as
        they are, with their extensions, masks and close codes.
        """
        self._request.protocol.set_parser(_Feed(tunnel))  # type: ignore[arg-type]

    async def drained(self) -> None:
        """Return when the client has taken enough of what was written."""
        await self._request.writer.drain()


class _Feed:
    """In the place of aiohttp's reader of frames: gives the bytes to a tunnel."""

    def __init__(self, tunnel: Any) -> None:
        self._tunnel = tunnel

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._tunnel.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self._tunnel.feed_eof()


class _Client:
    """One request of aiohttp's server, as the proxy's client.

    What the proxy writes at once is kept until it drains, which may wait.
    """

    def __init__(self, request: web.Request, head: RequestHead, limits: Limits) -> None:
        self._request = request
        self.head = head
        self._content = request.content
        self._limits = limits
        self._kept: deque[bytes] = deque()
        self._reply: _Reply | None = None
        self._writer: AbstractStreamWriter | None = None
        self._is_whole = False
        """All of the body was given to `write`."""
        self._is_cut = False
        self.is_tunnel = False
        """It was upgraded."""
        self._continued = False
        self._raw_bytes = 0
        """What was written past aiohttp."""
        self.connection = _Connection(request)
        # aiohttp's parser (3.14.5) can't be trusted with what follows such a request on
        # its connection: it makes the last trailer of a chunked body a field of the
        # next request, and loses what comes behind an upgrade to h2c.
        self.keep_alive = not (head.chunked or head.has_upgrade)
        self.started = False
        self.bytes_in = 0
        self.bytes_out = 0

    # --- what came ---------------------------------------------------------

    @property
    def gone(self) -> bool:
        """The client's connection is closed."""
        return self._request.transport is None

    @property
    def has_rest(self) -> bool:
        """Not all of the body has arrived yet."""
        return not self._content.is_eof()

    def body_now(self, max_size: int) -> bytes | None:
        """Return the whole body if it came along with the head, else None.

        Raises:
            ContentTooLarge: it has more than *max_size* bytes.
            BadRequest: the chunked framing is broken.
            GatewayError: aiohttp has decompressed it.
        """
        self._check_coding()
        if self.has_rest:
            return None
        with _translated():
            body = self._content.read_nowait()
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
            GatewayError: aiohttp has decompressed it.
            ClientGone: the client left.
        """
        self._check_coding()
        if self._expects_continue():
            self._continued = True
            self._write_raw(_CONTINUE)
        limits = self._limits
        loop = asyncio.get_running_loop()
        waited = 0.0
        while True:
            asked = loop.time()
            try:
                async with asyncio.timeout(limits.body_idle_timeout):
                    with _translated():
                        piece = await self._content.readany()
            except TimeoutError:
                raise RequestTimeout("body stalled") from None
            if not piece:
                return
            waited += loop.time() - asked
            self.bytes_in += len(piece)
            check_upload(self.bytes_in, waited, max_size, limits)
            yield piece

    def _check_coding(self) -> None:
        """Refuse a body whose bytes aren't those that the client has sent.

        Raises:
            GatewayError: aiohttp has decompressed it.
        """
        coding = self._request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
        if coding not in _CODINGS:
            return
        # Nothing public tells. What isn't found counts as the default.
        server = getattr(self._request.protocol, "_manager", None)
        if getattr(server, "_kwargs", {}).get("auto_decompress", True):
            raise GatewayError(
                "aiohttp decompresses request bodies: make the outer application with"
                " handler_args=gateway.aiohttp_app.HANDLER_ARGS"
            )

    def _expects_continue(self) -> bool:
        """Return whether the body isn't sent before a 100 (RFC 9110 §10.1.1)."""
        return (
            not self.head.http10
            and not self._continued
            and hdrs.EXPECT in self._request.headers
        )

    def _is_rest_small(self) -> bool:
        """Return whether aiohttp may take the rest of the body to keep the connection.

        Not when the client waits for a 100: it may as well send its next request in
        place of the body, and the two can't be told apart.
        """
        if self._expects_continue():
            return False
        length = self._request.content_length
        return length is None or length - self.bytes_in <= self._limits.drain_body

    async def take_rest(self) -> None:
        """Leave it to aiohttp, which takes it within `lingering_time`, or closes."""

    # --- what goes back ----------------------------------------------------

    async def answer(self, answer: Answer, extra: Fields = ()) -> None:
        """Write a whole answer of the gateway's own.

        Raises:
            ConnectionError: the client is gone.
        """
        if answer.close or (self.has_rest and not self._is_rest_small()):
            self.keep_alive = False
        self._kept.clear()
        date = (b"Date", rfc822_formatted_time().encode())
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
        return self.head.method == "HEAD" or status in (204, 304)

    def _begin(
        self,
        status: int,
        reason: bytes | None,
        fields: Iterable[Field],
        *,
        size: int | None,
    ) -> None:
        """Make the reply that `drain` begins with.

        Raises:
            BadReply: as `start`.
        """
        sent: CIMultiDict[str] = CIMultiDict()
        for name, value in fields:
            if _UNSENDABLE.search(value):
                raise BadReply(f"a control character in {name.decode()}")
            try:
                sent.add(name.decode(), value.decode())
            except UnicodeDecodeError:
                raise BadReply(f"{name.decode()} isn't UTF-8") from None
        phrase: str | None = None
        if reason is not None and not _UNSENDABLE.search(reason):
            # Only a person reads it: the status has one of its own.
            with contextlib.suppress(UnicodeDecodeError):
                phrase = reason.decode()
        if size is not None and status != 204:
            sent[hdrs.CONTENT_LENGTH] = str(size)
        elif not self._is_bodiless(status) and self.head.http10:
            self.keep_alive = False
        reply = self._reply = _Reply(status, phrase, sent)
        if not self.keep_alive:
            reply.force_close()

    def write(self, chunk: bytes) -> bool:
        """Keep a piece of the body until `drain`."""
        self._kept.append(chunk)
        return False

    def finish(self) -> None:
        """End a body that is whole. What `drain` doesn't send of it, aiohttp does."""
        self._is_whole = True

    async def drain(self) -> None:
        """Write what was kept; return when the client has taken enough of it.

        Raises:
            ConnectionError: it is gone, or took nothing for `write_idle_timeout`.
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
        """Drop the connection if its client takes nothing for `write_idle_timeout`.

        It may take twice as long to notice.
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
        self._write_raw(head + b"\r\n")

    def abort(self) -> None:
        """Drop the connection, so that a cut body can't be taken for a whole one."""
        self.keep_alive = False
        self._is_cut = True
        transport = self._request.transport
        if transport is None:
            return
        # Some replies to HTTP/1.0 end with the connection, and an end by FIN would be
        # a clean one: only a reset tells (RFC 9112 §8).
        if self.head.http10:
            sock = transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

    def response(self) -> web.StreamResponse:
        """Return what aiohttp's server is to end, once the proxy is done."""
        if self._reply is None or self._is_cut or self.is_tunnel:
            status = 101 if self.is_tunnel else 499
            return _Written(status)
        if not self.keep_alive:
            self._reply.force_close()
        return self._reply

    def _write_raw(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        self._raw_bytes += len(data)
        self.bytes_out += len(data)
        transport.write(data)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise our errors for those that aiohttp's body raises."""
    try:
        yield
    except (web.RequestPayloadError, HttpProcessingError) as exc:
        raise BadRequest("broken body framing") from exc.with_traceback(None)
    except ConnectionError:
        raise ClientGone from None
