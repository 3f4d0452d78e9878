"""edge. Development only: an aiohttp application on a port while a block runs."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from gateway.dev.ports import LOOPBACK, PortInUse

_SHUTDOWN_S = 1.0
"""How long open streams may go on at the end; nobody waits long for Ctrl-C."""


@asynccontextmanager
async def listening(
    name: str, app: web.Application, port: int, host: str = LOOPBACK
) -> AsyncIterator[int]:
    """Serve *app* while the block runs; gives the port, which is chosen for 0.

    Raises:
        PortInUse: something else listens there.
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
