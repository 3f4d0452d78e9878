"""edge. A connection that is made only to see whether a target takes it."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.upstream.dial import Dialer

KNOCK_S: Final = 3.0
"""How long it may take, TLS included."""


class _Nothing(asyncio.Protocol):
    """Closes the connection as soon as it is made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def knock(dialer: Dialer) -> None:
    """Connect to a target and disconnect, without a request.

    Raises:
        ConnectFailed: it took no connection within `KNOCK_S`.
        OutOfDescriptors: this process has no file descriptor left.
    """
    await dialer.dial(_Nothing, asyncio.get_running_loop().time() + KNOCK_S)
