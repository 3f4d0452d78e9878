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
    field = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{field}{more}\r\n"
    ).encode("latin-1")


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """Yield a connection, and reset it at the end."""
    with dial(port) as sock:
        yield sock


def dial(port: int) -> socket.socket:
    """Return a connection that is reset when it's closed.

    Without the reset, its port would be in TIME_WAIT for a minute.
    """
    sock = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
    # The system's timeouts: with Python's, each call would first call poll().
    sock.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _TIMEOUT_S, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return sock


def ask(sock: socket.socket, request: bytes) -> Answer:
    """Send a request and read its answer.

    Raises:
        NotAnswered: the connection ended, or the reply has no Content-Length.
        OSError: the connection failed, or nothing was received for 30 seconds.
    """
    sock.sendall(request)
    return answer(sock)


def answer(sock: socket.socket) -> Answer:
    """Read one answer; raises as `ask`."""
    status, length, body = begun(sock)
    while len(body) < length:
        if not (data := sock.recv(_PIECE)):
            raise NotAnswered(f"the connection ended after {len(body)} of {length}")
        body += data
    return Answer(status, body)


def begun(sock: socket.socket) -> tuple[int, int, bytes]:
    """Read a head; return status, body length, and the body bytes read with it.

    Raises: as `ask`.
    """
    received = b""
    while b"\r\n\r\n" not in received:
        if not (data := sock.recv(_PIECE)):
            raise NotAnswered("the connection ended before an answer")
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    _, field, rest = head.lower().partition(b"\r\ncontent-length:")
    length = rest.partition(b"\r\n")[0].strip()
    if not field or not length.isdigit():
        raise NotAnswered(f"no length: {head!r}")
    return int(head[9:12]), int(length), body
