"""PURE. A front's question → the head of the request that it is about.

Each endpoint reads one family of fields, and never another one: a client may send the
fields of the others. A front sets each field of its family exactly once. What comes
twice, or not at all, isn't the front's word, and is refused.

============  ======================  =====================  ===========================
endpoint      method                  target                 host and scheme
============  ======================  =====================  ===========================
auth-request  X-Original-Method       X-Original-URL         X-Original-URL
refusal       X-Original-Method       X-Original-URL         X-Original-URL
forward-auth  X-Forwarded-Method      X-Forwarded-Uri        X-Forwarded-Host and -Proto
ext-authz     the question's          after its `/ext-authz` Host, X-Forwarded-Proto
============  ======================  =====================  ===========================

The client is the last entry of X-Forwarded-For. The entries before it are what the
client sent, and count as in a request to the gateway's own listener. No parameter of
the question's own query is read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final, NamedTuple, assert_never

from gateway.errors import GatewayError, Side
from gateway.http import target
from gateway.http.fields import Fields, first, has_control, is_token, values
from gateway.http.methods import METHODS
from gateway.http.request_head import RequestHead


class Endpoint(StrEnum):
    """What a front may ask."""

    AUTH_REQUEST = "auth-request"
    REFUSAL = "refusal"
    """The whole answer to a request that `auth-request` has refused."""
    FORWARD_AUTH = "forward-auth"
    EXT_AUTHZ = "ext-authz"


class BadQuestion(GatewayError):
    """A front's question doesn't say which request it is about."""

    side = Side.CLIENT
    status = 403
    code = "bad_question"
    title = "The request can't be judged"


class Original(NamedTuple):
    """A request as it reached a front."""

    method: str
    target: bytes
    head: bytes
    """All of its head, to be read by a `RequestReader`."""
    client: str
    """The address that was connected to the front."""
    is_secure: bool
    """Whether that connection was TLS."""


_PREFIX: Final = b"/ext-authz"
_URL = re.compile(rb"(https?)://([^/?]*)(.*)", re.DOTALL).fullmatch
_IS_SECURE: Final = {b"http": False, b"https": True}

# What says how the front asks, not what its client sent.
_NOT_THE_CLIENTS: Final = frozenset(
    {
        *(b"host", b"connection", b"keep-alive", b"proxy-connection", b"te"),
        *(b"trailer", b"transfer-encoding", b"content-length", b"upgrade", b"expect"),
        *(b"http2-settings", b"forwarded", b"x-original-method", b"x-original-url"),
        *(b"x-forwarded-method", b"x-forwarded-uri", b"x-forwarded-host"),
        *(b"x-forwarded-proto", b"x-forwarded-for", b"x-forwarded-port"),
        *(b"x-forwarded-server", b"x-forwarded-prefix"),
    }
)


def endpoint_of(raw: bytes, answered: Collection[str]) -> Endpoint | None:
    """Return what the raw target of a question names, None if that isn't *answered*.

    The bytes are compared as they are: nothing in the path is resolved. `refusal`
    comes with `auth-request`.
    """
    path = raw.partition(b"?")[0]
    if path.startswith(_PREFIX + b"/"):
        found = Endpoint.EXT_AUTHZ
    elif path == b"/forward-auth":
        found = Endpoint.FORWARD_AUTH
    elif path in (b"/auth-request", b"/refusal"):
        found = Endpoint(path[1:].decode())
    else:
        return None
    asked = Endpoint.AUTH_REQUEST if found is Endpoint.REFUSAL else found
    return found if asked in answered else None


def original(head: RequestHead, endpoint: Endpoint) -> Original:
    """Return the request that a question with *head* is about.

    Raises:
        BadQuestion: a field is missing, comes twice or has no meaning; the target isn't
            a path; or the question has a body.
    """
    if head.has_body:
        raise BadQuestion("the question has a body")
    fields = head.fields
    method, scheme, host, raw = _named(head, endpoint)
    if method.decode("latin-1") not in METHODS:
        raise BadQuestion("the method isn't one that is served")
    if scheme not in _IS_SECURE:
        raise BadQuestion("the scheme is neither http nor https")
    if not raw.startswith(b"/"):
        raise BadQuestion("the target isn't a path")
    target.host(host)
    client, stated = _client(_one(fields, b"x-forwarded-for"))
    lines = [
        line.raw for line in head.lines if line.name.lower() not in _NOT_THE_CLIENTS
    ]
    return Original(
        method.decode(),
        raw,
        _composed(method, raw, host, stated, lines, fields),
        client,
        _IS_SECURE[scheme],
    )


def received(
    *,
    method: bytes,
    scheme: bytes,
    host: bytes,
    raw: bytes,
    client: str,
    fields: Fields,
) -> Original:
    """Return a request that a front has described in a message of its own.

    *client* is the address that was connected to the front, and *fields* are the
    client's, with X-Forwarded-For as it was received.

    Raises:
        BadQuestion: a value can't be that of a request.
    """
    if method.decode("latin-1") not in METHODS:
        raise BadQuestion("the method isn't one that is served")
    if scheme not in _IS_SECURE:
        raise BadQuestion("the scheme is neither http nor https")
    if not raw.startswith(b"/") or has_control(raw) or b" " in raw:
        raise BadQuestion("the target isn't a path")
    target.host(host)
    for name, value in fields:
        # What ends a line would begin another field.
        if not is_token(name) or has_control(value):
            raise BadQuestion("a field can't be one of a request")
    stated = b", ".join(values(fields, b"x-forwarded-for"))
    lines = [
        b"%b: %b\r\n" % field
        for field in fields
        if field[0].lower() not in _NOT_THE_CLIENTS
    ]
    return Original(
        method.decode(),
        raw,
        _composed(method, raw, host, stated, lines, fields),
        address(client),
        _IS_SECURE[scheme],
    )


def _composed(
    method: bytes,
    raw: bytes,
    host: bytes,
    stated: bytes,
    lines: Iterable[bytes],
    fields: Fields,
) -> bytes:
    """Return a head with *lines*, each with CRLF, out of the client's *fields*.

    *stated* is what the client's own X-Forwarded-For says.
    """
    head = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method, raw, host)]
    if stated:
        head.append(b"X-Forwarded-For: %b\r\n" % stated)
    head += lines
    if _opens_websocket(fields):
        head.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    return b"%b\r\n" % b"".join(head)


def _named(head: RequestHead, endpoint: Endpoint) -> tuple[bytes, bytes, bytes, bytes]:
    """Return method, scheme, host and raw target, from the endpoint's own fields."""
    fields = head.fields
    match endpoint:
        case Endpoint.AUTH_REQUEST | Endpoint.REFUSAL:
            method = _one(fields, b"x-original-method")
            return method, *_url(_one(fields, b"x-original-url"))
        case Endpoint.FORWARD_AUTH:
            return (
                _one(fields, b"x-forwarded-method"),
                _one(fields, b"x-forwarded-proto"),
                _one(fields, b"x-forwarded-host"),
                _one(fields, b"x-forwarded-uri"),
            )
        case Endpoint.EXT_AUTHZ:
            scheme = _one(fields, b"x-forwarded-proto")
            raw = head.target.removeprefix(_PREFIX)
            return head.method.encode(), scheme, head.host or b"", raw
        case never:
            assert_never(never)


def _one(fields: Fields, name: bytes) -> bytes:
    found = tuple(values(fields, name))
    if len(found) != 1:
        raise BadQuestion(f"{len(found)} fields {name.decode()}, where there must be 1")
    return found[0]


def _url(url: bytes) -> tuple[bytes, bytes, bytes]:
    """Return scheme, authority and target of X-Original-URL.

    The authority is the client's Host field as it was received, so it may have a `?` or
    a `#` in it: then what follows it isn't a path.
    """
    parts = _URL(url)
    if parts is None:
        raise BadQuestion("x-original-url is no http URL")
    scheme, host, raw = parts.groups()
    return scheme, host, raw


def _client(value: bytes) -> tuple[str, bytes]:
    """Return the last entry of X-Forwarded-For, and the entries before it."""
    stated, _, last = value.rpartition(b",")
    return address(last.strip(b" \t").decode("latin-1")), stated.strip(b" \t")


def address(text: str) -> str:
    """Return a client's address in its usual form.

    Raises:
        BadQuestion: it isn't one.
    """
    try:
        if "%" in text:
            raise ValueError(text)
        found = ipaddress.ip_address(text)
    except ValueError:
        raise BadQuestion("the client has no address") from None
    return str(getattr(found, "ipv4_mapped", None) or found)


def _opens_websocket(fields: Fields) -> bool:
    """Return whether the client asks for a WebSocket.

    Fronts often remove Upgrade from a question, and leave Sec-WebSocket-Key.
    """
    upgrade = first(fields, b"upgrade")
    return first(fields, b"sec-websocket-key") is not None or (
        upgrade is not None and b"websocket" in upgrade.lower()
    )
