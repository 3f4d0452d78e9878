"""PURE. The address of a service and its TLS settings, made once, at load.

No part of it ever comes from a client's request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gateway import config
from gateway.config import Address, TlsConfig
from gateway.http.target import is_ip


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTarget:
    """One address of a service, with its TLS settings."""

    scheme: Literal["http", "https", "unix"]
    host: str = ""
    """A name or an IP address, without brackets; empty for `unix`."""
    port: int = 0
    path: str = ""
    """The socket's path; empty for all but `unix`."""
    tls: TlsConfig = field(default_factory=TlsConfig)
    at: str = ""
    """The one address of the name `host` that is meant; empty: all of them."""

    @classmethod
    def of(cls, address: Address, tls: TlsConfig | None = None) -> UpstreamTarget:
        """Return the target at *address*."""
        return cls(
            scheme=address.scheme,
            host=address.host.strip("[]"),
            port=address.port,
            path=address.socket_path,
            tls=tls or TlsConfig(),
        )

    @classmethod
    def parse(cls, url: str, tls: TlsConfig | None = None) -> UpstreamTarget:
        """Return the target at *url*, written as in the configuration file.

        Raises:
            ValueError: *url* is no valid upstream URL (see `config.address`).
        """
        return cls.of(config.address(url), tls)

    @property
    def is_address(self) -> bool:
        """True when the host is an IP address and needs no look-up."""
        return bool(self.at) or ":" in self.host or is_ip(self.host)

    @property
    def authority(self) -> bytes:
        """The default value of the Host field (`Address.authority`)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        address = Address(scheme=self.scheme, host=host, port=self.port)
        return address.authority.encode()

    def __str__(self) -> str:
        """Return the URL, for logs: with the address, if it is one of several."""
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = self.at or self.host
        host = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{host}:{self.port}"
