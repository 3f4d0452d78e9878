"""PURE. Where a request came from: the peer, and what a trusted one says of others."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from gateway import fields as raw
from gateway.errors import BadTarget
from gateway.fields import Field
from gateway.target import host as valid_host

_SCHEMES = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}


class Forwarded(NamedTuple):
    """How a request reached the gateway. Made per request, hence no dataclass."""

    peer: str
    """The address of the connection's other end; empty for a Unix socket."""
    trusted: bool
    """The peer is in `gateway.trusted_proxies`: its X-Forwarded-* fields count."""
    scheme: str
    """`http` or `https`, of the connection itself."""
    host: str
    """The authority that the request named (`Target.authority`)."""
    version: Literal["1.0", "1.1"] = "1.1"
    """Of the protocol that the request came in."""


class Networks:
    """The peers that are trusted to say whom they speak for (`trusted_proxies`)."""

    __slots__ = ("_known", "_networks")

    def __init__(self, cidrs: Iterable[str] = ()) -> None:
        """Raises: ValueError: one of *cidrs* is no network."""
        self._networks = tuple(ipaddress.ip_network(cidr) for cidr in cidrs)
        self._known: dict[str, bool] = {}

    def __contains__(self, peer: object) -> bool:
        if not self._networks or not isinstance(peer, str):
            return False
        known = self._known.get(peer)
        if known is None:
            address = _address(peer)
            known = address is not None and any(
                address in network for network in self._networks
            )
            if len(self._known) >= 1024:
                self._known.clear()
            self._known[peer] = known
        return known


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address; IPv4 for one that is mapped into IPv6, as sockets report."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


_NODE = re.compile(r"(?:(\d[\d.]*)|\[([^\[\]]*)\])(?::\d{1,5})?").fullmatch


def client_address(fields: Iterable[Field], peer: str, trusted: Networks) -> str:
    """Return the address of the client, as far as it is vouched for.

    X-Forwarded-For is read from its end: each trusted proxy wrote down who came to
    it. The first address that isn't trusted is the client's; what stands before it
    is the client's own word. An entry that is no address ends the walk.
    """
    if peer not in trusted:
        return peer
    chain = b",".join(raw.values(fields, b"x-forwarded-for")).decode("latin-1")
    client = peer
    for entry in reversed(chain.split(",")):
        text = entry.strip(" \t")
        if node := _NODE(text):
            text = node[1] or node[2]
        # A zone (`fe80::1%…`) may hold anything, and means nothing to another machine.
        if "%" in text or _address(text) is None:
            break
        client = text
        if client not in trusted:
            break
    return client


def client_scheme(fields: Iterable[Field], forwarded: Forwarded) -> str:
    """Return `http` or `https`: what the client speaks, as far as it is known.

    A trusted peer's X-Forwarded-Proto counts; two of them, or another word, don't.
    """
    if forwarded.trusted:
        stated = tuple(raw.values(fields, b"x-forwarded-proto"))
        if len(stated) == 1:
            return _SCHEMES.get(stated[0].lower(), forwarded.scheme)
    return forwarded.scheme


def client_host(fields: Iterable[Field], forwarded: Forwarded) -> str:
    """Return the authority that the client asked for; X-Forwarded-Host as above."""
    if forwarded.trusted:
        stated = tuple(raw.values(fields, b"x-forwarded-host"))
        if len(stated) == 1:
            try:
                return valid_host(stated[0]).authority
            except BadTarget:
                pass
    return forwarded.host
