"""A service that ends as one should: `python -m bench.rig.restarting_target PORT`.

Every request takes 20 ms. At SIGTERM it refuses connections, ends the requests that it
has, closes their connections, and exits.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Final, cast

WORK_S: Final = 0.02
BODY: Final = b"ok"
_REPLY: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%b\r\n" + BODY


class _Service:
    def __init__(self) -> None:
        self.ends = asyncio.Event()
        self.open: set[_Connection] = set()
        self.is_empty = asyncio.Event()
        """Set when the last connection is closed at the end."""

    def closed(self, connection: _Connection) -> None:
        self.open.discard(connection)
        if self.ends.is_set() and not self.open:
            self.is_empty.set()


class _Connection(asyncio.Protocol):
    def __init__(self, service: _Service) -> None:
        self._service = service
        self._got = b""
        self.is_working = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._service.open.add(self)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self.is_working and self._got.endswith(b"\r\n\r\n"):
            self._got = b""
            self.is_working = True
            asyncio.get_running_loop().call_later(WORK_S, self._reply)

    def _reply(self) -> None:
        self.is_working = False
        ends = self._service.ends.is_set()
        self.transport.write(_REPLY % (b"Connection: close\r\n" if ends else b""))
        if ends:
            self.transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._service.closed(self)


async def main() -> None:
    loop = asyncio.get_running_loop()
    service = _Service()
    loop.add_signal_handler(signal.SIGTERM, service.ends.set)
    server = await loop.create_server(
        lambda: _Connection(service), "127.0.0.1", int(sys.argv[1]), backlog=1024
    )
    await service.ends.wait()
    server.close()
    for connection in tuple(service.open):
        if not connection.is_working:
            connection.transport.close()
    if service.open:
        await service.is_empty.wait()


if __name__ == "__main__":
    asyncio.run(main())
