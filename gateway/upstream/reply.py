"""edge. A reply on its way to the client: the head whole, the body in pieces.

It is detached from its connection with the last byte, so a slow reader of a small
reply holds nothing, and nothing it does later can touch the next user's exchange.
"""

from __future__ import annotations

from typing import Protocol

from gateway.errors import UpstreamClosed
from gateway.http.fields import Fields
from gateway.http.reply_head import ReplyHead
from gateway.running import Wait
from gateway.upstream.tunnel import UpstreamTunnel


class ReplySource(Protocol):
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
        "head",
        "size",
    )

    def __init__(
        self,
        head: ReplyHead,
        pieces: list[bytes],
        source: ReplySource | None,
        tunnel: UpstreamTunnel | None = None,
    ) -> None:
        """*pieces* are what came of the body with the head; the list becomes ours.

        *source* is None when that is all of it.
        """
        self.head = head
        self.complete = source is None and tunnel is None
        """True when the whole body has arrived; what is unread is in `read_now`."""
        self.size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        """Bytes that have arrived and weren't read."""
        self.connect_ms: float | None = None
        """How long a new connection took, a place awaited; None: one was idle."""
        self._pieces = pieces
        self._error: Exception | None = None
        self._arrival: Wait[None] | None = None
        self._source = source
        self._tunnel = tunnel

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def fields(self) -> Fields:
        """The fields as they arrived, trailers excluded."""
        return self.head.fields

    # --- the reader's side ----------------------------------------------------

    @property
    def is_awaited(self) -> bool:
        """The reader waits, and has the next piece before `wake` returns.

        A task has it later, and more may come before.
        """
        return self._arrival is not None and self._arrival.is_prompt

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
                try:
                    raise self._error
                finally:  # it holds this frame: no ring is left
                    self._error = UpstreamClosed("the reply has failed before")
            if self.complete:
                return b""
            # Not before: the last piece may still wait for the client to take it.
            if self._source is not None:
                self._source.resume()
            arrival: Wait[None] = Wait()
            self._arrival = arrival
            try:
                await arrival
            except BaseException:
                self.close()
                raise
            finally:
                self._arrival = None
        return self.read_now()

    def upgrade(self) -> UpstreamTunnel:
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

    def add(self, pieces: list[bytes]) -> None:
        """Add to the body; `wake` tells the reader."""
        self._pieces += pieces
        for piece in pieces:
            self.size += len(piece)

    def detach(self) -> None:
        """The connection is no longer this reply's: all of the body has arrived."""
        self._source = None

    def finish(self) -> None:
        """Tell the reader that the body is whole.

        Like the next two, it may run the reader: call it last.
        """
        self._source = None
        self.complete = True
        self.wake()

    def fail(self, error: Exception) -> None:
        """The body will never be whole; *error* is raised once all pieces are read."""
        if self._error is None:
            self._error = error
        del error  # see `Wait.fail`
        self._source = None
        self.wake()

    def wake(self) -> None:
        """Let a reader that waits have what is there."""
        arrival = self._arrival
        if arrival is not None and not arrival.is_over:
            arrival.end(None)
