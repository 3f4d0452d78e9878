"""edge. Sockets that a service manager has bound, and passes with LISTEN_FDS.

Source: sd_listen_fds(3) and systemd.socket(5). They are used for the addresses in
`gateway.listen` and its like that they are bound to. Their files aren't the gateway's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from ipaddress import ip_address
from typing import Final

from gateway.config import ListenAddress, ListenConfig
from gateway.process.listening import BoundListen
from gateway.process.sockets import ListenError

FIRST_DESCRIPTOR: Final = 3
"""SD_LISTEN_FDS_START."""
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class GivenSockets:
    """Sockets that nobody has taken yet."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        """*sockets* are bound and listen."""
        self._sockets = sockets

    def take(self, listen: ListenConfig) -> BoundListen | None:
        """Return the socket at the address of *listen*, once; None: none is there.

        All workers accept from it.
        """
        for sock in self._sockets:
            if _is_at(sock, listen.parsed):
                self._sockets.remove(sock)
                return BoundListen(config=listen, sockets=(sock,))
        return None

    def refuse_rest(self) -> None:
        """Do nothing if all sockets were taken.

        Raises:
            ListenError: nothing in the file is listened on with one of them.
        """
        bound = [_address_of(sock) for sock in self._sockets]
        for sock in self._sockets:
            sock.close()
        for where in bound:
            raise ListenError(
                f"a socket from LISTEN_FDS is bound to {where}, which isn't an"
                " address in gateway.listen: add it there, or remove it from the"
                " .socket unit"
            )


def given_sockets(environ: MutableMapping[str, str]) -> GivenSockets:
    """Return the sockets that *environ* names for this process.

    The variables are removed, so that no child takes them for its own.

    Raises:
        ListenError: they aren't stream sockets that listen.
    """
    values = {name: environ.pop(name, "") for name in _VARIABLES}
    count = values["LISTEN_FDS"]
    if values["LISTEN_PID"] != str(os.getpid()) or not count:
        return GivenSockets([])
    if not (count.isascii() and count.isdecimal() and len(count) < 5):
        raise ListenError(f"LISTEN_FDS is {count!r}, which isn't a number of sockets")
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    return GivenSockets([_socket(descriptor) for descriptor in descriptors])


def _socket(descriptor: int) -> socket.socket:
    """Return a socket for a descriptor.

    Raises:
        ListenError: it isn't a stream socket that listens.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        raise _unfit(descriptor) from None
    if not (
        sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        and sock.type == socket.SOCK_STREAM
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        sock.close()
        raise _unfit(descriptor)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _unfit(descriptor: int) -> ListenError:
    return ListenError(
        f"descriptor {descriptor} from LISTEN_FDS isn't a stream socket that listens:"
        " use ListenStream= and Accept=no in the .socket unit"
    )


def _is_at(sock: socket.socket, wanted: ListenAddress) -> bool:
    """Return whether *sock* is bound to an address as the file spells it."""
    if sock.family == socket.AF_UNIX or wanted.is_unix:
        is_unix = sock.family == socket.AF_UNIX and wanted.is_unix
        return is_unix and os.fsdecode(sock.getsockname()) == wanted.socket_path
    host, port = sock.getsockname()[:2]
    if port != wanted.port:
        return False
    try:
        found = socket.getaddrinfo(
            wanted.host.strip("[]"),
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except OSError:
        return False
    # As `sockets.bind`, which takes the first.
    return ip_address(str(found[0][4][0])) == ip_address(host)


def _address_of(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(sock.getsockname())}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
