"""edge. The client's connection, and the client's end of a WebSocket."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway.seams import aiohttp as aiohttp_seams


class AiohttpConnection:
    """The connection of a request; after an upgrade, the client's end of a tunnel."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.transport = transport = request.transport
        self.address = "-"
        """The connected peer's IP address; `unix` for a Unix socket."""
        self.secure = False
        """Whether the connection to this server is TLS."""
        self.subject = b""
        """The subject of the client's certificate: not read from another server."""
        self.verified = False
        """The request has a verified session."""
        if transport is not None:
            peer = transport.get_extra_info("peername")
            self.address = str(peer[0]) if isinstance(peer, tuple) else "unix"
            self.secure = transport.get_extra_info("sslcontext") is not None

    def hand_over(self, tunnel: Any) -> None:
        """Feed all further bytes to *tunnel*."""
        aiohttp_seams.hand_over(self._request, tunnel)

    def collected(self, size: int) -> None:
        """Do nothing: `gateway.limits.memory` doesn't apply to another server."""

    async def drained(self) -> None:
        """Return when the buffer has room for more."""
        await aiohttp_seams.drained(self._request)
