"""edge. The listening socket, signals, and how it all comes to an end.

SIGTERM, SIGINT and SIGHUP stop accepting, let requests in flight finish within
`gateway.drain_timeout`, and exit; a second signal ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from gateway.app import App, building
from gateway.listener import Listener, has_strict_parser
from gateway.observe import AccessLog, NoLog, messages
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.sdk.delivery import EmailSender

_BACKLOG = 1024
_MAX_PORT = 65535
_FLUSH_S = 0.1
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP as well: a terminal that is closed is no reason to cut requests."""


class ListenError(Exception):
    """The address can't be listened on; the text says why and what to do."""


def bind(listen: str) -> socket.socket:
    """Return a listening socket for `host:port`.

    Raises:
        ListenError: not `host:port`, the port is in use or not permitted, or the
            host isn't ours.
    """
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    # Without a host it would be every address of the machine.
    if not host or not port.isdecimal() or int(port) > _MAX_PORT:
        raise ListenError(
            f"can't listen on {listen}: expected host:port, such as 127.0.0.1:8000"
        )
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host,
            int(port),
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as exc:
        raise ListenError(f"can't listen on {listen}: {exc.strerror}") from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise ListenError(
                f"port {port} is in use on {host}: stop what listens there,"
                " or choose another port with gateway.listen or --listen"
            ) from exc
        if exc.errno == errno.EACCES:
            raise ListenError(
                f"port {port} needs more rights than this user has:"
                " choose one above 1023"
            ) from exc
        raise ListenError(f"can't listen on {listen}: {exc.strerror}") from exc
    return sock


def raise_descriptor_limit() -> None:
    """Let this process open as many files as the system allows it.

    The usual soft limit is 1024: too little for `max_connections`, each of which may
    need two. The hard limit stays what the operator made it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems (macOS) refuse what they say: the limit then stays as it is.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def url_of(sock: socket.socket) -> str:
    """Return the http URL of a bound socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.asynccontextmanager
async def serving(app: App, sock: socket.socket) -> AsyncIterator[str]:
    """Serve *app* on *sock* while the block runs; drain when it ends.

    Yields the URL. Leaving the block stops accepting, closes WebSockets with 1001
    and waits at most `gateway.drain_timeout` for requests in flight.
    """
    gateway = app.config.gateway
    listener = Listener(
        app.proxy.handle,
        limits=gateway.limits,
        observer=app.observer,
        make_id=app.make_id,
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(listener, sock=sock)
    try:
        yield url_of(sock)
    finally:
        server.close()
        app.proxy.drain()
        await listener.close(gateway.drain_timeout)
        await server.wait_closed()


def stop_signal(*, force: Callable[[], None]) -> asyncio.Event:
    """Return what the first SIGTERM, SIGINT or SIGHUP sets; the second calls *force*.

    Called before anybody is told that the server is ready: the answer to that may
    be a signal.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def on_signal() -> None:
        if stopped.is_set():
            force()
        stopped.set()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    return stopped


async def run(
    settings: Settings,
    *,
    log_format: str,
    listen: str | None,
    on_ready: Callable[[str], None],
) -> None:
    """Serve until a signal says otherwise.

    Raises:
        ListenError: the address can't be listened on.
        RecipeError: the SDK refuses a recipe's settings.
        BadService: a service's CA file can't be read.
    """
    stopped = stop_signal(force=lambda: os._exit(130))
    async with _running(settings, log_format=log_format, listen=listen) as url:
        on_ready(url)
        await stopped.wait()


async def serve_until_cancelled(
    settings: Settings,
    *,
    log_format: str,
    on_ready: Callable[[str], None],
    email: EmailSender | None = None,
) -> None:
    """Serve until the task is cancelled; signals are the caller's matter.

    Raises: as `run`.
    """
    async with _running(settings, log_format=log_format, email=email) as url:
        on_ready(url)
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def _running(
    settings: Settings,
    *,
    log_format: str,
    listen: str | None = None,
    email: EmailSender | None = None,
) -> AsyncIterator[str]:
    if not has_strict_parser():
        raise ListenError(
            "aiohttp was installed without its C extensions, and its other parser is"
            " too lax for a gateway: install a wheel of aiohttp, or build it with a C"
            " compiler, and leave AIOHTTP_NO_EXTENSIONS unset"
        )
    raise_descriptor_limit()
    sock = bind(listen or settings.config.gateway.listen)
    log = NoLog() if log_format == "none" else AccessLog(log_format)
    with messages():
        try:
            async with (
                building(
                    settings.config, settings.table, observer=log, email=email
                ) as app,
                _flushed(log),
                serving(app, sock) as url,
            ):
                _settle_garbage()
                yield url
        finally:
            sock.close()
            log.close()


@contextlib.asynccontextmanager
async def _flushed(log: AccessLog | NoLog) -> AsyncIterator[None]:
    """Hand the log's lines over in time, also when no more requests come."""

    async def flush() -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            log.flush()

    task = asyncio.create_task(flush(), name="access-log")
    try:
        yield
    finally:
        task.cancel()


def _settle_garbage() -> None:
    """Have the collector leave alone what was made at the start, and come less often.

    A request leaves next to no cycles behind; by default every 700 new objects cause
    a walk, and from time to time one over the whole SDK. Nothing is collected before:
    of 150,000 objects 2,000 are garbage by now, and to find them takes 0.1 s.
    """
    gc.freeze()
    gc.enable()  # off while `gateway serve` starts
    gc.set_threshold(10_000, 10, 10)
