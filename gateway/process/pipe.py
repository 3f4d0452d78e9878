"""edge. A child's end of its channel to the supervisor, on the child's event loop."""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

from gateway.process import messages
from gateway.process.message_values import BadMessage
from gateway.process.messages import Message

_MAX_UNREAD_BYTES = 4 * 1024 * 1024
"""The most that a child buffers while the supervisor doesn't read. Beyond that, it
closes the channel and drains."""


class Receiver(Protocol):
    """The part of a child that handles the supervisor's messages."""

    def receive(self, message: Message) -> None:
        """Handle a message from the supervisor.

        Raises:
            BadMessage: it isn't a message for this child.
        """

    def closed(self) -> None:
        """Stop: the channel has ended."""


class Pipe(asyncio.Protocol):
    """Sends messages to the supervisor, and passes its messages to a receiver."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._decoder = messages.Decoder()
        self._transport: asyncio.Transport | None = None
        self._is_closing = False
        self._is_closed = asyncio.Event()

    async def open(self, end: socket.socket) -> None:
        """Start on *end*, which the pipe owns from now on."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=end)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance: uvloop's transports have asyncio's methods, not its bases.
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            for message in self._decoder.feed(data):
                self._receiver.receive(message)
        except BadMessage:
            self._transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._is_closed.set()
        if not self._is_closing:
            self._receiver.closed()

    async def close(self) -> None:
        """Send what is unsent, and close the channel; the receiver isn't told."""
        assert self._transport is not None
        self._is_closing = True
        self._transport.close()
        await self._is_closed.wait()

    def send(self, message: Message) -> None:
        """Send *message*; close the channel if the supervisor doesn't read."""
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(messages.encode(message))
        if self._transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            self._transport.abort()
