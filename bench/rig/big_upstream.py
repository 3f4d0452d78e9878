"""An upstream for bodies of any size: `python -m bench.rig.big_upstream PORT`.

`GET /bytes/<n>` is answered with n bytes of a pattern. A POST is answered with the
number of bytes received, and of pieces that differ from the pattern. Any other request
is answered with `ok`.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from typing import cast

import uvloop

PIECE = 256 * 1024
"""The largest number of bytes that is sent or read at once."""
_COMPARED = 64 * 1024
"""Bytes compared at once. Larger copies would be mapped and unmapped each time, which
takes longer than copying."""

PERIOD = 65_521
"""A prime, so that bytes shifted by the size of a buffer differ from the pattern."""
_PATTERN = random.Random(5).randbytes(PERIOD)  # noqa: S311 # only has to be known
_LONG = memoryview(_PATTERN * (PIECE // PERIOD + 2))


def piece(offset: int, size: int) -> memoryview:
    """Return the pattern from *offset* on, at most 256 KiB of it."""
    begin = offset % PERIOD
    return _LONG[begin : begin + min(size, PIECE)]


def pattern_file() -> int:
    """Return a file in memory with the repeated pattern; the caller closes it.

    `os.sendfile` sends it without a copy in the sender.
    """
    file = os.memfd_create("pattern")
    os.write(file, _LONG)
    return file


def is_pattern(data: memoryview, offset: int) -> bool:
    """Return whether *data* equals the pattern from *offset* on."""
    for at in range(0, len(data), _COMPARED):
        # Comparing two views is slow, byte by byte; a bytearray is compared at once.
        part = bytearray(data[at : at + _COMPARED])
        if part != piece(offset + at, len(part)):
            return False
    return True


class _Service(asyncio.BufferedProtocol):
    _buffer = memoryview(bytearray(PIECE))
    """Shared by all connections: each is done with it before the next one uses it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._head = b""
        self._came = self._left = self._wrong = 0
        self._sent = self._to_send = 0
        self._may_write = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    # --- requests ---

    def get_buffer(self, _hint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        data = self._buffer[:size]
        while data:
            data = self._body(data) if self._left else self._begin(data)

    def _begin(self, data: memoryview) -> memoryview:
        already = len(self._head)
        head, end, _ = (self._head + data[:_LONGEST_HEAD]).partition(b"\r\n\r\n")
        if not end:
            self._head = head
            return data[:0]
        self._head = b""
        rest = data[len(head) + len(end) - already :]
        if head.startswith(b"GET /bytes/"):
            self._to_send, self._sent = int(head[11:].partition(b" ")[0]), 0
            self._transport.write(_reply(self._to_send))
            self._pour()
            return rest
        length = head.lower().partition(b"\r\ncontent-length:")[2]
        self._left = int(length.partition(b"\r\n")[0] or 0)
        self._came = self._wrong = 0
        if not self._left:
            self._counted(head.startswith(b"POST"))
        return rest

    def _body(self, data: memoryview) -> memoryview:
        mine, rest = data[: self._left], data[self._left :]
        self._wrong += not is_pattern(mine, self._came)
        self._left -= len(mine)
        self._came += len(mine)
        if not self._left:
            self._counted(True)
        return rest

    def _counted(self, was_post: bool) -> None:
        counts = b'{"bytes":%d,"wrong":%d}' % (self._came, self._wrong)
        body = counts if was_post else b"ok"
        self._transport.write(_reply(len(body)) + body)

    # --- replies ---

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._pour()

    def _pour(self) -> None:
        while self._may_write and self._sent < self._to_send:
            data = piece(self._sent, self._to_send - self._sent)
            self._sent += len(data)
            self._transport.write(data)


_LONGEST_HEAD = 16_384


def _reply(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        _Service, "127.0.0.1", int(sys.argv[1]), backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
