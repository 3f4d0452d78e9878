"""edge. Connections that end with a RST, so that their end can't be mistaken."""

from __future__ import annotations

import asyncio
import socket
import struct

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, on, with a timeout of 0: closing sends a RST."""


def reset_on_close(transport: asyncio.Transport) -> None:
    """Make closing the connection send a RST instead of a FIN.

    After a FIN, a body that is delimited by the end of the connection would count as
    complete (RFC 9112 §8).
    """
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
