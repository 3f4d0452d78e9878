"""edge. Listening sockets, and the limit of open files."""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
import sys
from typing import Final

from gateway.config import listen_address

BACKLOG: Final = 1024
"""Connections that the kernel queues for one socket."""


class ListenError(Exception):
    """The address can't be listened on. The text is the reason and the remedy."""


def bind(listen: str, *, keys: str = "gateway.listen or --listen") -> socket.socket:
    """Return a non-blocking listening socket for `host:port`.

    *keys* names, in messages, what sets the address.

    Raises:
        ListenError: not `host:port`, the port is in use or not permitted, or the
            host isn't an address of this machine.
    """
    try:
        parsed = listen_address(listen)
    except ValueError as exc:
        raise ListenError(f"can't listen on {listen}: {exc}") from exc
    host, port = parsed.host.strip("[]"), parsed.port
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host,
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as exc:
        raise ListenError(f"can't listen on {listen}: {exc.strerror}") from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise ListenError(
                f"port {port} is in use on {host}: stop what listens there,"
                f" or choose another port with {keys}"
            ) from exc
        if exc.errno == errno.EACCES:
            raise ListenError(
                f"port {port} needs more rights than this user has:"
                " choose one above 1023"
            ) from exc
        raise ListenError(f"can't listen on {listen}: {exc.strerror}") from exc
    return sock


def share(sock: socket.socket, count: int) -> list[socket.socket]:
    """Return *count* listening sockets for one address, *sock* first.

    The kernel distributes connections among them, and each has its own queue. If the
    kernel can't, the result is *sock* alone, from which several processes may accept.

    *sock* must be bound without SO_REUSEPORT, so that a port in use is an error: with
    it, two gateways of one user would share a port without notice. Other sockets can
    share the port once *sock* has the option, although it listens already.
    """
    sockets = [sock]
    # Other systems have SO_REUSEPORT, but don't distribute connections.
    # Of Unix sockets, each is another file.
    if count == 1 or sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return sockets
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        while len(sockets) < count:
            another = socket.socket(sock.family, sock.type, sock.proto)
            sockets.append(another)
            another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            another.bind(sock.getsockname())
            another.listen(BACKLOG)
            another.setblocking(False)
    except OSError:
        for another in sockets[1:]:
            another.close()
        return [sock]
    return sockets


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard limit.

    The usual soft limit is 1024, which is too low for `max_connections`: a connection
    may need two descriptors. The hard limit is the operator's and isn't changed.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems (macOS) refuse the limit that they report; the soft limit then stays.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def url_of(sock: socket.socket, scheme: str = "http") -> str:
    """Return the URL of a bound socket."""
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
