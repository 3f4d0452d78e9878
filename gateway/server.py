"""edge. Listening sockets, signals, and how it all comes to an end, in one process.

`workers` takes its parts; `run` and `serve_until_cancelled` serve without a supervisor.
There SIGTERM, SIGINT and SIGHUP stop accepting, let requests in flight finish within
`gateway.drain_timeout`, and exit; a second SIGTERM or SIGINT ends at once.
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
import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from gateway.app import App, building
from gateway.listener import Listener
from gateway.observe import AccessLog, NoLog, messages
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.sdk.delivery import EmailSender

_BACKLOG = 1024
_MAX_PORT = 65535
_FLUSH_S = 0.1
_LOOK_S = 0.01
LAST_REQUESTS_S = 1.0
"""How long connections without a request stay when a process drains. A client that
sends one meanwhile has its answer, and reads in it that the connection ends. Closing at
once would cut off requests that are on their way: of a busy client, nearly always one.
"""
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


def share(sock: socket.socket, count: int) -> list[socket.socket]:
    """Return *count* listening sockets for one address, the given one first.

    The kernel spreads connections over them, and each has a queue of its own. Where it
    can't, the result is *sock* alone, from which several processes may accept.

    The first was bound without SO_REUSEPORT, so that a port in use was found; with it,
    two gateways of one user would share a port without a word. Others can join a
    listening socket that gets the option afterwards.
    """
    sockets = [sock]
    if count == 1 or sys.platform != "linux":  # others have it, but don't spread
        return sockets
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        while len(sockets) < count:
            another = socket.socket(sock.family, sock.type, sock.proto)
            sockets.append(another)
            another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            another.bind(sock.getsockname())
            another.listen(_BACKLOG)
            another.setblocking(False)
    except OSError:
        for another in sockets[1:]:
            another.close()
        return [sock]
    return sockets


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


class Entrance:
    """Where clients come in, and how all of them leave."""

    def __init__(self, app: App, *, linger_s: float = 0.0) -> None:
        """*linger_s* is how long connections without a request stay at the end."""
        gateway = app.config.gateway
        self._proxy = app.proxy
        self._drain_s = gateway.drain_timeout
        self._linger_s = min(linger_s, gateway.drain_timeout)
        self._listener = Listener(
            app.proxy.handle,
            reader=app.proxy.parts.reader,
            limits=gateway.limits,
            observer=app.observer,
            make_id=app.make_id,
        )
        self._doors: dict[asyncio.Server, socket.socket] = {}
        """What accepts, and its socket once more."""

    async def open(self, sock: socket.socket) -> asyncio.Server:
        """Accept on *sock*, which is the server's from now on."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._listener, sock=sock)
        self._doors[server] = sock.dup()
        return server

    def shut(self, server: asyncio.Server) -> None:
        """Accept no more on a server's socket; connections from there stay."""
        server.close()
        self._doors.pop(server).close()

    async def close(self) -> None:
        """Stop accepting, close WebSockets with 1001, and end what is left.

        Requests in flight have `gateway.drain_timeout` to finish.
        """
        servers = tuple(self._doors)
        for server in servers:
            server.close()
        await asyncio.sleep(0)  # by then the loop has let go of their sockets
        waiting = [client for server in servers for client in self._last_of(server)]
        self._proxy.drain()
        loop = asyncio.get_running_loop()
        for client in waiting:
            await loop.connect_accepted_socket(self._listener, client)
        await self._linger()
        await self._listener.close(self._drain_s - self._linger_s)
        for server in servers:
            await server.wait_closed()

    def _last_of(self, server: asyncio.Server) -> list[socket.socket]:
        """Lock a door; return those who stood before it, and would be cut off."""
        sock = self._doors.pop(server)
        waiting: list[socket.socket] = []
        with contextlib.suppress(OSError):  # nobody waits any more
            while len(waiting) < _BACKLOG:
                client, _ = sock.accept()
                client.setblocking(False)
                waiting.append(client)
        sock.close()
        return waiting

    async def _linger(self) -> None:
        """Wait for last requests as long as anybody is there to send one."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._linger_s
        # Looking will do: it happens once in a process's life.
        while self._listener.connections and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)


@contextlib.asynccontextmanager
async def serving(
    app: App, sock: socket.socket, *, linger_s: float = 0.0
) -> AsyncIterator[str]:
    """Serve *app* on *sock* while the block runs; drain when it ends.

    Yields the URL. *linger_s* is as for `Entrance`.
    """
    entrance = Entrance(app, linger_s=linger_s)
    try:
        await entrance.open(sock)
        yield url_of(sock)
    finally:
        await entrance.close()


def has_nohup() -> bool:
    """Return whether whoever started this process said that it outlives a terminal."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def stop_signal(*, force: Callable[[], None]) -> asyncio.Event:
    """Return what the first SIGTERM, SIGINT or SIGHUP sets.

    Another SIGTERM or SIGINT calls *force*. Another SIGHUP doesn't: when a terminal is
    closed, both the system and the shell send one.

    Called before anybody is told that the server is ready: the answer to that may
    be a signal.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stopped.is_set() and number != signal.SIGHUP:
            force()
        stopped.set()

    for number in _STOP_SIGNALS:
        if number != signal.SIGHUP or not has_nohup():
            loop.add_signal_handler(number, on_signal, number)
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
    sock = bind(listen or settings.config.gateway.listen)
    try:
        async with (
            hosting(settings, log_format=log_format, email=email) as app,
            serving(app, sock, linger_s=LAST_REQUESTS_S) as url,
        ):
            settle_garbage()
            yield url
    finally:
        sock.close()


@contextlib.asynccontextmanager
async def hosting(
    settings: Settings,
    *,
    log_format: str,
    email: EmailSender | None = None,
    who: str = "",
) -> AsyncIterator[App]:
    """Yield the gateway that *settings* describe, with its log, in this process.

    What it says of itself on standard error begins with *who*.

    Raises: as `app.building`.
    """
    raise_descriptor_limit()
    log = NoLog() if log_format == "none" else AccessLog(log_format)
    with messages(who):
        try:
            async with (
                building(
                    settings.config, settings.table, observer=log, email=email
                ) as app,
                _flushed(log),
            ):
                yield app
        finally:
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


def settle_garbage() -> None:
    """Have the collector leave alone what was made at the start, and come less often.

    A request leaves next to no cycles behind; by default every 700 new objects cause
    a walk, and from time to time one over the whole SDK. Nothing is collected before:
    of 150,000 objects 2,000 are garbage by now, and to find them takes 0.1 s.
    """
    gc.freeze()
    gc.enable()  # off while `gateway serve` starts
    gc.set_threshold(10_000, 10, 10)
