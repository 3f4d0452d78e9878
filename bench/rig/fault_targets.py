"""Targets of a service, one of which can be put out of order while it serves.

They run in the load generator's event loop. Each counts the requests that reach it, but
not the checks (`CHECK`).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Final, cast

CHECK: Final = "/healthz"
BODY: Final = b"0123456789abcdef"

FAULTS: Final = {
    "none": "",
    "black hole": "its accept queue is full, so a SYN gets no answer",
    "refused": "its port is closed",
    "slow": "replies after 0.5 to 2 s",
    "flapping": "closed for 2 s, then open for 2 s, and again",
    "silent": "accepts connections, and never replies",
    "stalled": "sends half a body, and then nothing",
    "cut": "sends half a body, and resets the connection",
    "503": "replies 503 to everything",
}
"""What is wrong with a target, by the name of the fault."""

FLAP_S: Final = 2.0
_SLOW_S: Final = (0.5, 2.0)
_SAMPLED_S: Final = 0.2
"""Less than any proxy waits for a connection."""
_HEAD: Final = b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
_GOOD: Final = _HEAD % (b"200 OK", len(BODY)) + BODY
_BAD: Final = _HEAD % (b"503 Service Unavailable", len(BODY)) + BODY
_HALF: Final = _GOOD[: -len(BODY) // 2]


class Target:
    """A server on one port of loopback."""

    def __init__(self) -> None:
        self.fault = "none"
        self.reached = 0
        """Requests that it received; of a black hole, connections that were tried."""
        self._port = 0
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._rng = Random(17)  # noqa: S311 - no secret
        self._background: asyncio.Task[None] | None = None
        self._held = contextlib.ExitStack()

    @property
    def port(self) -> int:
        """The port, which stays the same."""
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def open(self) -> None:
        """Accept connections."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self),
            "127.0.0.1",
            self._port,
            backlog=1024,
            reuse_address=True,
        )
        self._port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Refuse connections, and reset those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()

    def reset(self) -> None:
        """Reset the connections that are open."""
        for connection in tuple(self._open):
            connection.transport.abort()

    async def begin(self, fault: str) -> None:
        """Be out of order from now on. Connections from before are reset."""
        self.fault, self.reached = fault, 0
        if fault in ("refused", "black hole", "flapping"):
            self.close()
        else:
            self.reset()
        if fault == "black hole":
            await asyncio.sleep(0)  # the listening socket is closed by then
            self._held.enter_context(_full(self._port))
            self._background = asyncio.create_task(self._count_tried())
        elif fault == "flapping":
            self._background = asyncio.create_task(self._flap())

    async def end(self) -> None:
        """Close everything."""
        if self._background is not None:
            self._background.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._background
        self._held.close()
        self.close()

    async def _flap(self) -> None:
        while True:
            await asyncio.sleep(FLAP_S)
            await self.open()
            await asyncio.sleep(FLAP_S)
            self.close()

    async def _count_tried(self) -> None:
        seen: set[int] = set()
        while True:
            table = await asyncio.to_thread(Path("/proc/net/tcp").read_text)
            seen |= set(half_open(table, self._port))
            self.reached = len(seen)
            await asyncio.sleep(_SAMPLED_S)

    # --- the connections' side ---

    def on_open(self, connection: _Connection) -> None:
        self._open.add(connection)

    def on_closed(self, connection: _Connection) -> None:
        self._open.discard(connection)

    def answer(self, transport: asyncio.Transport, head: bytes) -> None:
        """Answer a request, or don't."""
        self.reached += not head.startswith(b"GET " + CHECK.encode() + b" ")
        match self.fault:
            case "silent":
                pass
            case "slow":
                wait_s = self._rng.uniform(*_SLOW_S)
                asyncio.get_running_loop().call_later(wait_s, _late, transport)
            case "stalled":
                transport.write(_HALF)
            case "cut":
                transport.write(_HALF)
                asyncio.get_running_loop().call_later(0.01, transport.abort)
            case "503":
                transport.write(_BAD)
            case _:
                transport.write(_GOOD)


class _Connection(asyncio.Protocol):
    """A client's connection. No request has a body."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._got = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._target.on_open(self)

    def data_received(self, data: bytes) -> None:
        self._got += data
        while b"\r\n\r\n" in self._got:
            head, _, self._got = self._got.partition(b"\r\n\r\n")
            self._target.answer(self.transport, head)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._target.on_closed(self)


def _late(transport: asyncio.Transport) -> None:
    if not transport.is_closing():
        transport.write(_GOOD)


@contextlib.asynccontextmanager
async def targets(count: int) -> AsyncIterator[tuple[Target, ...]]:
    """Yield so many targets that are in order."""
    made = tuple(Target() for _ in range(count))
    try:
        for target in made:
            await target.open()
        yield made
    finally:
        for target in made:
            await target.end()


@contextlib.contextmanager
def _full(port: int) -> Iterator[None]:
    """Listen on *port* with a full accept queue: no SYN is answered."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield


def half_open(table: str, port: int) -> Iterator[int]:
    """Return the local ports whose SYN to *port* has no answer yet (SYN-SENT).

    *table* is the text of /proc/net/tcp, which may be long. Source: proc(5).
    """
    for found in re.finditer(rf":([0-9A-F]{{4}}) [0-9A-F]+:{port:04X} 02 ", table):
        yield int(found[1], 16)
