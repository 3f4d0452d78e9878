"""A WebSocket echo service: `python -m bench.rig.echo_upstream PORT`.

Requests without Upgrade get `ok`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import sys
from typing import cast

import uvloop

from bench.rig import frames

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Source: RFC 6455 §1.3."""
_KEY = re.compile(rb"\r\nsec-websocket-key:[ \t]*([^\r]+)", re.IGNORECASE)


class _Echo(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._got = b""
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self._is_open:
            answer, self._got = frames.echoed(self._got)
            self._transport.write(answer)
            return
        head, end, rest = self._got.partition(b"\r\n\r\n")
        if end:
            self._got = rest
            self._shake_hands(head)

    def _shake_hands(self, head: bytes) -> None:
        key = _KEY.search(head)
        if key is None:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        self._is_open = True
        digest = hashlib.sha1(key[1].strip() + _GUID, usedforsecurity=False).digest()
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: "
            + base64.b64encode(digest)
            + b"\r\n\r\n"
        )


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        _Echo, "127.0.0.1", int(sys.argv[1]), backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
