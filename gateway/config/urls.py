"""PURE. URLs in the configuration: origins, and the addresses of services and cores.

They are parsed only here: the dialer uses the `Address` that these functions return.
Hosts are checked by `target`, like those of requests.
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
"""Bytes in the path of a Unix socket: the lowest limit of any system (macOS)."""
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The address of a service. Nothing that a client sends becomes part of it."""

    scheme: Literal["http", "https", "unix"]
    host: str = ""
    """In lower case, IPv6 in brackets; empty for `unix`."""
    port: int = 0
    socket_path: str = ""
    """Empty for all but `unix`."""

    @property
    def authority(self) -> str:
        """The default value of the Host field; a default port is omitted.

        Source: RFC 9110 §7.2, RFC 9112 §3.2.
        """
        if self.scheme == "unix":
            return "localhost"
        if self.port == DEFAULT_PORT[self.scheme]:
            return self.host
        return f"{self.host}:{self.port}"

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.socket_path}"
        return f"{self.scheme}://{self.host}:{self.port}"


def host_and_port(text: str) -> target.Host:
    """Return the parts of `host[:port]`, with the host in lower case.

    Raises:
        ValueError: *text* has another form.
    """
    try:
        if text.endswith(":"):  # valid in a request, a mistake in the file
            raise BadTarget("the port is empty")
        return target.host(text.encode())
    except (BadTarget, UnicodeEncodeError):
        if not text.isascii():
            hint = "Write it in its ASCII form, xn--…"
        else:
            hint = "" if text else "It is empty: write a host"
        raise wrong(
            "this isn't a host: expected a DNS name, an IPv4 address, or an IPv6"
            " address in brackets",
            hint,
        ) from None


def origin(value: str) -> str:
    """Return an origin as browsers send it: in lower case, without a default port.

    Raises:
        ValueError: it isn't `http(s)://host[:port]`.
    Source: RFC 6454 §6.2.
    """
    if value == "*":
        raise wrong(
            "* isn't allowed: with it, browsers send no credentials",
            "List the origins of your frontends",
        )
    match = _URL.fullmatch(value)
    if match is None:
        raise wrong("expected an origin such as https://app.example.com")
    if match[3] == "/":
        raise wrong("an origin has no path", "Remove the final slash")
    if match[3]:
        raise wrong(
            "an origin is scheme://host[:port], with nothing after it",
            "Remove the rest",
        )
    host = host_and_port(match[2])
    if host.port in (None, DEFAULT_PORT[match[1]]):
        return f"{match[1]}://{host.name}"
    return f"{match[1]}://{host.name}:{host.port}"


def origin_pattern(value: str) -> str:
    """Return an origin like `origin`, or `https://*.example.com` in lower case.

    Raises:
        ValueError: it is neither.
    """
    scheme, separator, rest = value.partition("://*.")
    if not separator:
        return origin(value)
    plain = origin(f"{scheme}://{rest}")
    host = origin_host(plain)
    if target.is_ip(host):
        raise wrong("an IP address can't have a wildcard", "Remove *.")
    if "." not in host and host != "localhost":
        raise wrong(
            "this allows all sites below a top-level domain",
            "Write your own domain, as in https://*.example.com",
        )
    return plain.replace("://", "://*.", 1)


def origin_host(value: str) -> str:
    """Return the host of an origin that `origin` has returned."""
    return host_and_port(value.partition("://")[2]).name


def address(url: str) -> Address:
    """Return the address in `http://host:port`, `https://host` or `unix:/path`.

    Raises:
        ValueError: *url* has another form or more parts, or its address is one that
            no service can or should have.
    """
    if url.startswith("unix:"):
        return _socket(url.removeprefix("unix:"))
    match = _URL.fullmatch(url)
    if match is None:
        raise wrong(
            "expected http://host:port, https://host or unix:/path",
            "Services are reached over http:// or https://"
            if "://" in url
            else "Write http:// before the host",
        )
    if match[3] not in ("", "/"):
        _refuse_rest(match[3])
        raise wrong(
            "an address has no path", "Use rewrite.replace_prefix to change the path"
        )
    return _dialled(match[1], match[2])


def core_addresses(connection_uri: str) -> tuple[Address, ...]:
    """Return the addresses of the cores in a `connection_uri`, without their paths.

    Raises:
        ValueError: one of the URLs isn't `http(s)://host[:port][/path]`.
    """
    addresses = []
    for uri in connection_uri.split(";"):
        match = _URL.fullmatch(uri)
        if match is None:
            raise wrong(
                "expected http://host:port or https://host, several separated by ;"
            )
        _refuse_rest(match[3])
        addresses.append(_dialled(match[1], match[2]))
    return tuple(addresses)


def same_host(host: str) -> str:
    """Return `localhost` for every loopback name and address, else *host*."""
    loopback = host in ("localhost", "[::1]") or host.startswith("127.")
    return "localhost" if loopback else host


def _socket(path: str) -> Address:
    if not path.startswith("/") or "\0" in path:
        raise wrong("expected unix: and an absolute path, such as unix:/run/app.sock")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise wrong("the path of a socket must be valid UTF-8") from None
    if size > _SOCKET_PATH_MAX:
        raise wrong(
            f"the path of a socket has at most {_SOCKET_PATH_MAX} bytes",
            "Use a shorter path",
        )
    return Address(scheme="unix", socket_path=path)


def _dialled(scheme: str, authority: str) -> Address:
    host = host_and_port(authority)
    if host.port == 0:
        raise wrong("no service can listen on port 0", "Write the service's port")
    _refuse_special(host.name)
    _refuse_hyphens(host.name)
    port = host.port or DEFAULT_PORT[scheme]
    if scheme == "http":
        return Address(scheme="http", host=host.name, port=port)
    return Address(scheme="https", host=host.name, port=port)


def _refuse_rest(rest: str) -> None:
    """Refuse user, password, query and fragment, which an address can't have."""
    if rest.startswith("@"):
        raise wrong("an address has no user and no password", "Remove them")
    if "?" in rest or "#" in rest:
        raise wrong("an address has no query and no fragment", "Remove them")


def _refuse_hyphens(host: str) -> None:
    """Refuse names with a label that ends in a hyphen, which no resolver has to accept.

    Requests may have them.

    Source: RFC 1123 §2.1, RFC 952 (a label's last character isn't a hyphen).
    """
    if any(label.endswith("-") for label in host.split(".")):
        raise wrong("no part of a host's name ends in a hyphen", "Check the spelling")


def _refuse_special(host: str) -> None:
    """Refuse addresses that no service can have, and those of cloud metadata services.

    Source: RFC 6890 (special-purpose addresses).
    """
    if not target.is_ip(host):
        return  # a name; its address is known only when it is dialled
    ip = ipaddress.ip_address(host.strip("[]"))
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_link_local:
        raise wrong(
            "link-local addresses aren't allowed: clouds serve a machine's credentials"
            " there"
        )
    if ip.is_unspecified or ip.is_multicast or ip == _BROADCAST:
        raise wrong("no service can be reached at this address")
