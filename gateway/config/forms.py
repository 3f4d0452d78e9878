"""PURE. The forms of single values in `routes.yaml`, checked when the file is loaded.

Each function returns the value in its canonical form, or raises an error with the
expected form and the remedy. The file can't contain a path or host that the listener
would refuse in a request: `target` checks both.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Final, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from gateway.config.findings import did_you_mean, wrong
from gateway.config.listens import listen_address
from gateway.config.urls import (
    address,
    core_addresses,
    host_and_port,
    origin,
    origin_host,
    origin_pattern,
)
from gateway.errors import BadTarget
from gateway.headers import edits, names, templates
from gateway.headers.forwarded import UNIX_PEER
from gateway.http import target
from gateway.http.fields import is_plain_value, is_token
from gateway.http.methods import METHODS
from gateway.http.path_pattern import BadPattern, Pattern
from gateway.http.redirect_template import RedirectTemplate

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
"""Longer durations are mistakes, and overflow the timers of some systems."""


def duration(value: object) -> object:
    """Return seconds for `3s`, `250ms`, `5m`, `1h`, `2d` or a bare number of seconds.

    Raises:
        ValueError: *value* is none of these.
    """
    if isinstance(value, str):
        parts = _DURATION.fullmatch(value.strip())
        if parts is None:
            raise wrong("expected a duration such as 3s, 250ms, 5m or 1h")
        return float(parts[1]) * _UNIT_S[parts[2]]
    return number(value)


def size(value: object) -> object:
    """Return bytes for `10MiB`, `64KiB`, `1GB` or a bare number of bytes.

    Raises:
        ValueError: *value* is none of these.
    """
    if isinstance(value, str):
        parts = _SIZE.fullmatch(value.strip())
        if parts is None:
            raise wrong("expected a size such as 64KiB, 10MiB or 1GB")
        return int(parts[1]) * _UNIT_BYTES[(parts[2] or "B").lower()]
    return number(value)


def number(value: object) -> object:
    """Return *value*.

    Raises:
        ValueError: *value* is a boolean, which Python would take for 0 or 1.
    """
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
Weight = Annotated[int, Field(ge=1, le=1000), BeforeValidator(number)]
Share = Annotated[float, Field(gt=0, le=1), BeforeValidator(number)]
Part = Annotated[float, Field(ge=0, le=1), BeforeValidator(number)]
Port = Annotated[int, Field(ge=1, le=target.MAX_PORT), BeforeValidator(number)]
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
"""`403` may be written as a number, since it has only one meaning here."""

RetryOn = Annotated[
    Literal["connect", "reset", "502", "503", "504"],
    BeforeValidator(_status),
    WithJsonSchema({"enum": ["connect", "reset", "502", "503", "504", 502, 503, 504]}),
]
"""A status may be written as a number."""

# --- names and tokens -------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
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
    "accountlinking",
    "multifactorauth",
    "totp",
    "webauthn",
    "jwt",
)


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise wrong(
            "a name has up to 100 letters, digits and . _ : -, and begins with a"
            " letter or digit",
        )
    return value


def _recipe(value: str) -> str:
    if value == "session":
        raise wrong(
            "the session recipe is always on",
            "Remove it: its settings are keys of supertokens itself",
        )
    if value not in RECIPES:
        hint = did_you_mean(value, RECIPES) or f"Recipes: {', '.join(RECIPES)}"
        raise wrong(f"there is no recipe '{value}'", hint)
    return value


def _field_name(value: str) -> str:
    if not is_token(value.encode("utf-8", "replace")):
        raise wrong("this isn't a field name: use letters, digits and -")
    return value


def _method(value: str) -> str:
    method = value.upper()
    if not is_token(value.encode("utf-8", "replace")):
        raise wrong("this isn't a method, such as GET or POST")
    if method not in METHODS:
        hint = did_you_mean(method, sorted(METHODS)) or "Remove it"
        raise wrong("requests with this method are never forwarded", hint)
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
_HASH_KEYS = ("session", "user", "tenant", "client", "cookie:NAME", "header:NAME")


def hash_key(text: str, *others: str) -> str:
    """Return *text*, a part of a request that `headers.HashBy` reads.

    Raises:
        ValueError: it is none. The message names the *others*, too.
    """
    kind, colon, name = text.partition(":")
    if kind in ("cookie", "header") and colon:
        _field_name(name)
    elif text not in _HASH_KEYS:
        known = (*others, *_HASH_KEYS)
        expected = f"expected {', '.join(known[:-1])} or {known[-1]}"
        raise wrong(expected, did_you_mean(text, known))
    return text


HashKey = Annotated[str, AfterValidator(hash_key)]
FieldName = Annotated[str, AfterValidator(_field_name)]
Method = Annotated[str, AfterValidator(_method)]
Dotted = Annotated[str, AfterValidator(_dotted)]
Mail = Annotated[str, AfterValidator(_mail)]
ClaimPath = Annotated[str, AfterValidator(_claim_path)]
Text = Annotated[str, Field(min_length=1)]

# --- paths ------------------------------------------------------------------

_MAX_SEGMENTS: Final = 64
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_REST = re.compile(r"/\{([A-Za-z_][A-Za-z0-9_]*)\.\.\.\}$")
_ASCII_PATH: Final = "".join(map(chr, range(0x21, 0x7F)))


def _path(value: str) -> str:
    if not value.startswith("/"):
        raise wrong(
            "a path begins with /",
            "Remove the scheme and the host" if "://" in value else "Write / before it",
        )
    if "*" in value:
        raise wrong(
            "a path has no wildcards",
            "A prefix covers every path below it; for other patterns, use"
            " path: {template: …} or path: {regex: …}",
        )
    if "{" in value or "}" in value:
        raise wrong("a path can't have names in braces", "Use path: {template: …}")
    return _canonical(value)


def _canonical(path: str) -> str:
    """Return *path* in the canonical form that requests have when they are matched."""
    try:
        canonical = target.canonical_path(path)
    except BadTarget as exc:
        raise wrong(f"no request can have this path: {exc.detail}") from None
    if canonical != quote(path, safe=_ASCII_PATH):
        raise wrong("this path isn't in canonical form", f"Write {canonical}")
    if canonical.count("/") > _MAX_SEGMENTS:
        raise wrong(f"a path has at most {_MAX_SEGMENTS} segments")
    return canonical


def _prefix(value: str) -> str:
    return _path(value).rstrip("/") or "/"


def _template(value: str) -> str:
    rest = _REST.search(value)
    start = value[: rest.start()] if rest else value
    names = _PARAMETER.findall(start) + ([rest[1]] if rest else [])
    if not names:
        raise wrong(
            "a template has at least one name in braces, as in /orders/{id}",
            "Use exact for a path without names",
        )
    if len(set(names)) < len(names):
        raise wrong("a name occurs twice in the template", "Rename one of them")
    if rest and len(names) == 1:
        raise wrong("this is a prefix", f"Write prefix: {start or '/'}")
    pieces = [
        segment if _PARAMETER.fullmatch(segment) else _literal_segment(segment)
        for segment in start.split("/")
    ]
    _path(_PARAMETER.sub("x", start))
    return "/".join(pieces) + (rest[0] if rest else "")


def _literal_segment(segment: str) -> str:
    if "...}" in segment:
        raise wrong("{…...} stands for all the rest, so it ends the template")
    if "{" in segment or "}" in segment:
        raise wrong(
            "a name in braces must be a whole segment",
            "Use regex for parts of a segment",
        )
    return quote(segment, safe=_ASCII_PATH)


_PATTERN_SIGN = re.compile(r"[].*+?|(){}[\\^$]")


def _regex(value: str) -> str:
    if not value.startswith("/"):
        raise wrong(
            "a pattern begins with /", "It matches the whole path, without ^ and $"
        )
    if not _PATTERN_SIGN.search(value):
        raise wrong("this pattern is plain text", "Use exact instead of regex")
    try:
        Pattern(value)
    except BadPattern as exc:
        raise wrong(str(exc)) from None
    return value


def _own_path(value: str) -> str:
    if _prefix(value) == "/":
        raise wrong(
            "the root can't be a path of the gateway's own",
            "Add a segment, such as /auth",
        )
    if ";" in value:
        raise wrong(
            "this path is sent as the Path of a cookie, which a semicolon would end",
            "Remove the semicolon",
        )
    return _prefix(value)


Path = Annotated[str, AfterValidator(_path)]
"""A path in canonical form."""
Prefix = Annotated[str, AfterValidator(_prefix)]
"""A path in canonical form, without final slash: `/orders/` covers `/orders`, too."""
Template = Annotated[str, AfterValidator(_template)]
Regex = Annotated[str, AfterValidator(_regex)]
OwnPath = Annotated[str, AfterValidator(_own_path)]

# --- hosts, addresses and URLs ----------------------------------------------


def _host(value: str) -> str:
    host = host_and_port(value)
    if host.port is not None:
        raise wrong("expected a host without a port", "Remove the port")
    return host.name


def _host_pattern(value: str) -> str:
    if not value.startswith("*."):
        if "*" in value:
            raise wrong("* is allowed only as the first label, as in *.example.com")
        return _host(value)
    name = _host(value[2:])
    if target.is_ip(name):
        raise wrong("an IP address can't have a wildcard", "Remove *.")
    return f"*.{name}"


def _listen(value: str) -> str:
    if value.startswith("unix:"):
        raise wrong("a Unix socket isn't supported here", "Write host:port")
    return str(listen_address(value))


def _listen_place(value: str) -> str:
    return str(listen_address(value))


def _tls_version(value: object) -> object:
    # YAML reads 1.2 as a number.
    return str(value) if isinstance(value, float) else value


TlsVersion = Annotated[Literal["1.2", "1.3"], BeforeValidator(_tls_version)]


def _to_https(value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and 1 <= value <= target.MAX_PORT:
        return value
    raise wrong("expected true, false or a port")


ToHttps = Annotated[
    bool | int,
    BeforeValidator(_to_https, json_schema_input_type=bool | int),
]
"""Whether to redirect; a number: to that port."""

_MODE = re.compile(r"0?[0-7]{3}")
_OWNER = re.compile(r"(?=.)(?:[A-Za-z0-9_][\w.-]{0,31})?(?::[A-Za-z0-9_][\w.-]{0,31})?")


def _socket_mode(value: object) -> object:
    if isinstance(value, str) and _MODE.fullmatch(value):
        return value.rjust(4, "0")
    raise wrong(
        "expected permissions in octal digits and in quotes",
        'Write "0660", for example',
    )


def _socket_owner(value: str) -> str:
    if not _OWNER.fullmatch(value):
        raise wrong("expected user:group, user or :group")
    return value


def _absolute_path(value: str) -> str:
    if not value.startswith("/") or value.endswith("/") or not value.isprintable():
        raise wrong("expected the whole path of a file, such as /run/gateway.pid")
    return value


def _cidr(value: str) -> str:
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise wrong("expected a network such as 10.0.0.0/8 or fd00::/8") from None
    if network.prefixlen == 0:
        raise wrong(
            "this trusts all clients: each could claim any address and host",
            "Write the networks of your load balancers",
        )
    if "/" in value and str(network) != str(ipaddress.ip_interface(value)):
        raise wrong("this is an address within a network", f"Write {network}")
    return str(network)


def _trusted_peer(value: str) -> str:
    return value if value == UNIX_PEER else _cidr(value)


def _route_origin(value: str) -> str:
    return value if value == "*" else origin_pattern(value)


def _site(value: str) -> str:
    site = origin(value)
    if origin_host(site).startswith("["):
        raise wrong(
            "the SuperTokens SDK doesn't support an IPv6 address here",
            "Use a name, such as localhost",
        )
    return site


def _target_url(value: str) -> str:
    address(value)
    return value.removesuffix("/") if value.startswith("http") else value


def _core_uri(value: str) -> str:
    core_addresses(value)
    return value


def _host_header(value: str) -> str:
    if value in ("upstream", "preserve"):
        return value
    host = host_and_port(value)
    return host.name if host.port is None else f"{host.name}:{host.port}"


def _cookie_domain(value: str) -> str:
    dot = "." if value.startswith(".") else ""
    return dot + _host(value.removeprefix("."))


def _cookie_domain_change(value: str) -> str:
    return value if value in ("remove", "keep") else _cookie_domain(value)


HostName = Annotated[str, AfterValidator(_host)]
HostPattern = Annotated[str, AfterValidator(_host_pattern)]
Listen = Annotated[str, AfterValidator(_listen)]
ListenPlace = Annotated[str, AfterValidator(_listen_place)]
SocketMode = Annotated[str, BeforeValidator(_socket_mode)]
SocketOwner = Annotated[str, AfterValidator(_socket_owner)]
AbsolutePath = Annotated[str, AfterValidator(_absolute_path)]
Cidr = Annotated[str, AfterValidator(_cidr)]
TrustedPeer = Annotated[str, AfterValidator(_trusted_peer)]
Origin = Annotated[str, AfterValidator(origin)]
OriginPattern = Annotated[str, AfterValidator(origin_pattern)]
RouteOrigin = Annotated[str, AfterValidator(_route_origin)]
Site = Annotated[str, AfterValidator(_site)]
TargetUrl = Annotated[str, AfterValidator(_target_url)]
CoreUri = Annotated[str, AfterValidator(_core_uri)]
HostHeader = Annotated[str, AfterValidator(_host_header)]
CookieDomain = Annotated[str, AfterValidator(_cookie_domain)]
CookieDomainChange = Annotated[str, AfterValidator(_cookie_domain_change)]

# --- header fields ----------------------------------------------------------


def _identity_header(value: str) -> str:
    try:
        names.check_settable(value)
    except ValueError as exc:
        raise wrong(str(exc), "Choose another name") from None
    return value


def _identity_template(value: str) -> str:
    try:
        parts = templates.parse(value)
    except ValueError as exc:
        raise wrong(str(exc)) from None
    if not any(isinstance(part, tuple) for part in parts):
        raise wrong(f"expected at least one of {templates.PLACES}")
    return value


def _allowed_field(value: str) -> str:
    try:
        names.check_allowable(value)
    except ValueError as exc:
        raise wrong(str(exc)) from None
    return value


_ANY_VALUE: Final = "*"


def _matched_field(value: str) -> str:
    try:
        names.check_matchable(_field_name(value))
    except ValueError as exc:
        raise wrong(str(exc)) from None
    return value.lower()


def _matched_values(value: object) -> object:
    if isinstance(value, bool):
        raise wrong("a value is text", 'Put it in quotes, or write "*" for any value')
    values = value if isinstance(value, list | tuple) else [value]
    return None if _ANY_VALUE in values else tuple(values)


def _field_value(value: str) -> str:
    if is_plain_value(value):
        return value
    if value != value.strip():
        raise wrong(
            "this is sent in a header field, so it can't begin or end with a blank or"
            " line break",
            "Remove it: the content of a file often ends with a line break",
        )
    raise wrong(
        "this is sent in a header field, so it must be printable ASCII",
        "Remove line breaks, tabs and other control characters, and characters such as"
        " é or typographic quotes",
    )


def _edited(check: Callable[[str], None]) -> Callable[[str], str]:
    def checked(value: str) -> str:
        try:
            check(value)
        except ValueError as exc:
            raise wrong(f"this field can't be changed: {exc}") from None
        return value

    return checked


def _redirect_target(value: str) -> str:
    try:
        RedirectTemplate(value)
    except ValueError as exc:
        raise wrong(str(exc)) from None
    return value


def _answer_status(value: int) -> int:
    if value == 401:
        raise wrong(
            "a 401 makes SuperTokens' frontends refresh the session, endlessly",
            "Use 403 or 404",
        )
    if not (200 <= value <= 299 or 400 <= value <= 599):
        raise wrong("expected 200 to 299, or 400 to 599", "Use redirect for 3xx")
    return value


_LOGGED_STATUS = re.compile(r"[1-5](?:\d\d|xx)")


def _logged_status(value: object) -> object:
    text = str(value) if isinstance(value, int) else value
    if not isinstance(text, str) or not _LOGGED_STATUS.fullmatch(text):
        raise wrong("expected a status such as 204, or a class of them such as 2xx")
    return text


LoggedStatus = Annotated[
    str,
    BeforeValidator(
        _logged_status,
        json_schema_input_type=Annotated[int, Field(ge=100, le=599)]
        | Annotated[str, Field(pattern=f"^{_LOGGED_STATUS.pattern}$")],
    ),
]
Status = Annotated[int, BeforeValidator(number), Field(ge=100, le=599)]
AnswerStatus = Annotated[int, BeforeValidator(number), AfterValidator(_answer_status)]
RedirectTarget = Annotated[str, AfterValidator(_redirect_target)]
EditedRequestField = Annotated[str, AfterValidator(_edited(edits.check_request_edit))]
EditedReplyField = Annotated[str, AfterValidator(_edited(edits.check_reply_edit))]
FieldValue = Annotated[str, AfterValidator(_field_value)]
ApiKey = Annotated[str, Field(min_length=1), AfterValidator(_field_value)]
"""The core's API key, which is sent as the value of a field, `api-key`."""
IdentityHeader = Annotated[str, AfterValidator(_identity_header)]
IdentityTemplate = Annotated[str, AfterValidator(_identity_template)]
AllowedField = Annotated[str, AfterValidator(_allowed_field)]
MatchedField = Annotated[str, AfterValidator(_matched_field)]
"""A field name in lower case."""
MatchedValues = Annotated[
    tuple[FieldValue, ...] | None,
    Field(min_length=1),
    BeforeValidator(_matched_values, json_schema_input_type=str | list[str]),
]
"""Values of which one must be there; None: any value."""
