"""edge. The tunnel between a client and an upstream, after the handshake."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gateway.errors import UpstreamClosed
from gateway.running import turns_of
from gateway.websocket.frames import (
    GOING_AWAY,
    SESSION_ENDED,
    FrameTracker,
    close_frame,
)

_HIGH_WATER = 65536
"""Bytes waiting for the upstream before the client is no longer read."""

FOLLOWED_PER_TURN: Final = 16 * 1024
"""How many bytes the frames of one direction are followed through in one turn of the
event loop: less than a millisecond of work, if all frames are empty."""


class Socket(Protocol):
    """One end of a tunnel."""

    async def read(self) -> bytes:
        """Return what has arrived, as soon as anything has; b"" at the end.

        Raises:
            UpstreamClosed: the connection was reset.
        """
        ...

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None:
        """Return when the buffer has room for more."""
        ...

    def write_eof(self) -> None:
        """End this direction."""
        ...


class UpstreamSocket(Socket, Protocol):
    """The upstream's end after its 101."""

    def finish(self, linger_s: float) -> None:
        """Close after sending what was written, at most *linger_s* seconds later."""
        ...


class TunnelClient(Protocol):
    """What a tunnel needs of the client's connection."""

    transport: asyncio.Transport | None

    def hand_over(self, tunnel: Any, /) -> None:
        """Feed all further bytes to *tunnel*."""
        ...

    async def drained(self) -> None:
        """Return when the buffer has room for more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelLimits:
    """How long a tunnel may be idle, and how long it may last."""

    idle_timeout_s: float
    max_lifetime_s: float | None
    session_ends_in_s: float | None
    """None: the tunnel doesn't end with its session."""
    close_s: float
    """How long one end may take to close after the other one has."""
    linger_s: float
    """How long the upstream may take to read the last bytes."""


class _ClientSocket:
    """The client's end: the client's connection feeds it."""

    def __init__(self, connection: TunnelClient) -> None:
        assert connection.transport is not None
        self._connection = connection
        self._transport = connection.transport
        self._parts: list[bytes] = []
        self._size = 0
        self._paused = False
        self._ended = False
        self._arrived = asyncio.Event()

    def feed_data(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        self._arrived.set()
        if self._size > _HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def feed_eof(self) -> None:
        self._ended = True
        self._arrived.set()

    async def read(self) -> bytes:
        while not self._parts:
            if self._ended:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        data = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        await self._connection.drained()

    def write_eof(self) -> None:
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()


class Pump:
    """One direction of a tunnel: copies what *source* sends to *sink*."""

    def __init__(
        self, source: Socket, sink: Socket, *, masked: bool, on_end: Callable[[], None]
    ) -> None:
        """*masked*: the sink is a server. *on_end* is called when the source ends."""
        self._source = source
        self._sink = sink
        self._masked = masked
        self._on_end = on_end
        self._frames = FrameTracker()
        self._is_behind = False
        """Bytes were passed on whose frames aren't followed yet."""
        self._close_frame: bytes | None = None
        self._close_sent = False
        self.moved_at = asyncio.get_running_loop().time()
        self.bytes = 0

    async def run(self) -> None:
        """Copy until the source ends; after `end`, until its own close frame.

        An end of the source is passed on as an end of this direction only: the other
        one may still have to carry the answer to a close frame (RFC 6455 §7.1.1).
        """
        loop = asyncio.get_running_loop()
        while not (self._close_sent and self._frames.closed):
            try:
                data = await self._source.read()
            except UpstreamClosed:
                data = b""
            if not data:
                self._close_sent = True
                self._sink.write_eof()
                self._on_end()
                return
            self.moved_at = loop.time()
            self.bytes += len(data)
            if self._close_sent:
                await self._follow(data)
                continue  # no frame may follow a close frame
            if self._close_frame is not None:
                await self._follow(data, write=True)
            else:
                self._sink.write(data)
                if len(data) <= FOLLOWED_PER_TURN:
                    self._frames.feed(data)
                else:
                    await self._follow(data)
            await self._sink.drain()

    async def _follow(self, data: bytes, *, write: bool = False) -> None:
        """Follow the frames in *data*, a bounded part in each turn of the event loop.

        Their boundaries are known only if all frames are followed, but nothing is held
        back for it, unless a close frame waits for a boundary. *write*: so it does;
        *data* is written up to that boundary, then the close frame. The source isn't
        read meanwhile.
        """
        frames = self._frames
        self._is_behind = True
        for at in range(0, len(data), FOLLOWED_PER_TURN):
            if at:
                await turns_of(asyncio.get_running_loop()).next()
            part = data[at : at + FOLLOWED_PER_TURN]
            boundary = frames.feed(part)
            if write and boundary:
                self._sink.write(part[:boundary])
                self._send_close()
                write = False
            elif write:
                self._sink.write(part)
        self._is_behind = False
        self._close_at_boundary()

    def end(self, code: int, reason: str) -> None:
        """Send a close frame to the sink at the next boundary of its frames."""
        self._close_frame = close_frame(
            code, reason, mask=os.urandom(4) if self._masked else None
        )
        self._close_at_boundary()

    def _close_at_boundary(self) -> None:
        """Send the close frame if one waits, and all written frames are whole."""
        if (
            self._close_frame is not None
            and self._frames.at_boundary
            and not (self._is_behind or self._close_sent)
        ):
            self._send_close()

    def _send_close(self) -> None:
        assert self._close_frame is not None
        self._close_sent = True
        if not self._frames.closed:
            self._sink.write(self._close_frame)


class Tunnel:
    """Joins two connections until one of them ends or a limit is reached."""

    def __init__(
        self,
        connection: TunnelClient,
        upstream: UpstreamSocket,
        limits: TunnelLimits,
    ) -> None:
        client = _ClientSocket(connection)
        connection.hand_over(client)
        self._upstream = upstream
        self._limits = limits
        # The pumps hold this list, not the tunnel, so that no reference cycle arises:
        # the tunnel is freed when it ends, without the garbage collector.
        ends: list[str] = []
        self._ends = ends
        """Why it ended; the first entry counts."""
        self._up = Pump(
            client, upstream, masked=True, on_end=lambda: ends.append("client_closed")
        )
        self._down = Pump(
            upstream,
            client,
            masked=False,
            on_end=lambda: ends.append("upstream_closed"),
        )
        self._verdict: tuple[int, str] | None = None
        self._ending = asyncio.Event()

    @property
    def bytes_in(self) -> int:
        """Bytes received from the client."""
        return self._up.bytes

    @property
    def bytes_out(self) -> int:
        """Bytes received from the upstream."""
        return self._down.bytes

    def end(self, code: int, reason: str) -> None:
        """Close both sides with this code, between two frames."""
        if self._verdict is None:
            self._verdict = (code, reason)
            self._ending.set()

    async def run(self) -> str:
        """Copy bytes until the tunnel ends; return a word for the reason.

        The upstream's connection is closed then. The client's is left to its owner.
        """
        loop = asyncio.get_running_loop()
        clock = loop.create_task(self._watch())
        pumps = {loop.create_task(pump.run()) for pump in (self._up, self._down)}
        tasks = {clock, *pumps}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._verdict is not None and not self._ends:
                code, reason = self._verdict
                self._ends.append(f"closed_{code}")
                self._up.end(code, reason)
                self._down.end(code, reason)
            # One end has closed, or both were sent a close frame: the rest is short.
            await asyncio.wait(pumps, timeout=self._limits.close_s)
            return self._ends[0] if self._ends else "cut"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._upstream.finish(self._limits.linger_s)

    async def _watch(self) -> None:
        """Return when a limit is reached or `end` was called."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        limits = self._limits
        while self._verdict is None:
            moved = max(self._up.moved_at, self._down.moved_at)
            deadlines = [(moved + limits.idle_timeout_s, GOING_AWAY, "idle")]
            if limits.max_lifetime_s is not None:
                deadlines.append(
                    (began + limits.max_lifetime_s, GOING_AWAY, "lifetime")
                )
            if limits.session_ends_in_s is not None:
                deadlines.append(
                    (began + limits.session_ends_in_s, SESSION_ENDED, "session ended")
                )
            at, code, reason = min(deadlines)
            if loop.time() >= at:
                self.end(code, reason)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(at):
                    await self._ending.wait()
