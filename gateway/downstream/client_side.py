"""PURE. The client's side of a request, as `forward` uses it, on any server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from gateway.errors import GatewayError


class Downstream(Protocol):
    """The client's side: the body is read from it, and the reply written to it."""

    keep_alive: bool
    """False once the connection can't take another request."""
    client_address: str
    """The client's address in the access log, set before the request is sent."""
    bytes_in: int
    bytes_out: int

    def cut(self, error: GatewayError) -> None:
        """Abort the client's connection; *error* is the reason in the access log."""
        ...

    def body_now(self, max_size: int) -> bytes | None:
        """Return the whole body if all of it has arrived, else None.

        Raises:
            ContentTooLarge: the body has more than *max_size* bytes.
            BadRequest: its framing is broken.
        """
        ...

    def body(self, max_size: int) -> AsyncIterator[bytes]:
        """Yield the body's pieces as they arrive.

        Raises:
            ContentTooLarge, RequestTimeout, BadRequest: when the next piece is read.
        """
        ...

    def start(
        self, head: bytes, status: int, size: int | None, first: bytes, complete: bool
    ) -> bool:
        """Write a reply's head, and *first*, the available part of its body.

        Returns the same as `write`. *head* is the status line and the fields, each with
        CRLF, without framing fields and without the empty line at the end. *size* is
        the length of the whole body in bytes, None if it isn't known. *complete* means
        that *first* is the whole body.
        """
        ...

    def write(self, chunk: bytes) -> bool:
        """Write a piece of the body; return False if `drain` must be awaited next.

        The caller awaits nothing else before that, so an implementation that can't
        write immediately may keep the piece until `drain`.
        """
        ...

    async def drain(self) -> None:
        """Return when more may be written.

        Raises:
            ConnectionError: the client is gone.
        """
        ...

    def finish(self) -> None:
        """End a complete body. `drain` follows if the last `write` returned False."""
        ...

    def upgrade(self, head: bytes) -> None:
        """Write the head of a 101: status line and fields, each with CRLF."""
        ...

    @property
    def connection(self) -> Any:
        """The client's connection, for `websocket.Tunnel`."""
        ...
