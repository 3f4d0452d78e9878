"""PURE. Who counts as one client, where clients share what is limited.

A client is its address, as the access log shows it. An IPv6 network of 64 bits is one
client, because a single host may use all of its addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from gateway.headers import Networks

IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that tell clients apart."""

_KNOWN_MAX = 4096
"""Addresses whose key is remembered: 1 MiB in total."""


class Clients:
    """The keys by which clients are counted."""

    def __init__(
        self, trusted_proxies: Iterable[str] = (), exempt: Iterable[str] = ()
    ) -> None:
        """Addresses in the networks of *trusted_proxies* and *exempt* have no key.

        Many clients are behind a proxy, so it isn't one.

        Raises:
            ValueError: an item isn't a network.
        """
        self._exempt = Networks((*trusted_proxies, *exempt))
        self._known: dict[str, str | None] = {}

    def key(self, address: str) -> str | None:
        """Return the key of the client at *address*, or None if it has no share.

        The key is an IPv4 address or an IPv6 network such as `2001:db8::/64`. A Unix
        socket's peer has none, since its address says nothing of the client.
        """
        try:
            return self._known[address]
        except KeyError:
            pass
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        key = self._known[address] = self._make(address)
        return key

    def _make(self, address: str) -> str | None:
        if address in self._exempt:
            return None
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return None
        if isinstance(parsed, ipaddress.IPv4Address):
            return address
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed), IPV6_PREFIX), strict=False))
