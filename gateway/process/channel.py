"""edge. The supervisor's end of a child's channel."""

from __future__ import annotations

import socket

from gateway.process import messages
from gateway.process.messages import Message

_READ_BYTES = 64 * 1024


class Hangup(Exception):
    """The channel has ended; the text says why, if the child is to blame."""


class Channel:
    """Sends and receives messages without waiting."""

    def __init__(self, sock: socket.socket) -> None:
        """*sock* is the channel's from now on."""
        sock.setblocking(False)
        self._socket = sock
        self._decoder = messages.Decoder()
        self._unsent = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def is_open(self) -> bool:
        return self._socket.fileno() >= 0

    @property
    def unsent_bytes(self) -> int:
        """The bytes that wait until the child reads."""
        return len(self._unsent)

    def receive(self) -> list[Message] | None:
        """Return some of the messages that have arrived; None: nothing has.

        Not all of them: a child that never stops must keep no other one waiting.

        Raises:
            Hangup: the channel has ended, or isn't fit to be read any more.
        """
        try:
            data = self._socket.recv(_READ_BYTES)
            received = self._decoder.feed(data)
        except BlockingIOError:
            return None
        except ConnectionError:
            raise Hangup from None
        except messages.BadMessage as error:
            raise Hangup(str(error)) from None
        if not data:
            raise Hangup
        return received

    def send(self, message: Message) -> None:
        """Send *message* after those that still wait."""
        self._unsent += messages.encode(message)
        self.flush()

    def flush(self) -> None:
        """Send what the channel takes; the rest waits until it takes more."""
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            sent = len(self._unsent)  # `receive` will say that the channel has ended
        del self._unsent[:sent]

    def close(self) -> None:
        self._socket.close()
        self._unsent.clear()
