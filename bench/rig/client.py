"""A client that sends given bytes and reads the reply, one request at a time."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_TIMEOUT_S = 30
_PIECE = 65536


class Failed(Exception):
    """The measured program failed. The base class of such errors."""


class NotAnswered(Failed):
    """The connection ended, or the reply has no Content-Length."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply, read to its end."""

    status: int
    body: bytes


def head(
    port: int,
    path: str = "/",
    *,
    method: str = "GET",
    token: str | None = None,
    more: str = "",
) -> bytes:
    """Return a request's head; *more* are further lines, each with its end."""
    shown = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{shown}{more}\r\n"
    ).encode("latin-1")


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """Yield a connection; it is reset at the end, and leaves no TIME_WAIT."""
    with dial(port) as sock:
        yield sock


def dial(port: int) -> socket.socket:
    """Return a connection that is reset when it's closed.

    Otherwise ten thousand of them would hold their ports for a minute after it.
    """
    sock = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
    # The system's own deadlines: Python's would ask poll() before every call.
    sock.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _TIMEOUT_S, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return sock


def ask(sock: socket.socket, request: bytes) -> Answer:
    """Send a request and read its answer.

    Raises:
        NotAnswered: see there.
        OSError: the connection failed, or nothing came within 30 seconds.
    """
    sock.sendall(request)
    return answer(sock)


def answer(sock: socket.socket) -> Answer:
    """Read one answer; raises as `ask`."""
    status, length, body = begun(sock)
    while len(body) < length:
        if not (data := sock.recv(_PIECE)):
            raise NotAnswered(f"{len(body)} of {length} bytes came")
        body += data
    return Answer(status, body)


def begun(sock: socket.socket) -> tuple[int, int, bytes]:
    """Read a head; return status, body length, and body bytes read with it.

    Raises: as `ask`.
    """
    got = b""
    while b"\r\n\r\n" not in got:
        if not (data := sock.recv(_PIECE)):
            raise NotAnswered("the connection ended before an answer")
        got += data
    head, _, body = got.partition(b"\r\n\r\n")
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    length = rest.partition(b"\r\n")[0].strip()
    if not found or not length.isdigit():
        raise NotAnswered(f"no length: {head!r}")
    return int(head[9:12]), int(length), body
