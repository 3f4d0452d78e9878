"""PURE. Which store a gateway shares, and what happens without it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from gateway.config import Config, StoreAddress, core_addresses

_STREAM: Final = ":denials"
_DIGEST_BYTES: Final = 8
"""Of the name of a core. Names protect nothing: they only keep cores apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlace:
    """A stream in a Redis server."""

    address: StoreAddress
    key: str
    """The name of the stream."""
    ca_file: str | None
    """For TLS; None: the authorities of the system."""
    grace_s: float | None
    """After how long without the store requests are refused; None: never."""

    @property
    def rate_prefix(self) -> str:
        """What the names of the keys of rate limits begin with."""
        return f"{self.key.removesuffix(_STREAM)}:rates:"


def place_of(config: Config) -> StorePlace | None:
    """Return where the gateway of *config* shares its denials; None: nowhere."""
    shared = config.gateway.shared
    if shared is None:
        return None
    return StorePlace(
        address=shared.address,
        key=shared.key or _key_of(config.supertokens.connection_uri),
        ca_file=shared.ca_file,
        grace_s=shared.grace if shared.on_failure == "refuse" else None,
    )


def _key_of(connection_uri: str) -> str:
    """Return the name of the stream for the sessions of a core.

    The order of its addresses, and how they are written, make no difference. Their
    paths do, which name the applications of a core.
    """
    addresses = map(str, core_addresses(connection_uri))
    paths = (
        uri.strip().partition("://")[2].partition("/")[2].strip("/")
        for uri in connection_uri.split(";")
    )
    pairs = zip(addresses, paths, strict=True)
    names = sorted(f"{address}/{path}" for address, path in pairs)
    digest = hashlib.blake2b("\n".join(names).encode(), digest_size=_DIGEST_BYTES)
    return f"supertokens-gateway:{digest.hexdigest()}{_STREAM}"
