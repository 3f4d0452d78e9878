"""edge. The hub: a child of the supervisor that has an event loop and no clients.

The supervisor relays the workers' reports to it. The hub doesn't use them yet; they are
for health, metrics, administration, active checks and shared counters. No traffic
depends on the hub: when it dies it is restarted, and workers are not affected.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

from gateway.process.messages import BadMessage, Drain, Message, Ping, Ready, Report
from gateway.process.pipe import Pipe

NAME = "gateway hub"
"""The name of the process in `ps -o comm` and `top`."""


class Hub:
    """Reads the reports that the supervisor relays, and discards them."""

    def __init__(self) -> None:
        self._pipe = Pipe(self)
        self._stopped = asyncio.Event()

    async def run(self, end: socket.socket) -> None:
        """Run until the supervisor sends `Drain` or its end of the channel closes."""
        await self._pipe.open(end)
        self._pipe.send(Ready())
        await self._stopped.wait()

    def receive(self, message: Message) -> None:
        """Handle a message from the supervisor.

        Raises:
            BadMessage: it isn't a message for a hub.
        """
        match message:
            case Ping():
                self._pipe.send(message)
            case Report():
                pass
            case Drain():
                self._stopped.set()
            case _:
                raise BadMessage("not for a hub")

    def closed(self) -> None:
        """Stop: the supervisor has ended."""
        self._stopped.set()


def be_hub(end: socket.socket) -> int:
    """Run the hub in this process; return the exit code."""
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/comm").write_text(NAME)
    # Not uvloop: a few messages a minute don't justify the import.
    asyncio.run(Hub().run(end))
    return 0
