"""edge. The hub: a child of the supervisor that has an event loop and no clients.

The supervisor relays to it what workers report. Nothing is made of that yet; health,
metrics, administration, active checks and shared counters will be. No traffic depends
on it: when it dies it is restarted, and workers don't notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

from gateway.process.messages import BadMessage, Drain, Message, Ping, Ready, Report
from gateway.process.pipe import Pipe

NAME = "gateway hub"
"""What the system calls the process, in `ps -o comm` and `top`."""


class Hub:
    """Reads what the supervisor relays, and keeps nothing of it."""

    def __init__(self) -> None:
        self._pipe = Pipe(self)
        self._is_over = asyncio.Event()

    async def run(self, end: socket.socket) -> None:
        """Run until the supervisor says otherwise, or has ended."""
        await self._pipe.open(end)
        self._pipe.send(Ready())
        await self._is_over.wait()

    def receive(self, message: Message) -> None:
        """Do what the supervisor says.

        Raises:
            BadMessage: a supervisor doesn't say that to a hub.
        """
        match message:
            case Ping():
                self._pipe.send(message)
            case Report():
                pass
            case Drain():
                self._is_over.set()
            case _:
                raise BadMessage("not for a hub")

    def closed(self) -> None:
        """End: there is no supervisor any more."""
        self._is_over.set()


def be_hub(end: socket.socket) -> int:
    """Be the hub; return the exit code."""
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/comm").write_text(NAME)
    # Not uvloop: it would be imported for a few messages a minute.
    asyncio.run(Hub().run(end))
    return 0
