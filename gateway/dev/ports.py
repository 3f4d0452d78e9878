"""edge. Development only: the ports of `make dev`, and whether they are free.

Every one can be moved by an environment variable, so two checkouts (or a test)
can run side by side.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

LOOPBACK = "127.0.0.1"


class BadPort(ValueError):
    """A port variable isn't a number from 1 to 65535."""


class PortInUse(Exception):
    """Something else listens on a port that is needed; the text names both."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(
            f"port {port} ({name}) is in use; stop what uses it, "
            f"or choose another with {variable(name)}=…"
        )
        self.name = name
        self.port = port


def variable(name: str) -> str:
    """Return the environment variable that moves the port of *name*."""
    return f"{name.upper()}_PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """TCP ports by the name of what listens there."""

    gateway: int = 8000
    core: int = 3567
    """The real core's default, so that one can be put in the place of the other."""
    catalog: int = 9001
    orders: int = 9002
    whoami: int = 9003
    page: int = 9004

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Ports:
        """Return the ports that *environ* names, the defaults for all others.

        Raises:
            BadPort: a value is no port number, or two names share one.
        """
        chosen: dict[str, int] = {}
        for field in fields(cls):
            text = environ.get(variable(field.name))
            if not text:
                continue
            if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
                raise BadPort(
                    f"{variable(field.name)} must be a port from 1 to 65535, "
                    f"not {text!r}"
                )
            chosen[field.name] = int(text)
        ports = cls(**chosen)
        taken: dict[int, str] = {}
        for name, port in ports:
            if port in taken:
                raise BadPort(f"{taken[port]} and {name} can't both have port {port}")
            taken[port] = name
        return ports

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yield name and port of each."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)


def check_free(ports: Ports) -> None:
    """Return when every port can be had on loopback right now.

    A port that is lost between this and the real bind still ends in `PortInUse`,
    only later; this makes the usual case one line before anything is started.

    Raises:
        PortInUse: something listens on one of them.
    """
    for name, port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As servers do: connections in TIME_WAIT don't make a port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
                raise PortInUse(name, port) from exc
