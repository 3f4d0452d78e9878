"""edge. A connection after `101 Switching Protocols`: bytes in both directions.

It has no deadlines. The caller sets them, because a tunnel is idle only if both of its
sides are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.errors import UpstreamClosed

HIGH_WATER_BYTES: Final = 65536
"""Reading pauses when more than this is unread; one more read may still arrive."""


class UpstreamTunnel(asyncio.Protocol):
    """The upstream's end of an upgraded connection."""

    __slots__ = (
        "_arrival",
        "_drained",
        "_error",
        "_linger",
        "_on_lost",
        "_pieces",
        "_reading",
        "_size",
        "_transport",
        "at_eof",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        first: bytes,
        *,
        on_lost: Callable[[], None],
    ) -> None:
        self.at_eof = False
        """True when the upstream has ended its side; some bytes may be unread."""
        self._transport: asyncio.Transport | None = transport
        self._pieces: list[bytes] = []
        self._size = 0
        self._reading = True
        self._error: Exception | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._on_lost = on_lost
        if first:
            self.data_received(first)

    async def read(self) -> bytes:
        """Return all unread bytes, waiting for the first; b"" at the end.

        Raises:
            UpstreamClosed: the connection was reset.
        """
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.at_eof:
                return b""
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        """Send *data*; await `drain` afterwards, in case the upstream is slow."""
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Return when the write buffer has room for more.

        Raises:
            UpstreamClosed: the connection is closed.
        """
        if self._drained is not None:
            await asyncio.shield(self._drained)
        if self._transport is None:
            raise self._error or UpstreamClosed("the tunnel is closed")

    def write_eof(self) -> None:
        """End this direction. TLS has no half-close, so this closes both."""
        if self._transport is None:
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def finish(self, linger_s: float) -> None:
        """Close when all written bytes are sent; reset after *linger_s* seconds."""
        if self._transport is not None and self._linger is None:
            self._transport.close()
            loop = asyncio.get_running_loop()
            self._linger = loop.call_later(linger_s, self._transport.abort)

    def close(self) -> None:
        """Abort the connection, dropping unsent bytes. Idempotent."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol -----------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER_BYTES and self._reading:
            assert self._transport is not None
            self._reading = False
            self._transport.pause_reading()
        _wake(self._arrival)

    def eof_received(self) -> bool:
        self.at_eof = True
        _wake(self._arrival)
        # True keeps the transport open for writing; TLS transports can't.
        return self._transport is not None and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        _wake(self._drained)
        self._drained = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._linger is not None:
            self._linger.cancel()
        if exc is not None:
            self._error = UpstreamClosed(f"the tunnel was reset: {type(exc).__name__}")
        self.at_eof = True
        _wake(self._arrival)
        self.resume_writing()
        self._on_lost()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
