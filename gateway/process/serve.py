"""edge. Serving on sockets, from the start of a gateway until it has drained."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.app import App, open_app
from gateway.assertions import AssertionKey
from gateway.clients import Clients
from gateway.config import GrpcListen, ListenConfig, decision_listens
from gateway.downstream.arrival import Handler
from gateway.downstream.entry_point import EntryPoint
from gateway.downstream.https_redirect import HttpsRedirect
from gateway.downstream.listener import Listener
from gateway.events import Severity
from gateway.fronts.asked import handler_of
from gateway.fronts.grpc_extra import grpc_front
from gateway.observe import (
    AccessLog,
    CountedOnly,
    NoLog,
    Origin,
    Selection,
    has_colours,
    messages,
)
from gateway.observe.meters import Meters
from gateway.process.listening import (
    BoundListen,
    close_listens,
    close_sockets,
    open_listens,
    overriding,
    urls,
)
from gateway.process.signals import stop_signal
from gateway.process.sockets import BACKLOG, raise_descriptor_limit
from gateway.settings import Settings
from gateway.supertokens import core_check
from gateway.tls import Certificate, CertificateStore, stores_of, watching

if TYPE_CHECKING:
    from gateway.supertokens.delivery import EmailSender

_FLUSH_S = 0.1
_POLL_S = 0.01
_CLEANS_UP = sys.version_info >= (3, 13)
"""Whether event loops remove the file of a Unix socket unless they are told not to."""
LAST_REQUESTS_S = 1.0
"""How long connections without a request stay open while a process drains. A request
that arrives meanwhile is served, with `Connection: close` in its reply. Closing at once
would cut off requests in transit: with a busy client, nearly always one.
"""


PLAIN: Final = ListenConfig(address="127.0.0.1:0")
"""Plain HTTP, for sockets that no item of `gateway.listen` belongs to."""


class ServerSockets:
    """The sockets of a server and their connections, until all are closed."""

    def __init__(
        self,
        app: App,
        *,
        linger_s: float = 0.0,
        stores: Sequence[CertificateStore] = (),
    ) -> None:
        """Make the listener; `open` adds sockets.

        *linger_s* is how long connections without a request stay open while draining.
        *stores* have the certificates of all addresses with TLS.
        """
        gateway = app.config.gateway
        self._app = app
        self._proxy = app.proxy
        self._drain_s = gateway.drain_timeout
        self._linger_s = min(linger_s, gateway.drain_timeout)
        self._listener = Listener(
            app.proxy.handle,
            reader=app.proxy.dependencies.reader,
            limits=gateway.limits,
            observer=app.observer,
            make_id=app.make_id,
            pace=app.proxy.dependencies.pace,
            clients=Clients(
                gateway.trusted_proxies,
                (
                    *gateway.limits.per_client.exempt,
                    *(() if gateway.decision is None else gateway.decision.trusted),
                ),
            ),
        )
        self._grpc = grpc_front(gateway.decision, app.proxy, self._listener)
        self._stores = {store.listen: store for store in stores}
        self._entry_points: dict[ListenConfig, EntryPoint] = {}
        self._websockets_over = asyncio.get_running_loop().create_future()
        """When WebSockets were told to close, as loop time."""
        self._servers: dict[
            asyncio.Server, tuple[socket.socket, Callable[[], asyncio.BaseProtocol]]
        ] = {}
        """The servers that accept, each with a duplicate of its socket."""

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        fronts = 0 if self._grpc is None else self._grpc.connections
        return self._listener.connections + fronts

    @property
    def active(self) -> int:
        """The number of requests in progress, open WebSockets included."""
        calls = 0 if self._grpc is None else self._grpc.active
        return self._listener.active + calls

    @property
    def certificates(self) -> list[tuple[str, Certificate]]:
        """The certificates that clients get, each with its address."""
        return [
            (store.listen.address, certificate)
            for store in self._stores.values()
            for certificate in store.certificates
        ]

    async def open(
        self, sock: socket.socket, listen: ListenConfig = PLAIN
    ) -> asyncio.Server:
        """Return a server that accepts on *sock*, and owns it from now on.

        *listen* says how clients connect to it.
        """
        loop = asyncio.get_running_loop()
        entry_point = self._entry_point_of(listen)
        if sock.family == socket.AF_UNIX:
            # The file is the supervisor's: other processes may listen on it, too.
            keeps: dict[str, Any] = {"cleanup_socket": False} if _CLEANS_UP else {}
            server = await loop.create_unix_server(
                entry_point, sock=sock, backlog=BACKLOG, **keeps
            )
        else:
            server = await loop.create_server(entry_point, sock=sock, backlog=BACKLOG)
        self._servers[server] = sock.dup(), entry_point
        return server

    def _entry_point_of(
        self, listen: ListenConfig
    ) -> Callable[[], asyncio.BaseProtocol]:
        """Return what makes the protocols of the connections to *listen*."""
        if isinstance(listen, GrpcListen):
            assert self._grpc is not None
            return self._grpc
        entry_point = self._entry_points.get(listen)
        if entry_point is None:
            store = None if listen.tls is None else self._stores[listen]
            entry_point = EntryPoint(
                self._listener, listen, store, self._handler_of(listen)
            )
            self._entry_points[listen] = entry_point
        return entry_point

    def _handler_of(self, listen: ListenConfig) -> Handler | None:
        """Return what answers the requests of *listen*; None: the proxy does."""
        if (asked := handler_of(listen, self._proxy)) is not None:
            return asked
        port = self._app.config.gateway.https_port(listen)
        if port is None:
            return None
        return HttpsRedirect(
            port,
            observer=self._app.observer,
            make_id=self._app.make_id,
            is_draining=lambda: self._proxy.draining,
        ).handle

    def stop_accepting(self, server: asyncio.Server) -> None:
        """Stop accepting on a server's socket; its connections stay open."""
        server.close()
        sock, _ = self._servers.pop(server)
        sock.close()

    async def close(self, websockets_s: float = 0.0) -> None:
        """Stop accepting, and end all connections.

        Requests in flight have `gateway.drain_timeout` to finish. WebSockets stay for
        *websockets_s* seconds, or until `close_websockets`. Then they are closed with
        1001, and have `gateway.drain_timeout` as well.
        """
        servers = tuple(self._servers)
        for server in servers:
            server.close()
        await asyncio.sleep(0)  # the loop stops watching their sockets
        waiting = [
            (client, entry_point)
            for sock, entry_point in self._servers.values()
            for client in _close_socket(sock)
        ]
        self._servers.clear()
        self._proxy.drain(keeps_websockets=websockets_s > 0)
        loop = asyncio.get_running_loop()
        over = self._websockets_over
        timer = loop.call_later(websockets_s, self.close_websockets)
        for client, entry_point in waiting:
            await loop.connect_accepted_socket(entry_point, client)
        grpc_closed = None
        if self._grpc is not None:
            grpc_closed = asyncio.create_task(
                self._grpc.close(self._linger_s, self._drain_s - self._linger_s)
            )
        await self._linger()
        for entry_point in self._entry_points.values():
            entry_point.close()
        drain_s = self._drain_s - self._linger_s
        if websockets_s:
            await self._listener.close(drain_s, keeps_tunnels=True)
            await self._listener.wait_until_empty(unless=over)
            since = over.result() if over.done() else loop.time()
            drain_s = max(0.0, since + self._drain_s - loop.time())
        await self._listener.close(drain_s)
        timer.cancel()
        if grpc_closed is not None:
            await grpc_closed
        for server in servers:
            await server.wait_closed()

    def close_websockets(self) -> None:
        """Close all WebSockets with 1001 now, although `close` was to keep them."""
        if not self._websockets_over.done():
            self._websockets_over.set_result(asyncio.get_running_loop().time())
        self._proxy.drain()

    async def _linger(self) -> None:
        """Wait until all connections are closed, at most `linger_s` seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._linger_s
        # Polling is cheap enough: it happens once in the life of a process.
        while self.connections and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)


def _close_socket(sock: socket.socket) -> list[socket.socket]:
    """Close a socket; return the connections in its queue.

    Closing the socket would reset those that aren't accepted.
    """
    waiting: list[socket.socket] = []
    with contextlib.suppress(OSError):  # the queue is empty
        while len(waiting) < BACKLOG:
            client, _ = sock.accept()
            client.setblocking(False)
            waiting.append(client)
    sock.close()
    return waiting


@contextlib.asynccontextmanager
async def serving(
    app: App, listens: Sequence[BoundListen], *, linger_s: float = 0.0
) -> AsyncIterator[None]:
    """Serve *app* on all of *listens* while the block runs; then drain.

    The files of Unix sockets stay. *linger_s* is as for `ServerSockets`.

    Raises:
        BadTls: the certificates of an address can't be used.
    """
    stores = stores_of(listen.config for listen in listens)
    sockets = ServerSockets(app, linger_s=linger_s, stores=stores)
    async with watching(stores):
        try:
            for listen in listens:
                for sock in listen.sockets:
                    await sockets.open(sock.dup(), listen.config)
            close_sockets(listens)
            yield
        finally:
            await sockets.close()


async def run(
    settings: Settings,
    *,
    log_format: str,
    listen: str | None,
    on_ready: Callable[[str], None],
) -> None:
    """Serve until a signal arrives.

    Raises:
        ListenError: the address can't be listened on.
        RecipeError: the SDK refuses a recipe's settings.
        BadService: a service's CA file can't be read.
        BadAssertionKeys: a key of `gateway.assertion` can't be used.
        BadTls: the certificates of an address can't be used.
        LibraryChanged: a library lacks what the gateway depends on.
    """
    stopped = stop_signal(force=lambda: os._exit(130))
    async with _running(settings, log_format=log_format, listen=listen) as url:
        on_ready(url)
        await stopped.wait()


@contextlib.asynccontextmanager
async def _running(
    settings: Settings,
    *,
    log_format: str,
    listen: str | None,
) -> AsyncIterator[str]:
    named = settings.config.gateway.listen if listen is None else overriding(listen)
    named += decision_listens(settings.config.gateway.decision)
    listens = open_listens(named, 1)
    names = urls(listens)
    try:
        async with (
            hosting(settings, log_format=log_format) as app,
            core_check.asking(app.sdk, timeout_s=app.config.supertokens.core.timeout),
            serving(app, listens, linger_s=LAST_REQUESTS_S),
        ):
            settle_garbage()
            yield names
    finally:
        close_listens(listens)


@contextlib.asynccontextmanager
async def hosting(
    settings: Settings,
    *,
    log_format: str,
    email: EmailSender | None = None,
    origin: Origin | None = None,
    meters: Meters | None = None,
    assertion_keys: Sequence[AssertionKey] | None = None,
) -> AsyncIterator[App]:
    """Yield the gateway that *settings* describe, with its log, in this process.

    *origin* is what its log lines have in common. *meters* counts requests.
    *assertion_keys* are as for `open_app`.

    Raises: as `app.open_app`.
    """
    raise_descriptor_limit()
    origin = origin or Origin(form=log_format, has_colours=has_colours())
    log: AccessLog | CountedOnly | NoLog
    if log_format != "none":
        selection = Selection(settings.config.log)
        log = AccessLog(log_format, meters=meters, selection=selection, origin=origin)
    else:
        log = NoLog() if meters is None else CountedOnly(meters)
    with messages(origin, Severity(settings.config.log.level)):
        try:
            async with (
                open_app(
                    settings.config,
                    settings.table,
                    observer=log,
                    email=email,
                    assertion_keys=assertion_keys,
                ) as app,
                _flushed(log),
            ):
                yield app
        finally:
            log.close()


@contextlib.asynccontextmanager
async def _flushed(log: AccessLog | CountedOnly | NoLog) -> AsyncIterator[None]:
    """Flush the log every 0.1 s, also while no requests arrive."""

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
    """Exempt the objects made at start-up from garbage collection, and collect less.

    A request leaves hardly any cycles. By default every 700 new objects cause a
    collection, and some of these traverse the whole SDK. There is no collection before
    the freeze: it takes 0.1 s and would free only 2,000 of 150,000 objects.
    """
    gc.freeze()
    gc.enable()  # off while `gateway serve` starts
    gc.set_threshold(10_000, 10, 10)
