"""PROXY headers: what is read, what is awaited, and what is refused."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.proxy_protocol import (
    MAX_BINARY_BYTES,
    MAX_TEXT_BYTES,
    SIGNATURE,
    BadProxyHeader,
    ProxyHeader,
    read_proxy_header,
)

AFTER = b"GET / HTTP/1.1\r\n"


def binary(
    command: int, family: int, addresses: bytes, more: bytes = b"", size: int = -1
) -> bytes:
    """Return a header of version 2, with *more* after the addresses."""
    body = addresses + more
    length = len(body) if size < 0 else size
    return SIGNATURE + struct.pack("!BBH", command, family, length) + body


def v4(source: str = "192.0.2.1") -> bytes:
    parts = ipaddress.IPv4Address(source), ipaddress.IPv4Address("10.0.0.1")
    return parts[0].packed + parts[1].packed + struct.pack("!HH", 1234, 443)


def v6(source: str = "2001:db8::1") -> bytes:
    parts = ipaddress.IPv6Address(source), ipaddress.IPv6Address("::1")
    return parts[0].packed + parts[1].packed + struct.pack("!HH", 1234, 443)


TLVS = b"\x01\x00\x02h2" + b"\x03\x00\x04\x00\x00\x00\x00" + b"\x20\x00\x05\x00abcd"

GOOD = {
    "text, IPv4": (b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n", "192.0.2.1"),
    "text, IPv6": (b"PROXY TCP6 2001:DB8::1 ::1 1 2\r\n", "2001:db8::1"),
    "text, mapped": (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "192.0.2.1"),
    "text, port 0": (b"PROXY TCP4 192.0.2.1 10.0.0.1 0 65535\r\n", "192.0.2.1"),
    "text, unknown": (b"PROXY UNKNOWN\r\n", ""),
    "text, unknown and more": (b"PROXY UNKNOWN ff:: ff:: 65535 65535\r\n", ""),
    "text, the longest": (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", ""),
    "IPv4": (binary(0x21, 0x11, v4()), "192.0.2.1"),
    "IPv6": (binary(0x21, 0x21, v6()), "2001:db8::1"),
    "mapped": (binary(0x21, 0x21, v6("::ffff:192.0.2.1")), "192.0.2.1"),
    "with TLVs": (binary(0x21, 0x11, v4(), TLVS), "192.0.2.1"),
    "with many TLVs": (binary(0x21, 0x11, v4(), b"\x04" * 4000), "192.0.2.1"),
    "Unix socket": (binary(0x21, 0x31, b"/a".ljust(216, b"\0")), ""),
    "unspecified": (binary(0x21, 0x00, b"", TLVS), ""),
    "local": (binary(0x20, 0x00, b""), ""),
    "local, with an address": (binary(0x20, 0x11, v4()), ""),
    "local, of an unknown family": (binary(0x20, 0x42, b"abc"), ""),
}


@pytest.mark.parametrize(("header", "address"), GOOD.values(), ids=GOOD)
def test_reads_a_header(header: bytes, address: str) -> None:
    """The client's bytes follow it, and never belong to it."""
    for rest in (b"", AFTER, b"\x16\x03\x01", header):
        assert read_proxy_header(header + rest) == ProxyHeader(address, len(header))


@pytest.mark.parametrize("header", [header for header, _ in GOOD.values()], ids=GOOD)
def test_awaits_the_rest(header: bytes) -> None:
    """No beginning of a header is refused, and none is taken for a whole one."""
    for size in range(min(len(header), 300)):
        assert read_proxy_header(header[:size]) is None


BAD = {
    "HTTP": AFTER,
    "HTTP that begins alike": b"PUT / HTTP/1.1\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "an empty line": b"\r\nGET / HTTP/1.1\r\n",
    "lower case": b"proxy TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
    "no CR": b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\n",
    "two spaces": b"PROXY  TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
    "a space at the end": b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2 \r\n",
    "a tab": b"PROXY\tTCP4 192.0.2.1 10.0.0.1 1 2\r\n",
    "no port": b"PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n",
    "too high a port": b"PROXY TCP4 192.0.2.1 10.0.0.1 1 65536\r\n",
    "a port with a zero": b"PROXY TCP4 192.0.2.1 10.0.0.1 01 2\r\n",
    "another family": b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
    "a mixture": b"PROXY TCP6 2001:db8::1 10.0.0.1 1 2\r\n",
    "an octal address": b"PROXY TCP4 192.0.2.010 10.0.0.1 1 2\r\n",
    "a short address": b"PROXY TCP4 10.1 10.0.0.1 1 2\r\n",
    "a zone": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "a name": b"PROXY TCP4 localhost 10.0.0.1 1 2\r\n",
    "UDP": b"PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n",
    "UNKNOWNS": b"PROXY UNKNOWNS\r\n",
    "too long a line": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "an endless line": b"PROXY UNKNOWN " + b"x" * 93,
    "version 1 in binary": binary(0x11, 0x11, v4()),
    "version 3": binary(0x31, 0x11, v4()),
    "another command": binary(0x22, 0x11, v4()),
    "another command, begun": SIGNATURE + b"\x22",
    "datagrams": binary(0x21, 0x12, v4()),
    "another family in binary": binary(0x21, 0x41, v4()),
    "cut addresses": binary(0x21, 0x11, v4()[:11]),
    "IPv6 with the bytes of IPv4": binary(0x21, 0x21, v4()),
    "too long": binary(0x21, 0x11, v4(), size=MAX_BINARY_BYTES - 15),
    "as long as can be": binary(0x21, 0x11, v4(), size=0xFFFF),
    "another signature": b"\r\n\r\n\0\r\nQUIT\r" + v4(),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_refuses_what_is_no_header(data: bytes) -> None:
    """It is refused as soon as it shows, however many bytes follow."""
    with pytest.raises(BadProxyHeader):
        read_proxy_header(data)
    with pytest.raises(BadProxyHeader):
        read_proxy_header(data + bytes(70_000))


@given(st.binary(max_size=400), st.sampled_from([b"", b"PROXY ", SIGNATURE]))
def test_any_bytes_have_an_outcome(data: bytes, start: bytes) -> None:
    """Any bytes are a header, the beginning of one, or refused; all have a bound.

    What is read from some bytes is read from more of them, too.
    """
    try:
        found = read_proxy_header(start + data)
    except BadProxyHeader:
        return
    if found is None:
        assert len(start + data) < MAX_BINARY_BYTES
    else:
        assert found.size <= max(MAX_TEXT_BYTES, MAX_BINARY_BYTES)
        assert read_proxy_header(start + data + AFTER) == found
        if found.address:
            ipaddress.ip_address(found.address)


@given(
    st.ip_addresses(),
    st.integers(0, 65535),
    st.binary(max_size=100),
    st.booleans(),
)
def test_every_address_is_read(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    rest: bytes,
    is_text: bool,
) -> None:
    """Both versions state the same address, whatever the client's bytes are."""
    other = "10.0.0.1" if address.version == 4 else "::1"
    if is_text:
        line = f"PROXY TCP{address.version} {address} {other} {port} 443\r\n"
        header = line.encode()
    else:
        packed = address.packed + ipaddress.ip_address(other).packed
        family = 0x11 if address.version == 4 else 0x21
        header = binary(0x21, family, packed + struct.pack("!HH", port, 443))
    found = read_proxy_header(header + rest)
    assert found is not None
    assert found.size == len(header)
    expected = getattr(address, "ipv4_mapped", None) or address
    assert ipaddress.ip_address(found.address) == expected
