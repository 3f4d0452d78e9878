"""Servers on loopback whose connections have all ended when the block has."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from faults import DEADLINE_S

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def until_closed(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Say nothing."""
    await reader.read()


@contextlib.asynccontextmanager
async def serving(
    handler: Handler = until_closed,
    *,
    context: ssl.SSLContext | None = None,
    path: str | None = None,
    is_reached: bool = True,
) -> AsyncIterator[int]:
    """Serve each connection with *handler*; yield the port, 0 for a Unix socket.

    A connection ends with its handler, even if the client ends it before. The end of
    the block waits for the first one, unless no client gets as far (*is_reached*).
    """
    running: set[asyncio.Task[None]] = set()
    begun = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        begun.set()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await handler(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    if path is not None:
        listener = await asyncio.start_unix_server(serve, path, ssl=context)
    else:
        listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with listener:
        yield 0 if path else int(listener.sockets[0].getsockname()[1])
        if is_reached:
            async with asyncio.timeout(DEADLINE_S):
                await begun.wait()
            await asyncio.wait(running)
