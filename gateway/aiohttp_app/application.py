"""edge. The aiohttp application, and the serving of its requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gateway import responses, settings, supertokens
from gateway.aiohttp_app.connection import AiohttpConnection
from gateway.aiohttp_app.exchange import AiohttpExchange
from gateway.aiohttp_app.replies import Refusal, remove_additions
from gateway.app import App, open_app
from gateway.config import LimitsConfig
from gateway.errors import GatewayError
from gateway.http.fields import block
from gateway.http.request_head import RequestHead, RequestReader
from gateway.observe import NoLog, Observer, Record
from gateway.seams import aiohttp as aiohttp_seams
from gateway.supertokens import core_check, testing

if TYPE_CHECKING:
    from gateway.supertokens.delivery import EmailSender

HANDLER_ARGS: Mapping[str, Any] = MappingProxyType(
    {
        "auto_decompress": False,  # bodies are passed on unchanged
        "handler_cancellation": True,  # a request ends when its client disconnects
        "lingering_time": 2.0,  # seconds to read the rest of an unwanted body
    }
)
"""The settings of aiohttp's server that the gateway depends on. An application that has
the gateway as a sub-application needs them as `handler_args`. The gateway's own
application has them."""

GATEWAY: web.AppKey[App] = web.AppKey("supertokens_gateway", App)
"""The key of the gateway in its application, set from startup to cleanup."""


class OneGateway(RuntimeError):
    """This process can't have another gateway; the message has cause and remedy."""


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

    The file is read now, with the variables of *environ* (default: `os.environ`). The
    gateway starts and stops with the application. *observer* receives a `Record` of
    each request (default: none; there is no access log). *email* sends all mail in
    place of `supertokens.email_delivery`.

    Raises:
        ConfigError: the file can't be used; it has every problem with its place.

    Raised when the application starts:
        OneGateway: another gateway runs in this process, or did with other settings.
        NoStrictParser: aiohttp would read requests with its parser in Python.
        RecipeError: the SDK refuses a recipe's settings, or a route's claim validator
            can't be loaded.
        BadService: a service's CA file can't be read.
        BadAssertionKeys: a key of `gateway.assertion` can't be used.
        LibraryChanged: a library lacks what the gateway depends on.
    """
    loaded = settings.load(path, os.environ if environ is None else environ)
    config = loaded.config

    @contextlib.asynccontextmanager
    async def opening() -> AsyncIterator[App]:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(_only_one())
            try:
                app = await stack.enter_async_context(
                    open_app(
                        config,
                        loaded.table,
                        observer=NoLog() if observer is None else observer,
                        email=email,
                    )
                )
            except supertokens.AlreadyStarted as exc:
                raise OneGateway(
                    "a gateway with other supertokens settings ran in this process,"
                    " and the SDK keeps them: start another process, or in tests call"
                    " gateway.aiohttp_app.reset()"
                ) from exc
            await stack.enter_async_context(
                core_check.asking(app.sdk, timeout_s=config.supertokens.core.timeout)
            )
            yield app

    return application(opening, limits=config.gateway.limits)


def application(
    opening: Callable[[], AbstractAsyncContextManager[App]], *, limits: LimitsConfig
) -> web.Application:
    """Return an application that serves the gateway that *opening* makes.

    The gateway is opened when the application starts, and closed with it.
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
    async def serve_all(
        request: web.Request,
        handler: Handler,  # noqa: ARG001 - the router's choice is unused
    ) -> web.StreamResponse:
        """Serve every request, including those without a route in the router."""
        return await serve(request)

    async def wait(_: web.Request) -> None:
        """Send no 100 yet; it is sent when the body is read."""

    app.middlewares.append(serve_all)
    app.cleanup_ctx.append(running)
    app.on_shutdown.append(drain)
    app.on_response_prepare.append(remove_additions)
    everything = aiohttp_seams.Everything()
    everything.add_route("*", serve, expect_handler=wait)
    app.router.register_resource(everything)
    return app


_is_running = False
"""Whether a gateway runs in this process."""


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    global _is_running  # noqa: PLW0603 - the SDK is global, too
    if _is_running:
        raise OneGateway(
            "another gateway runs in this process, and the SuperTokens SDK serves one"
            " only: close its application first, or start another process"
        )
    _is_running = True
    try:
        yield
    finally:
        _is_running = False


def reset() -> None:
    """Forget the SuperTokens SDK, so that a test can start another gateway.

    For tests only, after the previous application is closed.

    Raises:
        OneGateway: a gateway still runs.
    """
    if _is_running:
        raise OneGateway("a gateway still runs: close its application first")
    testing.reset()


def check_parser() -> None:
    """Check that aiohttp parses requests with llhttp.

    Raises:
        NoStrictParser: it would use its Python parser, too lax for a gateway.
    """
    if not aiohttp_seams.has_strict_parser():
        raise NoStrictParser(
            "aiohttp was installed without its C extensions, and its other parser is"
            " too lax for a gateway: install a wheel of aiohttp, or build it with a C"
            " compiler, and leave AIOHTTP_NO_EXTENSIONS unset"
        )


async def _serve(request: web.Request, gateway: App) -> web.StreamResponse:
    limits = gateway.config.gateway.limits
    try:
        head = _head(request, gateway.proxy.dependencies.reader)
    except GatewayError as error:
        return _refused(request, gateway, error)
    client = AiohttpExchange(request, head, limits, gateway.proxy.dependencies.pace)
    if hdrs.UPGRADE in request.headers:
        await _serve_upgrade(gateway.proxy.handle(client), client)
    else:
        await gateway.proxy.handle(client)
    return client.response()


def _head(request: web.Request, reader: RequestReader) -> RequestHead:
    """Return the request's head, as the listener would read it.

    Raises:
        GatewayError: the head is refused (`RequestReader.read`).
    """
    major, minor = request.version
    target = request.raw_path.encode("utf-8", "surrogateescape")
    start = b"%b %b HTTP/%d.%d\r\n" % (request.method.encode(), target, major, minor)
    return reader.read(b"%b%b\r\n" % (start, block(request.raw_headers)))


def _refused(
    request: web.Request, gateway: App, error: GatewayError
) -> web.StreamResponse:
    """Record a request whose head is refused; return the response."""
    connection = AiohttpConnection(request)
    record = Record.begin(time.perf_counter(), connection.address, request.method)
    record.request_id = gateway.make_id()
    record.note_failure(error)
    gateway.observer.observe(record)
    answer = responses.failure(error, record.request_id)
    fields = [*answer.fields, (b"X-Request-Id", record.request_id.encode())]
    return Refusal(answer.status, fields, answer.body)


async def _serve_upgrade(
    serving: Coroutine[Any, Any, None], client: AiohttpExchange
) -> None:
    """Serve a request that may become a WebSocket.

    aiohttp cancels the handler when the client disconnects. A tunnel isn't cancelled:
    it learns of the end from its connection, and first forwards the client's last
    frames to the service.
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
