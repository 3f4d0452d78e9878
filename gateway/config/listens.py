"""PURE. Addresses to listen on: `host:port`, or `unix:/path`.

They are parsed only here: the configuration, the command line and the sockets use
`listen_address`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from posixpath import normpath
from typing import Final

from gateway.config.findings import wrong
from gateway.config.urls import address, host_and_port
from gateway.http import target

_EXPECTED: Final = "expected host:port, such as 127.0.0.1:8000 or [::1]:8000"
_LOOPBACK: Final = frozenset({"127.0.0.1", "[::1]"})
_ANY: Final = ("0.0.0.0", "[::]")  # noqa: S104 - compared, not listened on


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddress:
    """Where to listen: a host and a port, or the path of a Unix socket."""

    host: str = ""
    """In lower case, IPv6 in brackets; empty for a Unix socket."""
    port: int = 0
    """0: any free one."""
    socket_path: str = ""
    """Empty for host and port."""

    @property
    def is_unix(self) -> bool:
        return bool(self.socket_path)

    @property
    def is_everywhere(self) -> bool:
        """Whether it is every address of the machine."""
        return self.host in _ANY

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the host."""
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    def overlaps(self, other: ListenAddress) -> bool:
        """Return whether only one of the two can be listened on.

        Every address of the machine contains each of them, and `localhost` is both
        loopback addresses (RFC 6761 §6.3). Port 0 is another port each time. Links in
        the path of a Unix socket aren't followed.
        """
        if self.is_unix or other.is_unix:
            if not (self.is_unix and other.is_unix):
                return False
            return normpath(self.socket_path) == normpath(other.socket_path)
        if self.port != other.port or self.port == 0:
            return False
        if self.is_everywhere or other.is_everywhere:
            return True
        return not _hosts(self.host).isdisjoint(_hosts(other.host))

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.socket_path}"
        return f"{self.host}:{self.port}"


def _hosts(name: str) -> frozenset[str]:
    """Return the addresses that are known to be those of *name*, or the name."""
    if name == "localhost":
        return _LOOPBACK
    with suppress(ValueError):
        mapped = IPv6Address(name.strip("[]")).ipv4_mapped
        if mapped is not None:
            return frozenset({str(mapped)})
    return frozenset({name})


def listen_address(text: str) -> ListenAddress:
    """Return the address in `host:port` or `unix:/path`.

    Neither host nor port has a default: an empty host would be every address of the
    machine.

    Raises:
        ValueError: *text* has another form.
    """
    if text.startswith("unix:"):
        return ListenAddress(socket_path=address(text).socket_path)
    name, _, port = text.rpartition(":")
    if not name and text.isascii() and port.isdecimal():
        raise wrong(
            f"{_EXPECTED}: the host is missing",
            "Write 127.0.0.1: before the port, or 0.0.0.0: for all addresses of this"
            " machine",
        )
    if not port.isdecimal():
        raise wrong(f"{_EXPECTED}: the port is missing", "Add it, such as :8000")
    if int(port) > target.MAX_PORT:
        raise wrong(f"{_EXPECTED}: a port is at most {target.MAX_PORT}")
    host = host_and_port(text)
    return ListenAddress(host=host.name, port=host.port or 0)
