"""edge. A connection after `101 Switching Protocols`: bytes both ways, no HTTP.

Deadlines are the caller's here: whether a tunnel is idle takes both its sides to tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.errors import UpstreamClosed

HIGH_WATER_BYTES: Final = 65536
"""Reading stops when this much is unread; one more read's worth may be in flight."""


class UpstreamTunnel(asyncio.Protocol):
    """The upstream's end of an upgraded connection."""

    __slots__ = (
        "_arrival",
        "_error",
        "_linger",
        "_on_lost",
        "_pieces",
        "_reading",
        "_room",
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
        """True when the upstream will send no more (some may still be unread)."""
        self._transport: asyncio.Transport | None = transport
        self._pieces: list[bytes] = []
        self._size = 0
        self._reading = True
        self._error: Exception | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._on_lost = on_lost
        if first:
            self.data_received(first)

    async def read(self) -> bytes:
        """Return what has arrived, as soon as anything has; b"" at the end.

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
        """Send *data*; call `drain` afterwards to hold back when the peer is slow."""
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Return when the upstream has taken enough for more to be written.

        Raises:
            UpstreamClosed: the connection is gone.
        """
        if self._room is not None:
            await asyncio.shield(self._room)
        if self._transport is None:
            raise self._error or UpstreamClosed("the tunnel is closed")

    def write_eof(self) -> None:
        """Send no more. Over TLS, which has no half-close, this closes."""
        if self._transport is None:
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def finish(self, linger_s: float) -> None:
        """Close once what was written is sent, within *linger_s*; else reset."""
        if self._transport is not None and self._linger is None:
            self._transport.close()
            loop = asyncio.get_running_loop()
            self._linger = loop.call_later(linger_s, self._transport.abort)

    def close(self) -> None:
        """Drop the connection at once. Idempotent."""
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
        # Stay open for writing, where the transport can (TLS can't).
        return self._transport is not None and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        _wake(self._room)
        self._room = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._linger is not None:
            self._linger.cancel()
        if exc is not None:
            self._error = UpstreamClosed(f"the tunnel was cut: {type(exc).__name__}")
        self.at_eof = True
        _wake(self._arrival)
        self.resume_writing()
        self._on_lost()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
