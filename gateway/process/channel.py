"""edge. The supervisor's end of a child's control channel."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from gateway.process import messages
from gateway.process.message_values import BadMessage
from gateway.process.messages import Message

_READ_BYTES = 64 * 1024


class Hangup(Exception):
    """The channel has ended. The text is the reason, if the child caused it."""


class Channel:
    """Sends and receives messages without blocking."""

    def __init__(self, sock: socket.socket) -> None:
        """The channel owns *sock* from now on."""
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
        """The number of bytes to send when the child reads again."""
        return len(self._unsent)

    def receive(self) -> list[Message] | None:
        """Return messages that have arrived; None if no bytes have.

        One call reads at most 64 KiB, so that a child that sends without end doesn't
        delay the others. An empty list means that a message is incomplete.

        Raises:
            Hangup: the channel has ended, or the child has sent an invalid message.
        """
        try:
            data = self._socket.recv(_READ_BYTES)
            received = self._decoder.feed(data)
        except BlockingIOError:
            return None
        except ConnectionError:
            raise Hangup from None
        except BadMessage as error:
            raise Hangup(str(error)) from None
        if not data:
            raise Hangup
        return received

    def send(self, message: Message) -> None:
        """Send *message* after the unsent ones."""
        self._unsent += messages.encode(message)
        self.flush()

    def flush(self) -> None:
        """Send what the channel takes, and keep the rest for the next call."""
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            sent = len(self._unsent)  # `receive` will raise Hangup
        del self._unsent[:sent]

    def close(self) -> None:
        """Close the channel; drop what is unsent."""
        self._socket.close()
        self._unsent.clear()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChildProcess:
    """A child that hasn't exited, as the supervisor has it."""

    child: int
    """Its number in the plan."""
    pid: int | None
    """None: it is the gateway before, which is no child."""
    channel: Channel
