"""PURE. URLs in the configuration: origins, and where services and cores listen.

Each is parsed here and nowhere else: the dialer takes the `Address` that stands here.
Hosts go through `target`, as those of requests do.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

from gateway.config.findings import wrong
from gateway.errors import BadTarget
from gateway.http import target
from gateway.http.target import DEFAULT_PORT

_URL = re.compile(r"(https?)://([^/?#@]*)(.*)", re.DOTALL)
_SOCKET_PATH_MAX: Final = 103
"""Bytes of a Unix socket's path: the least of what systems allow (macOS)."""
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a service listens. Nothing that a client sends becomes part of it."""

    scheme: Literal["http", "https", "unix"]
    host: str = ""
    """As in `TargetConfig.host`: lower case, `[…]` round IPv6; empty for `unix`."""
    port: int = 0
    socket_path: str = ""
    """Empty for all but `unix`."""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.socket_path}"
        return f"{self.scheme}://{self.host}:{self.port}"


def host_and_port(text: str) -> target.Host:
    """Return the parts of `host[:port]`, with the host in lower case.

    Raises:
        ValueError: it isn't that.
    """
    try:
        if text.endswith(":"):  # a client may send it, a person forgot the port
            raise BadTarget("the port is empty")
        return target.host(text.encode())
    except (BadTarget, UnicodeEncodeError):
        if not text.isascii():
            hint = "Write it in its ASCII form, xn--…"
        else:
            hint = "" if text else "It is empty"
        raise wrong(
            "this isn't a host: expected a DNS name, four numbers with dots, or an"
            " IPv6 address in brackets",
            hint,
        ) from None


def origin(value: str) -> str:
    """Return an origin as browsers send it: lower case, without a default port.

    Raises:
        ValueError: it isn't `http(s)://host[:port]`.
    Source: RFC 6454 §6.2.
    """
    if value == "*":
        raise wrong(
            "* can't be used: browsers send no credentials to it",
            "List the origins of your frontends",
        )
    found = _URL.fullmatch(value)
    if found is None:
        raise wrong("expected an origin such as https://app.example.com")
    if found[3] == "/":
        raise wrong("an origin has no path", "Leave out the final slash")
    if found[3]:
        raise wrong("an origin is scheme://host[:port], with nothing after it")
    host = host_and_port(found[2])
    if host.port in (None, DEFAULT_PORT[found[1]]):
        return f"{found[1]}://{host.name}"
    return f"{found[1]}://{host.name}:{host.port}"


def origin_host(value: str) -> str:
    """Return the host of an origin that `origin` has returned."""
    return host_and_port(value.partition("://")[2]).name


def address(url: str) -> Address:
    """Return where `http://host:port`, `https://host` or `unix:/path` is.

    Raises:
        ValueError: it is none of these, it says more than that, or no service can
            or should be there.
    """
    if url.startswith("unix:"):
        return _socket(url.removeprefix("unix:"))
    found = _URL.fullmatch(url)
    if found is None:
        raise wrong(
            "expected http://host:port, https://host or unix:/path",
            "Services are reached over http:// or https://"
            if "://" in url
            else "Write http:// before the host",
        )
    if found[3] not in ("", "/"):
        _refuse_rest(found[3])
        raise wrong(
            "an address has no path", "Use rewrite.replace_prefix to change the path"
        )
    return _dialled(found[1], found[2])


def core_addresses(connection_uri: str) -> tuple[Address, ...]:
    """Return where the cores of a `connection_uri` are, without their paths.

    Raises:
        ValueError: one of them isn't `http(s)://host[:port][/path]`.
    """
    addresses = []
    for uri in connection_uri.split(";"):
        found = _URL.fullmatch(uri)
        if found is None:
            raise wrong(
                "expected http://host:port or https://host, several separated by ;"
            )
        _refuse_rest(found[3])
        addresses.append(_dialled(found[1], found[2]))
    return tuple(addresses)


def same_host(host: str) -> str:
    """Return one name for all the names of this machine."""
    loopback = host in ("localhost", "[::1]") or host.startswith("127.")
    return "localhost" if loopback else host


def _socket(path: str) -> Address:
    if not path.startswith("/") or "\0" in path:
        raise wrong("expected unix: and an absolute path, as unix:/run/app.sock")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise wrong("a socket's path is text that UTF-8 can hold") from None
    if size > _SOCKET_PATH_MAX:
        raise wrong(f"a socket's path has at most {_SOCKET_PATH_MAX} bytes")
    return Address(scheme="unix", socket_path=path)


def _dialled(scheme: str, authority: str) -> Address:
    host = host_and_port(authority)
    if host.port == 0:
        raise wrong("there is no port 0 to connect to")
    _refuse_special(host.name)
    _refuse_hyphens(host.name)
    port = host.port or DEFAULT_PORT[scheme]
    if scheme == "http":
        return Address(scheme="http", host=host.name, port=port)
    return Address(scheme="https", host=host.name, port=port)


def _refuse_rest(rest: str) -> None:
    """Refuse what may stand after the authority of a URL, but not of an address."""
    if rest.startswith("@"):
        raise wrong("a user or password doesn't belong into an address")
    if "?" in rest or "#" in rest:
        raise wrong("an address has no query and no fragment")


def _refuse_hyphens(host: str) -> None:
    """Refuse names that no resolver needs to know, although clients may send them.

    Source: RFC 1123 §2.1, RFC 952 (a label's last character isn't a hyphen).
    """
    if any(label.endswith("-") for label in host.split(".")):
        raise wrong(
            "no part of a host's name ends in a hyphen", "Check how the name is written"
        )


def _refuse_special(host: str) -> None:
    """Refuse addresses where no service can be, and the clouds' metadata services.

    Source: RFC 6890 (special-purpose addresses).
    """
    if not target.is_ip(host):
        return  # a name; what it resolves to is known only when it is dialled
    ip = ipaddress.ip_address(host.strip("[]"))
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_link_local:
        raise wrong(
            "this is a link-local address, where clouds keep a machine's credentials"
        )
    if ip.is_unspecified or ip.is_multicast or ip == _BROADCAST:
        raise wrong("no service can be reached at this address")
