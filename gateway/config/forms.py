"""PURE. The forms that single values of `routes.yaml` take, each checked at load.

Each function returns the value in its one canonical form, or raises with what is
expected and the remedy. What the listener would refuse in a request, the file can't
contain either: paths and hosts go through `target`, as those of requests do.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from gateway import target
from gateway.config.findings import did_you_mean, wrong
from gateway.errors import BadTarget
from gateway.pattern import BadPattern, Pattern

# --- numbers with units -----------------------------------------------------

_DURATION = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*(ms|s|m|h|d)?")
_UNIT_S = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d{1,15})\s*(B|KiB|MiB|GiB|kB|KB|MB|GB)?", re.IGNORECASE)
_UNIT_BYTES = {
    "b": 1,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
}
_TEN_YEARS_S: Final = 10 * 365 * 86400
"""Longer ones are mistakes, and timers of some systems can't hold them."""


def duration(value: object) -> object:
    """Return seconds for `3s`, `250ms`, `5m`, `1h`, `2d` or a bare number of seconds.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str):
        found = _DURATION.fullmatch(value.strip())
        if found is None:
            raise wrong("expected a duration such as 3s, 250ms, 5m or 1h")
        return float(found[1]) * _UNIT_S[found[2]]
    return number(value)


def size(value: object) -> object:
    """Return bytes for `10MiB`, `64KiB`, `1GB` or a bare number of bytes.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            raise wrong("expected a size such as 64KiB, 10MiB or 1GB")
        return int(found[1]) * _UNIT_BYTES[(found[2] or "B").lower()]
    return number(value)


def number(value: object) -> object:
    """Return *value*; refuse booleans, which Python takes for 0 and 1."""
    if isinstance(value, bool):
        raise wrong("expected a number")
    return value


_DURATION_SCHEMA = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": rf"^\s*{_DURATION.pattern}\s*$"},
    ]
}
_SIZE_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^\s*\d{1,15}\s*([kKmMgG]i?)?[bB]?\s*$"},
    ]
}

Seconds = Annotated[
    float,
    Field(gt=0, le=_TEN_YEARS_S, allow_inf_nan=False),
    BeforeValidator(duration),
    WithJsonSchema(_DURATION_SCHEMA),
]
Bytes = Annotated[int, Field(ge=0), BeforeValidator(size), WithJsonSchema(_SIZE_SCHEMA)]
NotNegative = Annotated[int, Field(ge=0), BeforeValidator(number)]
Positive = Annotated[int, Field(ge=1), BeforeValidator(number)]
UpToFive = Annotated[int, Field(ge=0, le=5), BeforeValidator(number)]
Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(number)]
Flag = Annotated[bool, Field(strict=True)]


def _protection(value: object) -> object:
    if value is True or value is False or value == "optional":
        return value
    hint = did_you_mean(value, ("true", "false", "optional"))
    if str(value).lower() in ("true", "yes", "on", "required"):
        hint = "Write true, without quotes"
    elif str(value).lower() in ("false", "no", "off", "public"):
        hint = "Write false, without quotes"
    raise wrong("expected true, false or optional", hint)


Protected = Annotated[bool | Literal["optional"], BeforeValidator(_protection)]


def _status(value: object) -> object:
    return str(value) if type(value) is int else value


Upstream401 = Annotated[Literal["pass", "403", "502"], BeforeValidator(_status)]
"""`403` may be written as a number: nobody means anything else by it."""

# --- names and tokens -------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
_MAIL = re.compile(r"[^@\s<>,;]+@[^@\s<>,;]+")

RECIPES: Final = (
    "emailpassword",
    "emailverification",
    "userroles",
    "usermetadata",
    "thirdparty",
    "passwordless",
    "multitenancy",
    "dashboard",
)


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise wrong(
            "a name has up to 100 letters, digits and . _ : -, and begins with a"
            " letter or digit"
        )
    return value


def _recipe(value: str) -> str:
    if value == "session":
        raise wrong(
            "the session recipe is always on",
            "Leave it out: its settings stand under supertokens itself",
        )
    if value not in RECIPES:
        hint = did_you_mean(value, RECIPES) or f"There are {', '.join(RECIPES)}"
        raise wrong(f"there is no recipe '{value}'", hint)
    return value


def _field_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise wrong("this isn't a field name: it has letters, digits and -")
    return value


def _method(value: str) -> str:
    method = value.upper()
    if not _TOKEN.fullmatch(value):
        raise wrong("this isn't a method, such as GET or POST")
    if method in ("CONNECT", "TRACE"):
        raise wrong(f"{method} is never forwarded", "Leave it out")
    return method


def _dotted(value: str) -> str:
    if not _DOTTED.fullmatch(value):
        raise wrong("expected a dotted Python name such as package.module")
    return value


def _mail(value: str) -> str:
    if not _MAIL.fullmatch(value):
        raise wrong("expected a mail address such as hello@example.com")
    return value


def _claim_path(value: str) -> str:
    if not all(value.split(".")) or any(char.isspace() for char in value):
        raise wrong("expected a claim's name, or a path such as plan.level")
    return value


Name = Annotated[str, AfterValidator(_name)]
Recipe = Annotated[str, AfterValidator(_recipe), WithJsonSchema({"enum": [*RECIPES]})]
FieldName = Annotated[str, AfterValidator(_field_name)]
Method = Annotated[str, AfterValidator(_method)]
Dotted = Annotated[str, AfterValidator(_dotted)]
Mail = Annotated[str, AfterValidator(_mail)]
ClaimPath = Annotated[str, AfterValidator(_claim_path)]
Text = Annotated[str, Field(min_length=1)]

# --- paths ------------------------------------------------------------------

_MAX_SEGMENTS: Final = 64
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ASCII_PATH: Final = "".join(map(chr, range(0x21, 0x7F)))


def _path(value: str) -> str:
    if not value.startswith("/"):
        raise wrong(
            "a path begins with /",
            "Leave out the scheme and the host"
            if "://" in value
            else "Write / before it",
        )
    if "*" in value:
        raise wrong(
            "a path has no wildcards",
            "A prefix covers all that is below it; for the rest there are"
            " match: {path: {template: …}} and {path: {regex: …}}",
        )
    if "{" in value or "}" in value:
        raise wrong(
            "this path has no names in braces", "Use match: {path: {template: …}}"
        )
    return _canonical(value)


def _canonical(path: str) -> str:
    """Return *path* as a request for it arrives at the routes."""
    try:
        canonical = target.canonical_path(path)
    except BadTarget as exc:
        raise wrong(f"no request can have this path: {exc.detail}") from None
    if canonical != quote(path, safe=_ASCII_PATH):
        raise wrong("no request has this path in this form", f"Write {canonical}")
    if canonical.count("/") > _MAX_SEGMENTS:
        raise wrong(f"a path has at most {_MAX_SEGMENTS} segments")
    return canonical


def _prefix(value: str) -> str:
    return _path(value).rstrip("/") or "/"


def _template(value: str) -> str:
    names = _PARAMETER.findall(value)
    if not names:
        raise wrong(
            "a template has at least one name in braces, as in /orders/{id}",
            "Use exact for a path without names",
        )
    if len(set(names)) < len(names):
        raise wrong("a name stands in the template twice")
    pieces = [
        segment if _PARAMETER.fullmatch(segment) else _literal_segment(segment)
        for segment in value.split("/")
    ]
    _path(_PARAMETER.sub("x", value))
    return "/".join(pieces)


def _literal_segment(segment: str) -> str:
    if "{" in segment or "}" in segment:
        raise wrong(
            "a name in braces is a whole segment", "Use regex for parts of a segment"
        )
    return quote(segment, safe=_ASCII_PATH)


_PATTERN_SIGN = re.compile(r"[].*+?|(){}[\\^$]")


def _regex(value: str) -> str:
    if not value.startswith("/"):
        raise wrong(
            "a pattern begins with /", "It matches the whole path, without ^ and $"
        )
    if not _PATTERN_SIGN.search(value):
        raise wrong("this pattern is plain text", "Use exact")
    try:
        Pattern(value)
    except BadPattern as exc:
        raise wrong(str(exc)) from None
    return value


def _own_path(value: str) -> str:
    if _prefix(value) == "/":
        raise wrong("the gateway's own paths can't begin at the root")
    return _prefix(value)


Path = Annotated[str, AfterValidator(_path)]
"""A path in the canonical form that requests have when they are matched."""
Prefix = Annotated[str, AfterValidator(_prefix)]
"""The same, without its final slash: `/orders/` covers `/orders` too."""
Template = Annotated[str, AfterValidator(_template)]
Regex = Annotated[str, AfterValidator(_regex)]
OwnPath = Annotated[str, AfterValidator(_own_path)]

# --- hosts, addresses and URLs ----------------------------------------------

_URL = re.compile(r"(https?)://([^/?#@]*)(.*)", re.DOTALL)
_DEFAULT_PORT = {"http": 80, "https": 443}
_HOST_AND_PORT: Final = "expected host:port, such as 127.0.0.1:8000 or [::1]:8000"
_MAX_PORT: Final = 65535
_SOCKET_PATH_MAX: Final = 103
"""Bytes of a Unix socket's path: the least of what systems allow (macOS)."""


def _host_and_port(text: str) -> target.Host:
    """Return the parts of `host[:port]`, with the host in lower case."""
    try:
        if text.endswith(":"):  # a client may send it, a person forgot the port
            raise BadTarget("the port is empty")
        return target.host(text.encode())
    except BadTarget:
        if not text.isascii():
            hint = "Write it in its ASCII form, xn--…"
        else:
            hint = "" if text else "It is empty"
        raise wrong(
            "this isn't a host: expected a DNS name, four numbers with dots, or an"
            " IPv6 address in brackets",
            hint,
        ) from None


def _host(value: str) -> str:
    host = _host_and_port(value)
    if host.port is not None:
        raise wrong("a host stands here without a port")
    return host.name


def _host_pattern(value: str) -> str:
    if not value.startswith("*."):
        if "*" in value:
            raise wrong(
                "* stands only for whole labels at the beginning, as in *.example.com"
            )
        return _host(value)
    name = _host(value[2:])
    if name.startswith("[") or name.replace(".", "").isdigit():
        raise wrong("an address has no wildcard")
    return f"*.{name}"


def _listen(value: str) -> str:
    name, _, port = value.rpartition(":")
    if not name and value.isascii() and port.isdecimal():
        raise wrong(
            f"{_HOST_AND_PORT}: the host is missing",
            "Write 127.0.0.1: before the port, or 0.0.0.0: for all addresses of this"
            " machine",
        )
    if not port.isdecimal():
        raise wrong(f"{_HOST_AND_PORT}: the port is missing", "Add it, such as :8000")
    if int(port) > _MAX_PORT:
        raise wrong(f"{_HOST_AND_PORT}: a port is at most {_MAX_PORT}")
    host = _host_and_port(value)
    return f"{host.name}:{host.port}"


def _cidr(value: str) -> str:
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise wrong("expected addresses such as 10.0.0.0/8 or fd00::/8") from None
    if network.prefixlen == 0:
        raise wrong(
            "this trusts everybody: any client could claim any address and host",
            "Name the networks that your load balancers are in",
        )
    if "/" in value and str(network) != str(ipaddress.ip_interface(value)):
        raise wrong("the address lies within the network", f"Write {network}")
    return str(network)


def _origin(value: str) -> str:
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
    host = _host_and_port(found[2])
    # Browsers leave out the default port, and compare byte for byte (RFC 6454 §6.2).
    if host.port in (None, _DEFAULT_PORT[found[1]]):
        return f"{found[1]}://{host.name}"
    return f"{found[1]}://{host.name}:{host.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a service listens. Nothing that a client sends becomes part of it."""

    scheme: Literal["http", "https", "unix"]
    host: str = ""
    """As in `Target.host`: lower case, `[…]` round IPv6; empty for `unix`."""
    port: int = 0
    socket_path: str = ""
    """Empty for all but `unix`."""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.socket_path}"
        return f"{self.scheme}://{self.host}:{self.port}"


def address(url: str) -> Address:
    """Return where `http://host:port`, `https://host` or `unix:/path` is.

    Raises:
        ValueError: it is none of these, it says more than that, or no service can
            or should be there.
    """
    if url.startswith("unix:"):
        socket_path = url.removeprefix("unix:")
        if not socket_path.startswith("/") or "\0" in socket_path:
            raise wrong("expected unix: and an absolute path, as unix:/run/app.sock")
        if len(socket_path.encode()) > _SOCKET_PATH_MAX:
            raise wrong(f"a socket's path has at most {_SOCKET_PATH_MAX} bytes")
        return Address(scheme="unix", socket_path=socket_path)
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


def same_host(host: str) -> str:
    """Return one name for all the names of this machine."""
    loopback = host in ("localhost", "[::1]") or host.startswith("127.")
    return "localhost" if loopback else host


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


def _dialled(scheme: str, authority: str) -> Address:
    host = _host_and_port(authority)
    if host.port == 0:
        raise wrong("there is no port 0 to connect to")
    _refuse_special(host.name)
    if scheme == "http":
        return Address(scheme="http", host=host.name, port=host.port or 80)
    return Address(scheme="https", host=host.name, port=host.port or 443)


def _refuse_rest(rest: str) -> None:
    """Refuse what may stand after the authority of a URL, but not of an address."""
    if rest.startswith("@"):
        raise wrong("a user or password doesn't belong into an address")
    if "?" in rest or "#" in rest:
        raise wrong("an address has no query and no fragment")


def _refuse_special(host: str) -> None:
    """Refuse addresses where no service can be, and the clouds' metadata services.

    Source: RFC 6890 (special-purpose addresses).
    """
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return  # a name; what it resolves to is known only when it is dialled
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_link_local:
        raise wrong(
            "this is a link-local address, where clouds keep a machine's credentials"
        )
    if ip.is_unspecified or ip.is_multicast or ip == _BROADCAST:
        raise wrong("no service can be reached at this address")


_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


def _target_url(value: str) -> str:
    address(value)
    return value.removesuffix("/") if value.startswith("http") else value


def _core_uri(value: str) -> str:
    core_addresses(value)
    return value


def _host_header(value: str) -> str:
    if value in ("upstream", "preserve"):
        return value
    host = _host_and_port(value)
    return host.name if host.port is None else f"{host.name}:{host.port}"


def _cookie_domain(value: str) -> str:
    dot = "." if value.startswith(".") else ""
    return dot + _host(value.removeprefix("."))


HostName = Annotated[str, AfterValidator(_host)]
HostPattern = Annotated[str, AfterValidator(_host_pattern)]
Listen = Annotated[str, AfterValidator(_listen)]
Cidr = Annotated[str, AfterValidator(_cidr)]
Origin = Annotated[str, AfterValidator(_origin)]
TargetUrl = Annotated[str, AfterValidator(_target_url)]
CoreUri = Annotated[str, AfterValidator(_core_uri)]
HostHeader = Annotated[str, AfterValidator(_host_header)]
CookieDomain = Annotated[str, AfterValidator(_cookie_domain)]

# --- identity headers -------------------------------------------------------

_HEADER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_TEMPLATE_FIELD = re.compile(
    r"\{(?:user_id|recipe_user_id|session_handle|tenant_id|claims(?:\.[^\s{}.]+)+)\}"
)
_TEMPLATE_TEXT = re.compile(r"[\x20-\x7e]*")
_TAKEN = re.compile(
    # hop by hop and framing (RFC 9110 §7.6.1, RFC 9112 §6)
    r"connection|keep-alive|te|trailer|transfer-encoding|upgrade|content-.*|expect"
    r"|host|via"
    # credentials, and what CGI would take for a proxy setting (CVE-2016-5385)
    r"|authorization|proxy(?:-.*)?|cookie|set-cookie|anti-csrf|rid|fdi-version|st-.*"
    r"|sec-.*"
    # what the gateway sets by other rules
    r"|forwarded|x-forwarded-.*|x-real-ip|x-request-id|x-auth-status"
)
"""Field names, in lower case, that mean something else to somebody."""


def _identity_header(value: str) -> str:
    if not _HEADER.fullmatch(value):
        raise wrong(
            "a field name has letters, digits and - here: others are easily mistaken"
            " for it"
        )
    if _TAKEN.fullmatch(value.lower()):
        raise wrong("this field has another meaning", "Choose a name of its own")
    return value


def _identity_template(value: str) -> str:
    if not _TEMPLATE_FIELD.search(value):
        raise wrong(
            "expected at least one of {user_id}, {recipe_user_id}, {session_handle},"
            " {tenant_id} and {claims.name}"
        )
    rest = _TEMPLATE_FIELD.sub("", value)
    if "{" in rest or "}" in rest:
        raise wrong("in braces stand user_id, session_handle, tenant_id or claims.name")
    if not _TEMPLATE_TEXT.fullmatch(rest) or value != value.strip():
        raise wrong("around the braces stands printable ASCII only, not at its ends")
    return value


IdentityHeader = Annotated[str, AfterValidator(_identity_header)]
IdentityTemplate = Annotated[str, AfterValidator(_identity_template)]
