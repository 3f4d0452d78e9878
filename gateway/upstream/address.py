"""PURE. Where a service is: one target URL, understood once, at load.

Nothing that a client sends ever becomes part of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Literal

from gateway.config import Tls

_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))"
    r"(?::(?P<port>\d{1,5}))?/?"
)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_DEFAULT_PORT = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTarget:
    """One address of a service, and how TLS is spoken there."""

    scheme: Literal["http", "https", "unix"]
    host: str = ""
    """A name or an IP address, without brackets; empty for `unix`."""
    port: int = 0
    path: str = ""
    """The socket's path; empty for all but `unix`."""
    tls: Tls = field(default_factory=Tls)

    @classmethod
    def parse(cls, url: str, tls: Tls | None = None) -> UpstreamTarget:
        """Return the target that `http://host:port`, `https://host` or `unix:/path` is.

        Raises:
            ValueError: it is none of these; it has a path, a query or user
                information; or its host is a number that some resolvers would read
                as an IP address (`2130706433`, `127.1`).
        """
        tls = tls or Tls()
        if url.startswith("unix:"):
            path = url.removeprefix("unix:")
            if not path.startswith("/") or "\0" in path:
                raise ValueError(f"{url!r}: unix: needs an absolute path")
            return cls(scheme="unix", path=path, tls=tls)
        found = _URL.fullmatch(url)
        if found is None:
            raise ValueError(
                f"{url!r}: expected http://host:port, https://host or unix:/path,"
                " without path, query and user"
            )
        scheme: Literal["http", "https"] = "https" if found["scheme"][4:] else "http"
        port = int(found["port"] or _DEFAULT_PORT[scheme])
        if not 1 <= port <= 65535:
            raise ValueError(f"{url!r}: there is no port {port}")
        host = str(IPv6Address(found["v6"])) if found["v6"] else found["host"].lower()
        if not found["v6"]:
            _check_host(host)
        return cls(scheme=scheme, host=host, port=port, tls=tls)

    @property
    def is_address(self) -> bool:
        """True when the host is an IP address and needs no look-up."""
        return ":" in self.host or self.host.rpartition(".")[2].isdigit()

    @property
    def authority(self) -> bytes:
        """What the Host field says by default; a default port isn't named.

        Source: RFC 9110 §7.2, RFC 9112 §3.2.
        """
        if self.scheme == "unix":
            return b"localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port == _DEFAULT_PORT[self.scheme]:
            return host.encode()
        return f"{host}:{self.port}".encode()

    def __str__(self) -> str:
        """The URL, for logs."""
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def _check_host(host: str) -> None:
    labels = host.removesuffix(".").split(".")
    last = labels[-1]
    if last.isdigit() or last.startswith("0x"):
        ip_address(host)  # four plain numbers; anything else is a ValueError
    elif len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"{host!r} is not a host name")
