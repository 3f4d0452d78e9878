"""edge. Development only: the ports of `make dev`, and whether they are free.

An environment variable changes each port, so that two checkouts, or a checkout and a
test, can run side by side.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

LOOPBACK = "127.0.0.1"


class BadPort(ValueError):
    """A port variable isn't a number from 1 to 65535."""


class PortInUse(Exception):
    """Another process listens on a port that is needed. The text names the port."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(
            f"port {port} ({name}) is in use; stop what uses it, "
            f"or choose another with {variable(name)}=…"
        )
        self.name = name
        self.port = port


def variable(name: str) -> str:
    """Return the environment variable for the port of *name*."""
    return f"{name.upper()}_PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The TCP port of each program."""

    gateway: int = 8000
    core: int = 3567
    """The real core's default, so that it can replace the embedded core."""
    catalog: int = 9001
    orders: int = 9002
    whoami: int = 9003
    page: int = 9004

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Ports:
        """Return the ports that *environ* sets, and the defaults for all others.

        Raises:
            BadPort: a value isn't a port number, or two programs have the same port.
        """
        configured: dict[str, int] = {}
        for field in fields(cls):
            text = environ.get(variable(field.name))
            if not text:
                continue
            if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
                raise BadPort(
                    f"{variable(field.name)} must be a port from 1 to 65535, "
                    f"not {text!r}"
                )
            configured[field.name] = int(text)
        ports = cls(**configured)
        names: dict[int, str] = {}
        for name, port in ports:
            if port in names:
                raise BadPort(f"{names[port]} and {name} can't both have port {port}")
            names[port] = name
        return ports

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yield the name and the port of each program."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)


def with_free_ports(ports: Ports, environ: Mapping[str, str]) -> Ports:
    """Return *ports* with free ones in place of defaults that are in use.

    A second `make dev` needs a port of its own for the gateway only. The gateway's
    port, and those that *environ* sets, are never replaced.
    """
    free = {
        name: _free_port()
        for name, port in ports
        if name != "gateway" and not environ.get(variable(name)) and _is_in_use(port)
    }
    return replace(ports, **free)


def check_free(ports: Ports) -> None:
    """Check that every port is free on loopback.

    A port that is taken between this check and the real bind raises `PortInUse` then.
    The check reports the usual case before anything is started.

    Raises:
        PortInUse: another process listens on a port.
    """
    for name, port in ports:
        if _is_in_use(port):
            raise PortInUse(name, port)


def _is_in_use(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that connections in TIME_WAIT don't occupy a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            return True
    return False


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
