"""edge. What has been written to a client and isn't received yet."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from typing import Final

_INT: Final = struct.Struct("i")
_SO_NWRITE: Final = 0x1024
"""macOS, <sys/socket.h>: the bytes in the send buffer. Python doesn't name it."""


def unreceived(transport: asyncio.Transport) -> int:
    """Return how many bytes written to *transport* its peer hasn't acknowledged.

    On systems other than Linux and macOS, bytes that the kernel holds count as
    received.
    """
    size: int = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError, ValueError):  # closed, or not a socket
            size += _in_kernel(sock)
    return size


def _in_kernel(sock: socket.socket) -> int:
    """Return the bytes in the kernel's send buffer, 0 if the system doesn't tell.

    Raises:
        OSError: the socket is closed.
        ValueError: its descriptor is.
    """
    if sys.platform == "linux":
        # TIOCOUTQ is SIOCOUTQ: unsent and unacknowledged bytes (tcp(7), unix(7)).
        (size,) = _INT.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
    elif sys.platform == "darwin":
        size = sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
    else:
        size = 0
    return int(size)
