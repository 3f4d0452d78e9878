"""PURE. The origin of a request: the peer, and the X-Forwarded-* of a trusted peer."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gateway.errors import BadTarget
from gateway.headers.names import (
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PORT,
    FORWARDED_PREFIX,
    FORWARDED_PROTO,
    HAS_FORWARDED,
    HAS_TRUSTED,
    Rule,
)
from gateway.http import fields as raw
from gateway.http.fields import Field
from gateway.http.lines import Line
from gateway.http.request_head import RequestHead
from gateway.http.target import DEFAULT_PORT, MAX_PORT
from gateway.http.target import host as valid_host

UNIX_PEER: Final = "unix"
"""What a Unix socket's peer is called: it has no address."""

_SCHEMES = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}


class Networks:
    """The peers whose X-Forwarded-* fields are trusted (`gateway.trusted_proxies`)."""

    __slots__ = ("_has_unix", "_known", "_networks")

    def __init__(self, cidrs: Iterable[str] = ()) -> None:
        """*cidrs* are networks, and `unix` for the peers of Unix sockets.

        Raises:
            ValueError: one of *cidrs* is neither.
        """
        named = tuple(cidrs)
        self._has_unix = UNIX_PEER in named
        self._networks = tuple(
            ipaddress.ip_network(cidr) for cidr in named if cidr != UNIX_PEER
        )
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return self._has_unix or bool(self._networks)

    def __contains__(self, peer: object) -> bool:
        if peer == UNIX_PEER:
            return self._has_unix
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
    """Return the address in *text*, None if there is none.

    An IPv4 address mapped into IPv6, as sockets report it, is returned as IPv4.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


_NODE = re.compile(r"(?:(\d[\d.]*)|\[([^\[\]]*)\])(?::\d{1,5})?").fullmatch


def stated_address(entry: str) -> str | None:
    """Return the address in an entry of X-Forwarded-For, None if there is none.

    The entry may have a port, and brackets around the address.
    """
    text = entry.strip(" \t")
    if node := _NODE(text):
        text = node[1] or node[2]
    # A zone (`fe80::1%…`) may hold anything, and means nothing to another machine.
    return None if "%" in text or _address(text) is None else text


def client_address(stated: Sequence[bytes], peer: str, trusted: Networks) -> str:
    """Return the address of the client, as far as trusted proxies confirm it.

    *stated* are the values of X-Forwarded-For. They are read from the end: each trusted
    proxy appended the address of its peer. The first address that isn't trusted is the
    client's; the entries before it are the client's claim. An entry that isn't an
    address ends the search.
    """
    if peer not in trusted:
        return peer
    client = peer
    for entry in reversed(b",".join(stated).decode("latin-1").split(",")):
        text = stated_address(entry)
        if text is None:
            break
        client = text
        if client not in trusted:
            break
    return client


def client_scheme(stated: Sequence[bytes], scheme: str) -> str:
    """Return `http` or `https`: what the client speaks, as far as it is known.

    *stated* are the values of a trusted peer's X-Forwarded-Proto, and *scheme* is the
    scheme of the connection. It is returned unless there is exactly one known value.
    """
    if len(stated) == 1:
        return _SCHEMES.get(stated[0].lower(), scheme)
    return scheme


def client_host(stated: Sequence[bytes], host: str) -> str:
    """Return the authority that the client requested.

    *stated* are the values of a trusted peer's X-Forwarded-Host. *host* is returned
    unless there is exactly one valid value.
    """
    if len(stated) == 1:
        with contextlib.suppress(BadTarget):
            return valid_host(stated[0]).authority
    return host


_PREFIX = re.compile(rb"(?:/[A-Za-z0-9._~!$&'()*+;=:@%-]+)+").fullmatch


def client_prefix(stated: Sequence[bytes]) -> bytes:
    """Return the path prefix that trusted proxies have removed, without final slash.

    *stated* are the values of their X-Forwarded-Prefix: each one's elements, the
    outermost first. The result is empty unless all of them are paths.
    """
    parts = [part.strip(b" \t").rstrip(b"/") for part in b",".join(stated).split(b",")]
    prefix = b"".join(parts)
    return prefix if _PREFIX(prefix) else b""


def client_port(stated: Sequence[bytes], scheme: str, host: str) -> int | None:
    """Return the port that the client connected to; None if it isn't known.

    *stated* are the values of a trusted peer's X-Forwarded-Port. If there isn't exactly
    one valid one, it is the port in *host*, or else the default one of *scheme*.
    """
    if len(stated) == 1 and stated[0].isdigit() and len(stated[0]) <= len("65535"):
        port = int(stated[0])
        if 0 < port <= MAX_PORT:
            return port
    if not host:
        return None
    return valid_host(host.encode()).port or DEFAULT_PORT[scheme]


def forwarded_element(client: str, scheme: str, host: str) -> bytes:
    """Return the value of Forwarded: one element, with what the gateway knows.

    There is no chain of proxies, so that a service which takes the first element or
    the last one reads no claim of the client's.

    Source: RFC 7239 §4, §6.
    """
    node = f'"[{client}]"' if ":" in client else client or "unknown"
    quoted = f'"{host}"' if ":" in host else host
    return f"for={node};{f'host={quoted};' if host else ''}proto={scheme}".encode()


class ForwardedFields:
    """How a request reached the gateway. Nothing in it changes once it is made."""

    __slots__ = (
        "_made",
        "authority",
        "client",
        "fields",
        "is_secure",
        "is_trusted",
        "marks",
        "prefix",
    )

    authority: str
    """`host[:port]` that the client requested; empty for HTTP/1.0 without Host."""
    client: str
    """The address of the client, as far as trusted proxies confirm it; `UNIX_PEER` if
    only that is known."""
    is_secure: bool
    """The client's side is https, directly or according to a trusted proxy."""
    is_trusted: bool
    """The peer is in `gateway.trusted_proxies`: its X-Forwarded-* fields count."""
    marks: int
    """Marks of lines: in a request with one of these, the peer decides each line."""
    fields: bytes
    """X-Forwarded-For, -Proto, -Host, Via and X-Client-Subject for the upstream, each
    with CRLF, and what else a trusted peer states."""
    prefix: bytes
    """The path prefix that trusted proxies have removed; no final slash."""
    _made: bytes
    """What `fields` has, with X-Forwarded-Port and without -Prefix."""

    def rewritten(self, prefix: bytes) -> bytes:
        """Return `fields` for a route that has removed *prefix* from the path."""
        whole = self.prefix + prefix
        if not whole:
            return self._made
        return b"%bX-Forwarded-Prefix: %b\r\n" % (self._made, whole)


_NO_ADDRESS = ("", UNIX_PEER)
_MAX_KNOWN = 1024
"""The most results that are remembered."""
_STATED_MAX_BYTES = 512
"""Results from more bytes of a proxy's fields and a subject aren't remembered."""


class ForwardedCache:
    """The forwarded fields of requests, remembered by what they are made from."""

    def __init__(
        self,
        trusted: Networks,
        on_ignored: Callable[[str], None] | None = None,
        *,
        real_ip: bool = False,
        rfc7239: bool = False,
    ) -> None:
        """*trusted* are the peers whose X-Forwarded-* fields count.

        *on_ignored* is called at most once: with the address of the first other peer
        that says in X-Forwarded-Proto that its client uses https. *real_ip* adds
        X-Real-IP, which must be a reserved name then; *rfc7239* adds Forwarded.
        """
        self._real_ip = real_ip
        self._rfc7239 = rfc7239
        self._trusted = trusted
        self._on_ignored = on_ignored
        self._trusts_any = bool(trusted)
        self._known: dict[object, ForwardedFields] = {}

    def find(
        self,
        head: RequestHead,
        peer: str,
        authority: str,
        secure: bool,
        subject: bytes = b"",
    ) -> ForwardedFields:
        """Return the forwarded fields of a request.

        *peer* is the address of the connection's other end, or `UNIX_PEER`;
        *secure*: that connection is TLS; *authority* is the request's
        (`Target.authority`). *subject* is that of the connection's verified client
        certificate, as the value of a field; empty: there is none.
        """
        stated: tuple[Line, ...] | None = None
        if self._trusts_any and peer in self._trusted:
            stated = ()
            if head.marks & HAS_FORWARDED:
                stated = tuple([x for x in head.lines if x.marks & HAS_FORWARDED])
        elif self._on_ignored is not None and head.marks & HAS_FORWARDED:
            self._ignore(head, peer, secure)
        # Lines of the same bytes are the same object for as long as they're remembered.
        key = (peer, authority, secure, head.http10, stated, subject)
        forwarded = self._known.get(key)
        if forwarded is None:
            forwarded = self._make(
                peer, authority, secure, head.http10, stated, subject
            )
            size = sum([len(line.raw) for line in stated or ()]) + len(subject)
            if size <= _STATED_MAX_BYTES:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known[key] = forwarded
        return forwarded

    def _ignore(self, head: RequestHead, peer: str, secure: bool) -> None:
        """Report a peer that isn't trusted and may be a TLS terminator."""
        stated = _values(head.lines, FORWARDED_PROTO)
        if not secure and client_scheme(stated, "http") == "https":
            report, self._on_ignored = self._on_ignored, None
            if report is not None:
                report(peer)

    def _make(
        self,
        peer: str,
        authority: str,
        secure: bool,
        http10: bool,
        stated: Sequence[Line] | None,
        subject: bytes,
    ) -> ForwardedFields:
        """Return new forwarded fields; *stated* are the lines of a trusted peer."""
        addresses = _values(stated, FORWARDED_FOR)
        scheme = "https" if secure else "http"
        scheme = client_scheme(_values(stated, FORWARDED_PROTO), scheme)
        host = client_host(_values(stated, FORWARDED_HOST), authority)
        forwarded = ForwardedFields()
        forwarded.is_trusted = stated is not None
        forwarded.marks = HAS_TRUSTED if forwarded.is_trusted else 0
        forwarded.client = client_address(addresses, peer, self._trusted)
        forwarded.is_secure = scheme == "https"
        forwarded.authority = host
        fields: list[Field] = []
        hops = addresses if peer in _NO_ADDRESS else [*addresses, peer.encode()]
        if hops:
            fields.append((b"X-Forwarded-For", b", ".join(hops)))
        fields += (
            (b"Via", b"1.0 gateway" if http10 else b"1.1 gateway"),
            (b"X-Forwarded-Proto", scheme.encode()),
            (b"X-Forwarded-Host", host.encode()),
        )
        client = "" if forwarded.client in _NO_ADDRESS else forwarded.client
        if self._real_ip and client:
            fields.append((b"X-Real-IP", client.encode()))
        if self._rfc7239:
            element = forwarded_element(client, scheme, host)
            fields.append((b"Forwarded", element))
        if subject:
            fields.append((b"X-Client-Subject", subject))
        forwarded.prefix = client_prefix(_values(stated, FORWARDED_PREFIX))
        port = client_port(_values(stated, FORWARDED_PORT), scheme, host)
        made = raw.block(fields)
        forwarded.fields = made + b"".join(
            [
                line.raw
                for line in stated or ()
                if line.rule is FORWARDED_PORT or line.rule is FORWARDED_PREFIX
            ]
        )
        forwarded._made = made  # noqa: SLF001 # this is its constructor
        if port is not None:
            forwarded._made += b"X-Forwarded-Port: %d\r\n" % port  # noqa: SLF001
        return forwarded


def _values(stated: Sequence[Line] | None, rule: Rule) -> list[bytes]:
    return [line.value for line in stated or () if line.rule is rule]
