"""edge. A reply of an upstream: the complete head, and the body in pieces.

It is detached from its connection when the last byte has arrived. So a slow reader of a
small reply doesn't occupy a connection, and no later call can affect the next exchange.
"""

from __future__ import annotations

from typing import Protocol

from gateway.errors import UpstreamClosed
from gateway.http.fields import Fields
from gateway.http.pieces import append
from gateway.http.reply_head import ReplyHead
from gateway.running import Wait
from gateway.upstream.places import WaitsFor
from gateway.upstream.tunnel import UpstreamTunnel

_TAKE = WaitsFor.TAKE


class ReplySource(Protocol):
    """The part of a connection that a reply uses."""

    def resume(self) -> None: ...
    def begin_wait(self, what: WaitsFor) -> None: ...
    def end_wait(self, what: WaitsFor) -> None: ...
    def abort(self) -> None: ...


class Reply:
    """A final reply. The caller that receives it must call `close` in the end."""

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
        """*pieces*: body bytes that arrived with the head; the reply keeps the list.

        *source* is None if they are the whole body.
        """
        self.head = head
        self.complete = source is None and tunnel is None
        """True when the whole body has arrived; a part of it may be unread."""
        if len(pieces) > 1:
            pieces[:] = (b"".join(pieces),)
        self.size = len(pieces[0]) if pieces else 0
        """Bytes that have arrived and are unread."""
        self.connect_ms: float | None = None
        """Milliseconds until a new connection was made; None: an idle one was used."""
        self._pieces = pieces
        self._error: Exception | None = None
        self._arrival: Wait[None] | None = None
        self._source = source
        self._tunnel = tunnel

    @property
    def status(self) -> int:
        """The status code."""
        return self.head.status

    @property
    def fields(self) -> Fields:
        """The fields of the head, unchanged; trailers are discarded."""
        return self.head.fields

    # --- the reader's side ----------------------------------------------------

    @property
    def is_awaited(self) -> bool:
        """True if a reader waits and resumes before `wake` returns.

        False for a reader in a task, which resumes later: more may arrive before.
        """
        return self._arrival is not None and self._arrival.is_prompt

    def read_now(self) -> bytes:
        """Return the unread bytes, without waiting; b"" if there are none."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.size = 0
        return data

    async def read(self) -> bytes:
        """Return all unread bytes of the body, waiting for the first; b"" at its end.

        Raises:
            UpstreamTimeout: no byte arrived within `timeouts.idle`, or `total` passed.
            UpstreamClosed: the connection ended before the body did.
            BadReply: the body's framing is malformed.
            Exception: the one raised by the request's body while it was being sent.
        """
        while not self._pieces:
            if self._error is not None:
                try:
                    raise self._error
                finally:  # it references this frame: drop it to avoid a cycle
                    self._error = UpstreamClosed("an earlier read of the reply failed")
            if self.complete:
                return b""
            # Resume only here: until this call, the reader may have been waiting for
            # the client to accept the last piece.
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

    def begin_wait(self) -> None:
        """Say that the reader waits for its client to take more, until `end_wait`.

        The exchange doesn't count against `max_connections` meanwhile.
        """
        if self._source is not None:
            self._source.begin_wait(_TAKE)

    def end_wait(self) -> None:
        """Say that the client has taken enough for more to be read."""
        if self._source is not None:
            self._source.end_wait(_TAKE)

    def upgrade(self) -> UpstreamTunnel:
        """Return the connection as a tunnel, which the caller must close.

        Call it for a 101 only, and only once.
        """
        assert self._tunnel is not None, "only a 101 has a tunnel"
        tunnel, self._tunnel = self._tunnel, None
        return tunnel

    def close(self, error: Exception | None = None) -> None:
        """Abort the connection unless the whole body has arrived. Idempotent.

        A reader that still waits, or reads later, gets *error*, or UpstreamClosed.
        """
        source, self._source = self._source, None
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()
        if source is not None:
            self._pieces.clear()
            self.fail(error or UpstreamClosed("the reply was closed before its end"))
            source.abort()

    # --- the connection's side ------------------------------------------------

    def add(self, pieces: list[bytes]) -> None:
        """Append *pieces* to the body, without resuming the reader (see `wake`)."""
        # One for each read: as objects of their own, small chunks would take 28 times
        # the memory of their bytes.
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        append(self._pieces, piece)
        self.size += len(piece)

    def detach(self) -> None:
        """Drop the connection: the whole body has arrived."""
        self._source = None

    def finish(self) -> None:
        """Mark the body as complete, and resume the reader.

        Like `fail` and `wake`, it may run the reader: call it last.
        """
        self._source = None
        self.complete = True
        self.wake()

    def fail(self, error: Exception) -> None:
        """Mark the body as failed: `read` raises *error* once all pieces are read."""
        if self._error is None:
            self._error = error
        del error  # see `Wait.fail`
        self._source = None
        self.wake()

    def wake(self) -> None:
        """Resume the reader, if one waits."""
        arrival = self._arrival
        if arrival is not None and not arrival.is_over:
            arrival.end(None)
