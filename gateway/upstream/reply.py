"""A reply as its reader sees it: the head, and a body that arrives in pieces.

It is detached from its connection with the last byte, so a slow reader of a small
reply holds nothing, and nothing it does later can touch the next user's exchange.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.errors import UpstreamClosed
from gateway.fields import Fields
from gateway.upstream.framing import StatusLine
from gateway.upstream.tunnel import Tunnel


class Source(Protocol):
    """The connection, as far as a reply needs it."""

    def resume(self) -> None: ...
    def abort(self) -> None: ...


class Reply:
    """A final reply. Whoever gets one calls `close` when done with it."""

    __slots__ = (
        "_arrival",
        "_error",
        "_pieces",
        "_source",
        "_tunnel",
        "complete",
        "connect_ms",
        "content_length",
        "fields",
        "reason",
        "size",
        "status",
        "version",
    )

    def __init__(
        self,
        line: StatusLine,
        fields: Fields,
        content_length: int | None,
        *,
        source: Source | None,
        tunnel: Tunnel | None = None,
    ) -> None:
        self.version, self.status, self.reason = line
        """The version is `1.1` or `1.0`."""
        self.fields = fields
        """As they arrived, trailers excluded."""
        self.content_length = content_length
        """What Content-Length says, also for HEAD and 304; None without one."""
        self.complete = source is None and tunnel is None
        """True when the whole body has arrived; what is unread is in `read_now`."""
        self.size = 0
        """Bytes that have arrived and weren't read."""
        self.connect_ms: float | None = None
        """How long a new connection took, a place awaited; None: one was idle."""
        self._pieces: list[bytes] = []
        self._error: Exception | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._source = source
        self._tunnel = tunnel

    # --- the reader's side ----------------------------------------------------

    def read_now(self) -> bytes:
        """Return what has arrived since the last read, at once; maybe nothing."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.size = 0
        return data

    async def read(self) -> bytes:
        """Return the next piece of the body, as soon as there is one; b"" at its end.

        Raises:
            UpstreamTimeout: no piece came within `timeouts.idle`, or `total` is over.
            UpstreamClosed: the connection ended before the body did.
            BadReply: the body's framing is broken.
            Exception: what the request's body raised, if it was still being sent.
        """
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.complete:
                return b""
            # Not before: the last piece may still wait for the client to take it.
            if self._source is not None:
                self._source.resume()
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            except asyncio.CancelledError:
                self.close()
                raise
            finally:
                self._arrival = None
        return self.read_now()

    def upgrade(self) -> Tunnel:
        """Return the connection as a tunnel; from now on the caller's to close.

        Only for a 101, and only once.
        """
        assert self._tunnel is not None, "only a 101 has a tunnel"
        tunnel, self._tunnel = self._tunnel, None
        return tunnel

    def close(self) -> None:
        """Give up what hasn't arrived; nothing happens when all has. Idempotent."""
        source, self._source = self._source, None
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()
        if source is not None:
            self._pieces.clear()
            self.fail(UpstreamClosed("the reply was closed before its end"))
            source.abort()

    # --- the connection's side ------------------------------------------------

    def feed(self, pieces: list[bytes]) -> None:
        """Add to the body."""
        self._pieces += pieces
        for piece in pieces:
            self.size += len(piece)
        if self._arrival is not None:
            self._wake()

    def detach(self) -> None:
        """The connection is no longer this reply's: all of the body has arrived."""
        self._source = None

    def finish(self) -> None:
        """The reader may know that the body is whole, and its connection is free."""
        self._source = None
        self.complete = True
        if self._arrival is not None:
            self._wake()

    def fail(self, error: Exception) -> None:
        """The body will never be whole; *error* is raised once all pieces are read."""
        if self._error is None:
            self._error = error
        self._source = None
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
