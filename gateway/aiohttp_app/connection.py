"""edge. The client's connection, and the client's end of a WebSocket."""

from __future__ import annotations

from typing import Any

from aiohttp import web


class AiohttpConnection:
    """The connection of a request; after an upgrade, the client's end of a tunnel."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.transport = transport = request.transport
        self.address = "-"
        """The connected peer's IP address; `unix` for a Unix socket."""
        self.secure = False
        """Whether the connection to this server is TLS."""
        if transport is not None:
            peer = transport.get_extra_info("peername")
            self.address = str(peer[0]) if isinstance(peer, tuple) else "unix"
            self.secure = transport.get_extra_info("sslcontext") is not None

    def hand_over(self, tunnel: Any) -> None:
        """Feed all further bytes to *tunnel*.

        Frames aren't parsed, as aiohttp's WebSocketResponse would do: they are passed
        on unchanged, with their extensions, masks and close codes.
        """
        self._request.protocol.set_parser(_Feed(tunnel))  # type: ignore[arg-type]

    async def drained(self) -> None:
        """Return when the buffer has room for more."""
        await self._request.writer.drain()


class _Feed:
    """Replaces aiohttp's parser of frames: feeds the bytes to a tunnel."""

    def __init__(self, tunnel: Any) -> None:
        self._tunnel = tunnel

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._tunnel.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self._tunnel.feed_eof()
