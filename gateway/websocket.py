"""edge. Upgraded connections: a handshake judged here, then a tunnel of bytes.

The upstream is dialled first and the client hears 101 only when the upstream said
so. Frames are not rebuilt, so extensions, subprotocol, close codes and reasons are
the two ends' own. Their borders are watched, because a close frame of the gateway's
(session over, shutting down) may only stand between two frames.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from gateway import fields as raw
from gateway.answers import Answer, problem
from gateway.errors import UpstreamClosed
from gateway.fields import Fields

GOING_AWAY = 1001
SESSION_ENDED = 4401

UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
"""The fields of one hop that open a WebSocket, in both directions.

Source: RFC 9110 §7.8.
"""

_HIGH_WATER = 65536
"""Bytes waiting for the upstream before the client is no longer read."""

_CLOSE_WAIT_S = 1.0
"""How long the other side may take to notice that one side is gone."""


# --- the handshake (decided without a socket) -------------------------------


def wants_upgrade(fields: Fields) -> bool:
    """Return whether the request asks for a WebSocket. Any other upgrade is ignored.

    Source: RFC 9110 §7.8, RFC 6455 §4.2.1.
    """
    return _has_token(raw.values(fields, b"upgrade"), b"websocket") and _has_token(
        raw.values(fields, b"connection"), b"upgrade"
    )


def refuse_handshake(
    method: str, fields: Fields, request_id: str, *, http10: bool
) -> Answer | None:
    """Return the answer to a handshake that isn't one, None when it is sound.

    A body is refused, because the service may answer before it has come: its rest
    would be read as frames.

    Source: RFC 6455 §4.2.1, §4.2.2 (426 names the version that is spoken).
    """
    if method != "GET" or http10 or _has_body(fields):
        return problem(
            status=400,
            code="bad_handshake",
            title="A WebSocket handshake is a GET over HTTP/1.1, without a body",
            request_id=request_id,
            close=True,
        )
    versions = tuple(raw.values(fields, b"sec-websocket-version"))
    if versions != (b"13",):
        return problem(
            status=426,
            code="websocket_version",
            title="Only version 13 of the WebSocket protocol is spoken",
            request_id=request_id,
            fields=((b"Sec-WebSocket-Version", b"13"), (b"Upgrade", b"websocket")),
            close=True,
        )
    keys = tuple(raw.values(fields, b"sec-websocket-key"))
    if len(keys) != 1 or not _is_key(keys[0]):
        return problem(
            status=400,
            code="bad_handshake",
            title="Sec-WebSocket-Key is missing or malformed",
            request_id=request_id,
            close=True,
        )
    return None


def origin_allowed(fields: Fields, allowed: frozenset[str], *, by_cookie: bool) -> bool:
    """Return whether this page may open a socket here.

    Browsers send cookies with a handshake from any page, and CORS doesn't apply to
    it: the Origin is all there is. Without one (no browser) a session that came in
    a cookie is not enough.

    Source: RFC 6455 §10.2.
    """
    origins = tuple(raw.values(fields, b"origin"))
    if not origins:
        return not by_cookie
    return len(origins) == 1 and origins[0].decode("latin-1") in allowed


def accepted(status: int, fields: Fields) -> bool:
    """Return whether the upstream's reply opens a tunnel: 101, to a WebSocket."""
    return status == 101 and _has_token(raw.values(fields, b"upgrade"), b"websocket")


def _has_token(values: Iterable[bytes], token: bytes) -> bool:
    return any(
        part.strip(b" \t").lower() == token
        for value in values
        for part in value.split(b",")
    )


def _has_body(fields: Fields) -> bool:
    lengths = raw.values(fields, b"content-length")
    return raw.first(fields, b"transfer-encoding") is not None or any(
        length != b"0" for length in lengths
    )


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


# --- frame borders ----------------------------------------------------------


class Borders:
    """Follows one direction of a tunnel and knows where its frames end.

    Source: RFC 6455 §5.2.
    """

    __slots__ = ("_head", "_skip", "closed")

    def __init__(self) -> None:
        self._head = b""
        self._skip = 0
        self.closed = False
        """A close frame went by: nothing may follow it."""

    @property
    def at_border(self) -> bool:
        """The last byte that went by was the last of its frame."""
        return not self._head and not self._skip

    def feed(self, data: bytes) -> int:
        """Follow *data*; return how many of its bytes end with the last whole frame.

        0 when no frame ends in it.
        """
        position = 0
        border = 0
        size = len(data)
        while position < size:
            if self._skip:
                step = min(self._skip, size - position)
                self._skip -= step
                position += step
                if not self._skip:
                    border = position
                continue
            take = data[position : position + 14 - len(self._head)]
            head = self._head + take
            length = _frame_size(head)
            if length is None:
                self._head = head
                position += len(take)
                continue
            head_size, payload_size = length
            position += head_size - len(self._head)
            self._head = b""
            self._skip = payload_size
            self.closed = self.closed or head[0] & 0x0F == 8
            if not payload_size:
                border = position
        return border


def _frame_size(head: bytes) -> tuple[int, int] | None:
    """Return the sizes of a frame's head and payload, None if *head* is too short."""
    if len(head) < 2:
        return None
    size = head[1] & 0x7F
    extended = 2 if size == 126 else 8 if size == 127 else 0
    masked = 4 if head[1] & 0x80 else 0
    head_size = 2 + extended + masked
    if len(head) < head_size:
        return None
    if extended:
        size = int.from_bytes(head[2 : 2 + extended], "big")
    return head_size, size


def close_frame(code: int, reason: str, *, masked: bool) -> bytes:
    """Return a close frame; *masked* for the one that goes to a server.

    Source: RFC 6455 §5.5.1, §5.3.
    """
    payload = code.to_bytes(2, "big") + reason.encode()
    if not masked:
        return bytes((0x88, len(payload))) + payload
    mask = os.urandom(4)
    hidden = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes((0x88, 0x80 | len(payload))) + mask + hidden


# --- the tunnel -------------------------------------------------------------


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
        """Return when enough was taken for more to be written."""
        ...

    def write_eof(self) -> None:
        """Send no more."""
        ...


class UpstreamSocket(Socket, Protocol):
    """The upstream's end after its 101."""

    def finish(self) -> None:
        """Close, once what was written is sent."""
        ...


class ClientConnection(Protocol):
    """The listener's connection, as far as a tunnel needs it."""

    transport: asyncio.Transport | None

    def hand_over(self, tunnel: Any, /) -> None:
        """Give everything that comes from now on to *tunnel*."""
        ...

    async def drained(self) -> None:
        """Return when the client has taken enough of what was written."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long a socket may live."""

    idle_timeout_s: float
    max_lifetime_s: float | None
    session_ends_in_s: float | None
    """None: the socket doesn't end with its session."""


class _ClientSocket:
    """The client's end: what it sends is handed over by the listener."""

    def __init__(self, connection: ClientConnection) -> None:
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


class _Way:
    """One direction of a tunnel: what one end sends, on its way to the other."""

    def __init__(
        self, source: Socket, sink: Socket, *, masked: bool, on_end: Callable[[], None]
    ) -> None:
        """*masked*: the sink is a server. *on_end*: the source sends no more."""
        self._source = source
        self._sink = sink
        self._masked = masked
        self._on_end = on_end
        self._borders = Borders()
        self._farewell: bytes | None = None
        self._said = False
        self.moved_at = asyncio.get_running_loop().time()
        self.bytes = 0

    async def carry(self) -> None:
        """Carry all that comes; after a farewell, wait for the source's own.

        The source's end is passed on as one: the other way may still have to bring
        the answer to a close frame (RFC 6455 §7.1.1).
        """
        loop = asyncio.get_running_loop()
        while not (self._said and self._borders.closed):
            try:
                data = await self._source.read()
            except UpstreamClosed:
                data = b""
            if not data:
                self._said = True
                self._sink.write_eof()
                self._on_end()
                return
            self.moved_at = loop.time()
            self.bytes += len(data)
            border = self._borders.feed(data)
            if self._said:
                continue  # nothing may follow a close frame
            if self._farewell is not None and border:
                self._sink.write(data[:border])
                self._say()
            else:
                self._sink.write(data)
            await self._sink.drain()

    def end(self, code: int, reason: str) -> None:
        """Send the sink a close frame, as soon as no other frame is half sent."""
        self._farewell = close_frame(code, reason, masked=self._masked)
        if self._borders.at_border and not self._said:
            self._say()

    def _say(self) -> None:
        assert self._farewell is not None
        self._said = True
        if not self._borders.closed:
            self._sink.write(self._farewell)


class Tunnel:
    """Two connections joined, until one of them ends or the terms do."""

    def __init__(
        self, connection: ClientConnection, upstream: UpstreamSocket, terms: Terms
    ) -> None:
        client = _ClientSocket(connection)
        connection.hand_over(client)
        self._upstream = upstream
        self._terms = terms
        # The ways know of this list and not of the tunnel, which so has no way back
        # to itself: it is gone when it is over, without the collector.
        ends: list[str] = []
        self._ends = ends
        """Why it ended; the first word counts."""
        self._up = _Way(
            client, upstream, masked=True, on_end=lambda: ends.append("client_closed")
        )
        self._down = _Way(
            upstream,
            client,
            masked=False,
            on_end=lambda: ends.append("upstream_closed"),
        )
        self._verdict: tuple[int, str] | None = None
        self._ending = asyncio.Event()

    @property
    def bytes_in(self) -> int:
        """Bytes that came from the client."""
        return self._up.bytes

    @property
    def bytes_out(self) -> int:
        """Bytes that came from the upstream."""
        return self._down.bytes

    def end(self, code: int, reason: str) -> None:
        """Close both sides with this code, between two frames."""
        if self._verdict is None:
            self._verdict = (code, reason)
            self._ending.set()

    async def run(self) -> str:
        """Carry bytes until the end; return a word about why it ended.

        The upstream's connection is closed then; the client's is its owner's to close.
        """
        loop = asyncio.get_running_loop()
        clock = loop.create_task(self._watch())
        pumps = {loop.create_task(way.carry()) for way in (self._up, self._down)}
        tasks = {clock, *pumps}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._verdict is not None and not self._ends:
                code, reason = self._verdict
                self._ends.append(f"closed_{code}")
                self._up.end(code, reason)
                self._down.end(code, reason)
            # One end is gone, or both were told to go: the rest takes no time.
            await asyncio.wait(pumps, timeout=_CLOSE_WAIT_S)
            return self._ends[0] if self._ends else "cut"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._upstream.finish()

    async def _watch(self) -> None:
        """Return when the terms are over, or somebody called `end`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        terms = self._terms
        while self._verdict is None:
            moved = max(self._up.moved_at, self._down.moved_at)
            limits = [(moved + terms.idle_timeout_s, GOING_AWAY, "idle")]
            if terms.max_lifetime_s is not None:
                limits.append((began + terms.max_lifetime_s, GOING_AWAY, "lifetime"))
            if terms.session_ends_in_s is not None:
                limits.append(
                    (began + terms.session_ends_in_s, SESSION_ENDED, "session ended")
                )
            at, code, reason = min(limits)
            if loop.time() >= at:
                self.end(code, reason)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(at):
                    await self._ending.wait()
