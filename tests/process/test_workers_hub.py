"""The hub: what it reads, and when it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.process.hub import Hub
from gateway.process.messages import (
    Decoder,
    Deny,
    Drain,
    Failed,
    Message,
    Ping,
    Ready,
    Report,
    encode,
)

DEADLINE_S = 10.0


class Supervisor:
    """The other end of the channel."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.decoder = Decoder()

    def sends(self, *messages: Message) -> None:
        self.writer.write(b"".join(map(encode, messages)))

    async def hears(self) -> list[Message]:
        return self.decoder.feed(await self.reader.read(65536))


@asynccontextmanager
async def running() -> AsyncIterator[Supervisor]:
    """Run a hub for the block; it has ended by itself afterwards."""
    ours, theirs = socket.socketpair()
    hub = asyncio.create_task(Hub().run(theirs))
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    async with asyncio.timeout(DEADLINE_S):
        yield Supervisor(reader, writer)
        await hub
    writer.close()


async def test_it_reads_reports_and_answers_pings() -> None:
    """It is ready, takes what workers report, and ends when it is told to."""
    async with running() as supervisor:
        assert await supervisor.hears() == [Ready()]
        for message in (Ready(), Deny({"a": 1.0}), Failed("x")):
            supervisor.sends(Report(1, 0, message))
        supervisor.sends(Ping())
        assert await supervisor.hears() == [Ping()]
        supervisor.sends(Drain())


@pytest.mark.parametrize(
    "sent", [b"", encode(Failed("x")), b"no message\n"], ids=["closed", "odd", "none"]
)
async def test_it_ends_with_its_channel(sent: bytes) -> None:
    """Without a supervisor, or with one that it doesn't understand."""
    async with running() as supervisor:
        if sent:
            supervisor.writer.write(sent)
        else:
            supervisor.writer.write_eof()
