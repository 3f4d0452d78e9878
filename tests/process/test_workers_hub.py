"""The hub: the messages that it accepts, and when it ends."""

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
    """The supervisor's end of the hub's channel."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.decoder = Decoder()

    def send(self, *messages: Message) -> None:
        self.writer.write(b"".join(map(encode, messages)))

    async def receive(self) -> list[Message]:
        return self.decoder.feed(await self.reader.read(65536))


@asynccontextmanager
async def running() -> AsyncIterator[Supervisor]:
    """Run a hub for the block, and wait until it has ended by itself."""
    ours, theirs = socket.socketpair()
    hub = asyncio.create_task(Hub().run(theirs))
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    async with asyncio.timeout(DEADLINE_S):
        yield Supervisor(reader, writer)
        await hub
    writer.close()


async def test_it_reads_reports_and_answers_pings() -> None:
    """The hub sends `Ready`, accepts reports, answers pings, and ends after `Drain`."""
    async with running() as supervisor:
        assert await supervisor.receive() == [Ready()]
        for message in (Ready(), Deny({"a": 1.0}), Failed("x")):
            supervisor.send(Report(1, 0, message))
        supervisor.send(Ping())
        assert await supervisor.receive() == [Ping()]
        supervisor.send(Drain())


@pytest.mark.parametrize(
    "sent", [b"", encode(Failed("x")), b"no message\n"], ids=["closed", "odd", "none"]
)
async def test_it_ends_with_its_channel(sent: bytes) -> None:
    """The hub ends when its channel closes or has a message not meant for a hub."""
    async with running() as supervisor:
        if sent:
            supervisor.writer.write(sent)
        else:
            supervisor.writer.write_eof()
