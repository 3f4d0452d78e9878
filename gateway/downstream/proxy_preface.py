"""edge. The beginning of a connection from a proxy: its header, before all else.

Until the header is there, the connection counts against `max_connections`, and has
`head_timeout`. It is closed without an answer if the peer isn't trusted, or if anything
but a header comes first.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import cast

from gateway.downstream.listener import Listener
from gateway.headers import UNIX_PEER, Networks
from gateway.http.proxy_protocol import BadProxyHeader, read_proxy_header

_LIMIT = "proxy_protocol of gateway.listen"


class ProxyPreface(asyncio.Protocol):
    """Reads the header, and hands the connection on to the protocol of its client."""

    def __init__(
        self,
        listener: Listener,
        trusted: Networks,
        waiting: dict[ProxyPreface, None],
        begin: Callable[[str], asyncio.Protocol],
    ) -> None:
        """*waiting* has those whose header isn't complete. *begin* returns the next
        protocol for a client's address; empty: the peer's own."""
        self._listener = listener
        self._trusted = trusted
        self._waiting = waiting
        self._begin = begin
        self._peer = UNIX_PEER
        self._data = b""
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = cast("asyncio.Transport", transport)
        peer = wire.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._peer = str(peer[0])
        loop = asyncio.get_running_loop()
        if self._peer not in self._trusted:
            self._reject("the peer isn't in it")
            wire.abort()
            return
        if not self._listener.admission.admits(self._peer, loop.time()):
            wire.abort()
            return
        self._transport = wire
        self._waiting[self] = None
        self._listener.admission.waiting += 1
        self._deadline = loop.call_later(
            self._listener.limits.head_timeout, self._on_deadline
        )

    def connection_lost(self, exc: BaseException | None) -> None:
        self._end()

    def data_received(self, data: bytes) -> None:
        wire = self._transport
        if wire is None:
            return
        self._data += data
        try:
            header = read_proxy_header(self._data)
        except BadProxyHeader as error:
            self._reject(str(error))
            self.abort()
            return
        if header is None:
            return
        rest, self._data = self._data[header.size :], b""
        self._end()
        following = self._begin(sys.intern(header.address))
        wire.set_protocol(following)
        following.connection_made(wire)
        if rest and not wire.is_closing():
            following.data_received(rest)

    def _on_deadline(self) -> None:
        self._reject("no header within gateway.limits.head_timeout")
        self.abort()

    def abort(self) -> None:
        """Close the connection now."""
        wire = self._transport
        self._end()
        if wire is not None:
            wire.abort()

    def _end(self) -> None:
        """Wait no longer, for whatever reason."""
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()
        if self._transport is not None:
            self._transport = None
            del self._waiting[self]
            self._listener.admission.waiting -= 1

    def _reject(self, why: str) -> None:
        now = asyncio.get_running_loop().time()
        self._listener.rejections.add(f"{_LIMIT} ({why})", self._peer, now)
