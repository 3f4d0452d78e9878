"""PURE. The header with which a proxy states whose connection it passes on.

Facts
- Version 1 is a line of text, version 2 is binary. Neither can be mistaken for the
  other, for HTTP or for TLS.
- A proxy sends the header once, before anything else, and all of it at once. What
  isn't a header is refused: without one, the client's address would be a guess.
- `UNKNOWN` and `LOCAL` mean that the proxy speaks for itself, as health checks do.

Source: The PROXY protocol, versions 1 and 2 (haproxy.org).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""The beginning of version 2."""
MAX_TEXT_BYTES: Final = 107
"""The longest line of version 1, CRLF included (§2.1)."""
MAX_BINARY_BYTES: Final = 4096
"""The longest header of version 2 that is read. With what HAProxy can add about TLS, it
has a few hundred bytes; the protocol allows 64 KiB."""

_FIXED_BYTES: Final = 16
_TEXT: Final = b"PROXY "
_LINE = re.compile(
    rb"PROXY TCP([46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (\d{1,5}) (\d{1,5})\r\n"
).fullmatch
_MAX_PORT: Final = 65535
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_ADDRESS_BYTES: Final = {_UNSPECIFIED: 0, _TCP4: 12, _TCP6: 36, _UNIX: 216}


class BadProxyHeader(ValueError):
    """The bytes aren't a header that can be used. The text is the reason."""


class ProxyHeader(NamedTuple):
    """A header that was read."""

    address: str
    """The client's IP address; empty: the proxy speaks for itself, or doesn't know."""
    size: int
    """How many bytes the header has; the client's follow."""


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """Return the header at the beginning of *data*, None if it isn't complete yet.

    Raises:
        BadProxyHeader: *data* is no header, or one that can't be used.
    """
    if data[:1] == _TEXT[:1]:
        return _read_text(data)
    if SIGNATURE.startswith(data[: len(SIGNATURE)]):
        return _read_binary(data)
    raise BadProxyHeader("there is no PROXY header")


def _read_text(data: bytes) -> ProxyHeader | None:
    if not _TEXT.startswith(data[: len(_TEXT)]):
        raise BadProxyHeader("there is no PROXY header")
    end = data.find(b"\n", 0, MAX_TEXT_BYTES) + 1
    if not end:
        if len(data) >= MAX_TEXT_BYTES:
            raise BadProxyHeader("the line is too long")
        return None
    line = data[:end]
    if line.endswith(b"\r\n") and (
        line == b"PROXY UNKNOWN\r\n" or line.startswith(b"PROXY UNKNOWN ")
    ):
        return ProxyHeader("", end)
    parts = _LINE(line)
    if parts is None:
        raise BadProxyHeader("the line is malformed")
    version, source, target, *ports = parts.groups()
    for port in ports:
        if int(port) > _MAX_PORT or (port != b"0" and port.startswith(b"0")):
            raise BadProxyHeader("a port is malformed")
    _ = _address(target.decode(), int(version))
    return ProxyHeader(_address(source.decode(), int(version)), end)


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise BadProxyHeader("an address is malformed") from None
    if address.version != version:
        raise BadProxyHeader("an address is of another family")
    return _plain(address)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return *address* as text; an IPv4 address within IPv6 as IPv4."""
    return str(getattr(address, "ipv4_mapped", None) or address)


def _read_binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED_BYTES:
        if len(data) > len(SIGNATURE):
            _check_command(data[len(SIGNATURE)])
        return None
    command, family = data[12], data[13]
    _check_command(command)
    size = _FIXED_BYTES + int.from_bytes(data[14:16])
    if size > MAX_BINARY_BYTES:
        raise BadProxyHeader("the header is too long")
    if command == _PROXY:
        needed = _ADDRESS_BYTES.get(family)
        if needed is None:
            raise BadProxyHeader("the transport isn't a stream of TCP or a Unix socket")
        if size - _FIXED_BYTES < needed:
            raise BadProxyHeader("the addresses are incomplete")
    if len(data) < size:
        return None
    if command == _LOCAL:
        return ProxyHeader("", size)
    if family == _TCP4:
        return ProxyHeader(_plain(ipaddress.IPv4Address(data[16:20])), size)
    if family == _TCP6:
        return ProxyHeader(_plain(ipaddress.IPv6Address(data[16:32])), size)
    return ProxyHeader("", size)


def _check_command(command: int) -> None:
    if command not in (_LOCAL, _PROXY):
        raise BadProxyHeader("the version or the command is unknown")
