"""edge. Development only: an aiohttp application on a port while a block runs."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from gateway.dev.ports import LOOPBACK, PortInUse

_SHUTDOWN_S = 1.0
"""How long open streams may last after Ctrl-C, which should end quickly."""


@asynccontextmanager
async def listening(
    name: str, app: web.Application, port: int, host: str = LOOPBACK
) -> AsyncIterator[int]:
    """Yield the port, and serve *app* on it while the block runs.

    For port 0 the system chooses one.

    Raises:
        PortInUse: another process listens on the port.
    """
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_S
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            raise PortInUse(name, port) from exc
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
