"""edge. A process that serves, obeys its supervisor, and reports sign-outs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from gateway.app import App, BadService
from gateway.assertions import AssertionKey
from gateway.events import Fact, RuntimeEvent
from gateway.observe import AccessLog, Origin, write_from
from gateway.observe import Messages as MessageHandler
from gateway.observe.meters import Meters
from gateway.process import messages
from gateway.process.admin_messages import LogAs
from gateway.process.lease_messages import LeasesDrawn
from gateway.process.lease_store import LeaseStore
from gateway.process.listening import (
    BoundListen,
    assigned,
    close_sockets,
    socket_count,
)
from gateway.process.message_values import BadMessage
from gateway.process.messages import (
    MAX_NOTICE,
    Accept,
    AskCore,
    Deny,
    DenyDone,
    Drain,
    Failed,
    Keys,
    KeySource,
    KeysUntil,
    Message,
    Notice,
    Ping,
    Ready,
)
from gateway.process.metering import Metering
from gateway.process.pipe import Pipe
from gateway.process.serve import (
    LAST_REQUESTS_S,
    ServerSockets,
    hosting,
    settle_garbage,
)
from gateway.process.shared_messages import RefuseSessions
from gateway.process.target_messages import TargetEjected, TargetsDown
from gateway.seams.library import LibraryChanged
from gateway.settings import Settings
from gateway.supertokens import RecipeError
from gateway.tls import CertificateStore, watching

if TYPE_CHECKING:
    from gateway.supertokens.delivery import EmailSender

_HANDOVER_S = 0.05
"""How long a worker still accepts while it drains. By then the other processes have
closed the sockets too, so no connection is left in a queue."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
"""The signals that a terminal or a service manager sends to all processes of a
group."""


class Worker:
    """Accepts on the sockets that the supervisor assigns, until it drains."""

    def __init__(
        self,
        app: App,
        listens: Sequence[BoundListen],
        meters: Meters | None,
        stores: Sequence[CertificateStore] = (),
        workers: int = 1,
    ) -> None:
        """*meters* counts requests; None: nothing does. *stores* have the certificates
        of *listens*. *workers* share the rate limits."""
        self._app = app
        self._meters = meters
        self._listens = listens
        self._pipe = Pipe(self)
        self._server_sockets = ServerSockets(
            app, linger_s=LAST_REQUESTS_S, stores=stores
        )
        self._stores = stores
        self._servers: dict[tuple[int, int], asyncio.Server] = {}
        """By the index of the address, and that of its socket."""
        self._assigned: tuple[int, ...] = ()
        self._changed = asyncio.Event()
        self._is_draining = False
        self._websockets_s = 0.0
        """How long WebSockets stay open while this worker drains."""
        self._is_relaying = False
        self._last_denial = 0
        self._confirmed = 0
        """The last denial that all other workers know."""
        self._unconfirmed: dict[asyncio.Future[None], int] = {}
        """What waits, and the number of the denial that it waits for."""
        app.sdk.confirm_revoked = self._confirm
        self._key_source = KeySource(app.sdk.config.core_uris, app.sdk.config.issuer)
        app.sessions.subscribe(self._denied)
        self._services = app.proxy.dependencies.services
        for service in self._services.values():
            service.tell = self._tell
        self._lease_store = LeaseStore(self._pipe.send, workers=workers)
        app.proxy.dependencies.limiter.store = self._lease_store

    async def run(self, end: socket.socket) -> None:
        """Serve until the supervisor sends `Drain` or the channel ends.

        *end* is this process's end of the channel.
        """
        await self._pipe.open(end)
        if isinstance(logging.lastResort, MessageHandler):
            logging.lastResort.relay = self._notice
        self._pipe.send(self._key_source)
        self._pipe.send(_ask_core(self._app))
        self._app.keys.subscribe(lambda _keys, _has_left: self._report_keys())
        self._pipe.send(Ready())
        async with watching(self._stores), self._metering():
            while not self._is_draining:
                await self._changed.wait()
                self._changed.clear()
                await self._accept()
            close_sockets(self._listens)
            await asyncio.sleep(_HANDOVER_S)
            await self._server_sockets.close(self._websockets_s)
        await self._pipe.close()

    def _metering(self) -> AbstractAsyncContextManager[None]:
        """Return what sends the samples for metrics, if requests are counted."""
        if self._meters is None:
            return contextlib.nullcontext()
        return Metering(
            self._app,
            self._meters,
            clients=self._server_sockets,
            send=self._pipe.send,
        ).running()

    async def _accept(self) -> None:
        """Accept on the assigned sockets, and on no others."""
        wanted = assigned(self._listens, self._assigned)
        for name in self._servers.keys() - wanted.keys():
            self._server_sockets.stop_accepting(self._servers.pop(name))
        for name, listen in wanted.items():
            if name not in self._servers:
                sock = listen.sockets[name[1]].dup()
                self._servers[name] = await self._server_sockets.open(
                    sock, listen.config
                )

    def receive(self, message: Message) -> None:
        """Handle a message from the supervisor.

        Raises:
            BadMessage: it isn't a message for a worker.
        """
        match message:
            case Deny(ends, number, users):
                self._is_relaying = True
                for handle, until in ends.items():
                    self._app.sessions.deny(handle, until)
                for user in users:
                    self._app.sessions.deny_user(user)
                self._is_relaying = False
                if number:
                    self._pipe.send(DenyDone(number))
            case DenyDone(number):
                self._on_confirmed(number)
            case Ping():
                self._pipe.send(message)
            case Accept(sockets) if all(
                n in range(socket_count(self._listens)) for n in sockets
            ):
                self._assigned = sockets
                self._changed.set()
            case Keys(source, fetched_at, jwks) if source == self._key_source:
                self._app.keys.adopt(jwks.encode(), fetched_at)
            case RefuseSessions(is_on):
                self._app.engine.refuse_sessions(is_on=is_on)
            case LeasesDrawn():
                self._lease_store.receive(message)
            case TargetsDown(service, targets):
                if service in self._services:
                    self._services[service].set_down(targets)
            case TargetEjected(service, target, until):
                if service in self._services:
                    self._services[service].heard(target, until)
            case LogAs(least, all_requests=all_requests):
                write_from(least)
                if isinstance(self._app.observer, AccessLog):
                    self._app.observer.is_complete = all_requests
            case Drain(websockets_s):
                self._drain(websockets_s)
            case _:
                raise BadMessage("not for a worker")

    def closed(self) -> None:
        """Drain: the supervisor has exited. Signals end this process from now on.

        WebSockets are closed now: nobody would report a sign-out to this worker.
        """
        if not self._is_draining or self._websockets_s:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            self._drain(0.0)

    def _drain(self, websockets_s: float) -> None:
        """Drain; the second time, close the WebSockets that were to stay."""
        if self._is_draining:
            self._websockets_s = 0.0
            self._server_sockets.close_websockets()
            return
        self._is_draining = True
        self._websockets_s = websockets_s
        self._changed.set()

    def _tell(self, service: str, target: str, until: float | None) -> None:
        """Have the other workers eject a target, or take it back."""
        self._pipe.send(TargetEjected(service, target, until))

    def _report_keys(self) -> None:
        """Report until when the keys can be used; they have just come."""
        until = time.monotonic() + self._app.keys.usable_for_s()
        self._pipe.send(KeysUntil(until))

    def _notice(
        self, event: RuntimeEvent, message: str, facts: Mapping[str, Fact]
    ) -> None:
        """Report an event of the whole gateway to the supervisor."""
        words = {name: str(value)[:MAX_NOTICE] for name, value in facts.items()}
        self._pipe.send(Notice(event, message[:MAX_NOTICE], words))

    def _denied(self, handle: str, until: float) -> None:
        if not self._is_relaying:
            self._last_denial += 1
            self._pipe.send(Deny({handle: until}, self._last_denial))

    def _on_confirmed(self, number: int) -> None:
        # Messages arrive in order: the denials before are known as well.
        self._confirmed = max(self._confirmed, number)
        for future, wanted in self._unconfirmed.items():
            if wanted <= number and not future.done():
                future.set_result(None)

    async def _confirm(self) -> bool:
        """Return whether all other workers know the denials so far; wait a while."""
        if self._confirmed >= self._last_denial:
            return True
        future = asyncio.get_running_loop().create_future()
        self._unconfirmed[future] = self._last_denial
        try:
            async with asyncio.timeout(self._app.proxy.dependencies.pace.confirm_s):
                await future
        except TimeoutError:
            return False
        finally:
            del self._unconfirmed[future]
        return True


def _ask_core(app: App) -> AskCore:
    """Return what the core is asked with; calls that a function changes can't be."""
    sdk, core = app.sdk.config, app.config.supertokens.core
    hosts = () if sdk.is_intercepted else sdk.core_uris
    return AskCore(hosts, sdk.api_key, core.timeout)


async def run_worker(
    settings: Settings,
    end: socket.socket,
    *,
    listens: Sequence[BoundListen],
    stores: Sequence[CertificateStore],
    log_format: str,
    origin: Origin,
    is_metered: bool,
    workers: int,
    assertion_keys: Sequence[AssertionKey] | None = None,
    email: EmailSender | None = None,
) -> int:
    """Run a worker in this process; return the exit code.

    *end* is its end of the channel; *origin* is what its log lines have in common.
    *stores* have the certificates of *listens*. With *is_metered*, it counts requests
    for metrics. It is one of *workers*. *assertion_keys* are as for `open_app`. *email*
    sends all mail in place of `supertokens.email_delivery`.
    """
    # The hub reports outages of the core, once for all workers.
    logging.getLogger("gateway.keys").setLevel(logging.CRITICAL)
    meters = Meters() if is_metered else None
    async with contextlib.AsyncExitStack() as opened:
        try:
            app = await opened.enter_async_context(
                hosting(
                    settings,
                    log_format=log_format,
                    origin=origin,
                    meters=meters,
                    email=email,
                    assertion_keys=assertion_keys,
                )
            )
        except (BadService, LibraryChanged, RecipeError) as error:
            end.setblocking(True)
            end.sendall(messages.encode(Failed(str(error))))
            return 1
        worker = Worker(app, listens, meters, stores, workers)
        settle_garbage()
        await worker.run(end)
    return 0
