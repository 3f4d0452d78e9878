"""PURE. An event of AWS Lambda → the request in it, as the bytes of its head.

Each kind of event has the path and the query in another form. Nothing is decoded here,
and what AWS has decoded is encoded again, so that nothing is decoded twice.

==================  ===========================  ======================================
event               path                         query
==================  ===========================  ======================================
REST API            `path`, as sent              maps, decoded: encoded again
HTTP API 1.0        `path`, decoded once         maps, decoded: encoded again
HTTP API 2.0        `rawPath`, decoded once      `rawQueryString`, as sent
ALB                 `path`, as sent              maps, as sent
function URL        `rawPath`, as sent           `rawQueryString`, as sent
==================  ===========================  ======================================

Of maps, the parameters of one name stay in order, but the order of the names is lost.
HTTP APIs put the name of a stage before the path. It is removed, and so is the base
path of a custom domain: each once, and only whole segments.

Source: the AWS documentation of each event's format; docs/aws.md has what was seen.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from gateway.errors import BadRequest, BadTarget, GatewayError, Side
from gateway.headers.forwarded import stated_address
from gateway.http.fields import Field, block, first, has_control, is_token
from gateway.http.methods import METHODS

Event = Mapping[str, Any]


class EventKind(StrEnum):
    """What has invoked the function."""

    REST = "REST API"
    HTTP_1 = "HTTP API 1.0"
    HTTP_2 = "HTTP API 2.0"
    ALB = "ALB"
    URL = "function URL"


class BadEvent(ValueError):
    """The event is none of an HTTP request; the text says what is missing."""


class SingleValueHeaders(GatewayError):
    """The load balancer sends one value of each field, and takes one.

    Cookies get lost in both directions: a session has up to three.
    """

    side = Side.GATEWAY
    status = 500
    code = "alb_single_values"
    title = (
        "The load balancer's target group needs the attribute"
        " lambda.multi_value_headers.enabled=true"
    )


class UpgradeNotSupported(GatewayError):
    """An event has one request and one reply, so there are no WebSockets."""

    side = Side.CLIENT
    status = 501
    code = "upgrade_not_supported"
    title = "This gateway takes no WebSockets"


class LambdaRequest(NamedTuple):
    """The request of an event."""

    head: bytes
    """All of its head, to be read by a `RequestReader`."""
    body: bytes
    peer: str
    """The address that was connected to AWS; empty: not known."""
    is_secure: bool
    """Whether that connection was TLS."""
    opens_websocket: bool


_PATH_SAFE: Final = "/:@!$&'()*+,;=~-._"
"""Characters that a decoded path keeps; all else is encoded, `%` included."""
_QUERY_SAFE: Final = "~-._"
_DECODED: Final = (EventKind.HTTP_1, EventKind.HTTP_2)
"""Events whose path was decoded once."""
_WITH_STAGE: Final = _DECODED
"""Events whose path begins with the stage, unless that is `$default`."""

# What is about a connection that ends at AWS, and what AWS says of it: `is_secure`.
_NOT_THE_REQUESTS: Final = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer"),
        *(b"upgrade", b"expect", b"http2-settings"),
        *(b"x-forwarded-proto", b"x-forwarded-port"),
    }
)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_HAVE_BODIES: Final = frozenset({"POST", "PUT", "PATCH"})


def kind_of(event: object) -> EventKind:
    """Return what *event* comes from.

    Raises:
        BadEvent: it isn't an HTTP request.
    """
    if not isinstance(event, Mapping):
        raise BadEvent("the event is no object")
    context = event.get("requestContext")
    if not isinstance(context, Mapping):
        raise BadEvent("the event has no requestContext")
    if "elb" in context:
        return EventKind.ALB
    match event.get("version"):
        case "2.0" if isinstance(context.get("http"), Mapping):
            is_url = ".lambda-url." in str(context.get("domainName", ""))
            return EventKind.URL if is_url else EventKind.HTTP_2
        case "1.0" if "httpMethod" in event:
            return EventKind.HTTP_1
        case None if "httpMethod" in event:
            return EventKind.REST
    raise BadEvent("the event is no HTTP request of a kind that is known")


def request_of(
    event: Event, kind: EventKind, base_path: str = "", *, has_body: bool = True
) -> LambdaRequest:
    """Return the request of *event*, which is of *kind*.

    *base_path* is removed from the path's beginning. Without *has_body*, the event has
    the head only, as those of authorizers; the fields that describe the body stay.

    Raises:
        SingleValueHeaders: the target group isn't set up for cookies.
        BadRequest: the method, the path, a field or the body can't be that of a
            request.
    """
    context = event["requestContext"]
    method, path, peer = _named(event, context, kind)
    if method not in METHODS:
        raise BadRequest("the method isn't one that is served")
    fields = list(_fields(event, kind))
    stated = _forwarded_for(fields)
    is_secure = True
    if kind is EventKind.ALB:
        is_secure = (first(fields, b"x-forwarded-proto") or b"").lower() == b"https"
        peer = stated_address(stated[-1].decode("latin-1")) if stated else None
        stated = stated[:-1]
    elif stated and stated_address(stated[-1].decode("latin-1")) == peer:
        stated = stated[:-1]
    body = _body(event) if has_body else b""
    target = _target(event, kind, path, context, base_path)
    hosts = [value for name, value in fields if name == b"host"]
    if not hosts and (domain := context.get("domainName")):
        hosts = [_bytes(str(domain))]
    lines: list[Field] = [(b"Host", host) for host in hosts]
    if stated:
        lines.append((b"X-Forwarded-For", b",".join(stated)))
    lines += _kept(fields, keeps_framing=not has_body)
    is_framed = bool(body) or method in _HAVE_BODIES
    if has_body and (is_framed or any(name in _FRAMING for name, _ in fields)):
        lines.append((b"Content-Length", b"%d" % len(body)))
    # The health checks of a load balancer name no host, as only HTTP/1.0 allows.
    start = b"%b %b HTTP/1.%d\r\n" % (method.encode(), target, 1 if hosts else 0)
    return LambdaRequest(
        head=b"%b%b\r\n" % (start, block(lines)),
        body=body,
        peer=peer or "",
        is_secure=is_secure,
        opens_websocket=_opens_websocket(fields),
    )


def _named(
    event: Event, context: Event, kind: EventKind
) -> tuple[str, str, str | None]:
    """Return the method, the path as it is in the event, and the peer's address."""
    if kind in (EventKind.HTTP_2, EventKind.URL):
        about = context["http"]
        peer = stated_address(str(about.get("sourceIp", "")))
        return _text(about, "method"), _text(event, "rawPath"), peer
    peer = stated_address(str((context.get("identity") or {}).get("sourceIp", "")))
    return _text(event, "httpMethod"), _text(event, "path"), peer


def _text(holder: Event, name: str) -> str:
    value = holder.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"the event has no {name}")
    return value


def _bytes(text: str) -> bytes:
    """Return *text* in UTF-8.

    Raises:
        BadRequest: it has a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadRequest("the event has text that isn't Unicode") from None


# --- the target -------------------------------------------------------------------


def _target(
    event: Event, kind: EventKind, path: str, context: Event, base_path: str
) -> bytes:
    """Return the request target.

    Raises:
        BadTarget: it has a control character or a space, which would end it.
    """
    if kind in _WITH_STAGE:
        stage = context.get("stage")
        if isinstance(stage, str) and stage != "$default":
            path = without_prefix(path, f"/{stage}")
    if kind in _DECODED:
        _bytes(path)  # for its error
        path = quote(path, safe=_PATH_SAFE)
    raw = _bytes(without_prefix(path, base_path))
    if not raw.startswith(b"/") or b"?" in raw or b"#" in raw:
        raise BadTarget("the path isn't one")
    if query := _query(event, kind):
        raw += b"?" + query
    if b" " in raw or has_control(raw) or b"\t" in raw:
        raise BadTarget("a control character or a space")
    return raw


def without_prefix(path: str, prefix: str) -> str:
    """Return *path* without *prefix*, if its first segments are those."""
    if not prefix:
        return path
    if path == prefix:
        return "/"
    return path[len(prefix) :] if path.startswith(f"{prefix}/") else path


def _query(event: Event, kind: EventKind) -> bytes:
    if kind in (EventKind.HTTP_2, EventKind.URL):
        return _bytes(str(event.get("rawQueryString") or ""))
    pairs = _pairs(
        event.get("multiValueQueryStringParameters")
        or event.get("queryStringParameters")
    )
    if kind is EventKind.ALB:
        return b"&".join(b"%b=%b" % (_bytes(k), _bytes(v)) for k, v in pairs)
    return b"&".join(b"%b=%b" % (_quoted(k), _quoted(v)) for k, v in pairs)


def _quoted(text: str) -> bytes:
    return quote(_bytes(text), safe=_QUERY_SAFE).encode()


def _pairs(holder: object) -> Iterator[tuple[str, str]]:
    """Yield names and values of a map with one value or several for each name."""
    if not isinstance(holder, Mapping):
        return
    for name, value in holder.items():
        values = value if isinstance(value, list) else [value]
        for each in values:
            yield str(name), "" if each is None else str(each)


# --- fields and body --------------------------------------------------------------


def _fields(event: Event, kind: EventKind) -> Iterator[Field]:
    """Yield all fields, names in lower case; Cookie comes once.

    Raises:
        SingleValueHeaders: as `request_of`.
        BadRequest: a name or a value can't be one of a field.
    """
    several = event.get("multiValueHeaders")
    if kind is EventKind.ALB and not isinstance(several, Mapping):
        raise SingleValueHeaders
    has_several = isinstance(several, Mapping) and several
    cookies = event.get("cookies")
    if not isinstance(cookies, list):
        cookies = []
    for name, text in _pairs(several if has_several else event.get("headers")):
        field = _bytes(name).lower(), _bytes(text).strip(b" \t")
        if not is_token(field[0]) or has_control(field[1]):
            raise BadRequest("a field of the event is malformed")
        if not (cookies and field[0] == b"cookie"):
            yield field
    if cookies:
        joined = _bytes("; ".join(map(str, cookies)))
        if has_control(joined):
            raise BadRequest("a cookie of the event is malformed")
        yield b"cookie", joined


def _kept(fields: Iterable[Field], *, keeps_framing: bool) -> Iterator[Field]:
    """Yield what is passed on unchanged."""
    dropped = _NOT_THE_REQUESTS | {b"host", b"x-forwarded-for"}
    if not keeps_framing:
        dropped |= _FRAMING
    for field in fields:
        if field[0] not in dropped:
            yield field


def _forwarded_for(fields: Iterable[Field]) -> list[bytes]:
    """Return the entries of all X-Forwarded-For fields."""
    joined = b",".join(value for name, value in fields if name == b"x-forwarded-for")
    return [entry.strip(b" \t") for entry in joined.split(b",")] if joined else []


def _opens_websocket(fields: Iterable[Field]) -> bool:
    """Return whether the client asks for a WebSocket; AWS may remove Upgrade."""
    return any(
        name == b"sec-websocket-key"
        or (name == b"upgrade" and b"websocket" in value.lower())
        for name, value in fields
    )


def _body(event: Event) -> bytes:
    body = event.get("body")
    if not isinstance(body, str):
        return b""
    if not event.get("isBase64Encoded"):
        return _bytes(body)
    try:
        return binascii.a2b_base64(_bytes(body), strict_mode=True)
    except binascii.Error:
        raise BadRequest("the event's body isn't base64") from None
