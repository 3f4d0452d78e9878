"""A client that writes raw bytes and reads replies.

    async with connect(port) as wire:
        await wire.send(request("GET", "/a", ("Cookie", "x=y")))
        reply = await wire.reply()

Nothing here uses the gateway's own parsers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

DEADLINE_S = 10.0
"""For each wait: long enough on a busy machine, short enough to see a hang."""


@dataclass
class WireReply:
    """One reply, with its bytes unchanged."""

    head: bytes
    status: int
    reason: bytes
    fields: list[tuple[str, str]]
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        """Return the values of every field called *name*, in order."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def one(self, name: str) -> str | None:
        """Return the value of the field called *name*; assert that it occurs once."""
        values = self.all(name)
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Wire:
    """One connection to a server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    interim: list[int] = field(default_factory=list)
    """The 1xx statuses that came before replies, except 101."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> WireReply:
        """Read a reply's head; its body is left unread."""
        while True:
            async with asyncio.timeout(DEADLINE_S):
                head = await self.reader.readuntil(b"\r\n\r\n")
            start, *lines = head[:-4].split(b"\r\n")
            version, status, reason = start.split(b" ", 2)
            assert version == b"HTTP/1.1", start
            if 100 <= int(status) < 200 and int(status) != 101:
                self.interim.append(int(status))
                continue
            fields = []
            for line in lines:
                name, colon, value = line.partition(b": ")
                assert colon, line
                fields.append((name.decode("latin-1"), value.decode("latin-1")))
            return WireReply(
                head=head, status=int(status), reason=reason, fields=fields
            )

    async def chunk(self) -> bytes:
        """Read one chunk of a chunked body; b"" is its end."""
        async with asyncio.timeout(DEADLINE_S):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def reply(self, method: str = "GET") -> WireReply:
        """Read a whole reply to a request of *method*."""
        reply = await self.head()
        length = reply.one("Content-Length")
        if method == "HEAD" or reply.status in (101, 204, 304):
            return reply
        if reply.one("Transfer-Encoding") == "chunked":
            while chunk := await self.chunk():
                reply.body += chunk
        elif length is not None:
            reply.body = await self.read(int(length))
        else:
            reply.body = await self.rest()
        return reply

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """Return all bytes until the server closes."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read()


@asynccontextmanager
async def connect(port: int, host: str = "127.0.0.1") -> AsyncIterator[Wire]:
    """Connect for the block."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def request(
    method: str,
    target: str,
    *fields: tuple[str, str],
    body: bytes | None = None,
    host: str | None = "localhost",
) -> bytes:
    """Return a whole request; a *body* gets its Content-Length."""
    lines = [f"{method} {target} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


async def ask(
    port: int,
    method: str,
    target: str,
    *fields: tuple[str, str],
    body: bytes | None = None,
    host: str | None = "localhost",
) -> WireReply:
    """Send one request on a connection of its own; return the reply."""
    async with connect(port) as wire:
        await wire.send(request(method, target, *fields, body=body, host=host))
        return await wire.reply(method)
