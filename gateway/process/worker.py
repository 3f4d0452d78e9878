"""edge. A process that serves, does what its supervisor says, and reports sign-outs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Sequence

from gateway.app import App, BadService
from gateway.process import messages
from gateway.process.messages import Accept, Deny, Drain, Failed, Message, Ping, Ready
from gateway.process.pipe import Pipe
from gateway.process.serve import (
    LAST_REQUESTS_S,
    ServerSockets,
    hosting,
    settle_garbage,
)
from gateway.seams.library import LibraryChanged
from gateway.settings import Settings
from gateway.supertokens import RecipeError

_HANDOVER_S = 0.05
"""How long a worker that drains goes on to accept, so that nobody is left in a queue
whose other holders haven't closed it yet."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What a terminal or a service manager sends to all processes of a group."""


class Worker:
    """What a process that serves is told, and does."""

    def __init__(self, app: App, sockets: Sequence[socket.socket]) -> None:
        self._app = app
        self._sockets = sockets
        self._pipe = Pipe(self)
        self._entrance = ServerSockets(app, linger_s=LAST_REQUESTS_S)
        self._servers: dict[int, asyncio.Server] = {}
        self._wanted: tuple[int, ...] = ()
        self._told = asyncio.Event()
        self._leaving = False
        self._hears_of_denials = False
        app.sessions.subscribe(self._denied)

    async def run(self, end: socket.socket) -> None:
        """Serve until the supervisor says otherwise at the other end of the channel."""
        await self._pipe.open(end)
        self._pipe.send(Ready())
        while not self._leaving:
            await self._told.wait()
            self._told.clear()
            await self._accept()
        for sock in self._sockets:
            sock.close()
        await asyncio.sleep(_HANDOVER_S)
        await self._entrance.close()

    async def _accept(self) -> None:
        """Accept where it is wanted, and nowhere else."""
        for number in self._servers.keys() - set(self._wanted):
            self._entrance.shut(self._servers.pop(number))
        for number in self._wanted:
            if number not in self._servers:
                sock = self._sockets[number].dup()
                self._servers[number] = await self._entrance.open(sock)

    def receive(self, message: Message) -> None:
        """Do what the supervisor says.

        Raises:
            BadMessage: a supervisor doesn't say that.
        """
        match message:
            case Deny(ends):
                self._hears_of_denials = True
                for handle, until in ends.items():
                    self._app.sessions.deny(handle, until)
                self._hears_of_denials = False
            case Ping():
                self._pipe.send(message)
            case Accept(sockets) if all(
                n in range(len(self._sockets)) for n in sockets
            ):
                self._wanted = sockets
                self._told.set()
            case Drain():
                self._leave()
            case _:
                raise messages.BadMessage("not for a worker")

    def closed(self) -> None:
        """Drain without a supervisor; from now on signals are this process's own."""
        if not self._leaving:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            self._leave()

    def _leave(self) -> None:
        self._leaving = True
        self._told.set()

    def _denied(self, handle: str, until: float) -> None:
        if not self._hears_of_denials:
            self._pipe.send(Deny({handle: until}))


async def work(
    settings: Settings,
    end: socket.socket,
    *,
    sockets: Sequence[socket.socket],
    log_format: str,
    who: str,
) -> int:
    """Be a worker; return the exit code. Its messages begin with *who*."""
    async with contextlib.AsyncExitStack() as opened:
        try:
            app = await opened.enter_async_context(
                hosting(settings, log_format=log_format, who=who)
            )
        except (BadService, LibraryChanged, RecipeError) as error:
            end.setblocking(True)
            end.sendall(messages.encode(Failed(str(error))))
            return 1
        worker = Worker(app, sockets)
        settle_garbage()
        await worker.run(end)
    return 0
