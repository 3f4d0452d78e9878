"""PURE. The gateway's own answers, and their status lines.

No answer repeats the client's input, names an upstream or shows a traceback.
"""

from __future__ import annotations

import email.utils
import json
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from gateway.errors import GatewayError
from gateway.http.fields import Field, Fields
from gateway.identity import Denied, Undecided

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}

_NO_STORE: Field = (b"Cache-Control", b"no-store")
_NOSNIFF: Field = (b"X-Content-Type-Options", b"nosniff")
_CACHES = frozenset({b"cache-control", b"cdn-cache-control", b"surrogate-control"})
_PROBLEM: Field = (b"Content-Type", b"application/problem+json")
_JWK_SET: Field = (b"Content-Type", b"application/jwk-set+json")
KEYS_CACHED_S: Final = 300
"""How long caches keep the keys of assertions: a new key is published for as long
before it signs."""
_KEYS_CACHED: Field = (b"Cache-Control", b"public, max-age=%d" % KEYS_CACHED_S)
JSON: Field = (b"Content-Type", b"application/json; charset=utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A complete answer of the gateway's own."""

    status: int
    fields: Fields = ()
    body: bytes = b""
    close: bool = False
    """The connection is closed after this answer."""
    note: str = ""
    """For the log, not for the client."""


def start(status: int) -> bytes:
    """Return the status line of an answer of the gateway's own, with its CRLF.

    Source: RFC 9112 §4.
    """
    return b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b""))


@lru_cache(maxsize=1)
def date(at: int) -> Field:
    """Return the Date field of a message that was made *at* seconds since 1970.

    Source: RFC 9110 §6.6.1, §5.6.7.
    """
    return b"Date", email.utils.formatdate(at, usegmt=True).encode()


@lru_cache(maxsize=1)
def date_line(at: int) -> bytes:
    """Return the field of `date` as a line, with CRLF."""
    return b"%b: %b\r\n" % date(at)


def user(body: bytes) -> Response:
    """Return a 200 about a session, in JSON; no cache may keep it."""
    return Response(status=200, fields=(JSON, _NO_STORE), body=body)


def key_set(body: bytes) -> Response:
    """Return the 200 with the keys of assertions, which caches keep for 5 minutes.

    Source: RFC 7517 §8.5.2.
    """
    return Response(status=200, fields=(_JWK_SET, _KEYS_CACHED, _NOSNIFF), body=body)


def problem(
    *,
    status: int,
    code: str,
    title: str,
    request_id: str,
    fields: Fields = (),
    close: bool = False,
) -> Response:
    """Return an answer of type application/problem+json.

    Source: RFC 9457 §3; `code` and `request_id` are extension members.
    """
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": code,
        "request_id": request_id,
    }
    return Response(
        status=status,
        fields=(_PROBLEM, _NO_STORE, _NOSNIFF, *fields),
        body=json.dumps(body).encode(),
        close=close,
    )


def failure(error: GatewayError, request_id: str) -> Response:
    """Return the answer to *error*: its status, code and title, never its detail."""
    fields: Fields = ()
    if error.status == 503 and error.may_repeat:
        fields = ((b"Retry-After", b"1"),)
    return problem(
        status=error.status,
        code=error.code,
        title=error.title,
        request_id=request_id,
        fields=fields,
        close=error.close,
    )


def bad_items(title: str, request_id: str) -> Response:
    """Return the 400 of a body that isn't what the resource takes."""
    return problem(status=400, code="bad_body", title=title, request_id=request_id)


def no_route(request_id: str) -> Response:
    """Return the 404 of a path that no route matches."""
    return problem(
        status=404,
        code="no_route",
        title="No route matches this path",
        request_id=request_id,
    )


def near_miss(request_id: str) -> Response:
    """Return the 404 of a path that may be read as that of a stricter route."""
    return problem(
        status=404,
        code="near_miss",
        title="No route matches this path, and another spelling of it is guarded",
        request_id=request_id,
    )


def method_not_allowed(allow: tuple[str, ...], request_id: str) -> Response:
    """Return the 405 that lists the path's methods (*allow*).

    Source: RFC 9110 §15.5.6 (Allow is required).
    """
    return problem(
        status=405,
        code="method_not_allowed",
        title="This path doesn't answer to this method",
        request_id=request_id,
        fields=((b"Allow", ", ".join(allow).encode()),),
    )


def client_refused(request_id: str) -> Response:
    """Return the 403 of a client whose address the route doesn't serve."""
    return problem(
        status=403,
        code="client_refused",
        title="This route isn't open to your address",
        request_id=request_id,
    )


def websocket_disabled(request_id: str) -> Response:
    """Return the 403 of a handshake at a route without WebSockets."""
    return problem(
        status=403,
        code="websocket_disabled",
        title="This route takes no WebSockets",
        request_id=request_id,
        close=True,
    )


def websocket_origin(request_id: str) -> Response:
    """Return the 403 of a handshake of a page that may not open a WebSocket."""
    return problem(
        status=403,
        code="websocket_origin",
        title="This origin may not open a WebSocket here",
        request_id=request_id,
        close=True,
    )


def upstream_401(status: int, request_id: str) -> Response:
    """Return what takes the place of a service's 401 to a valid session."""
    return problem(
        status=status,
        code="upstream_401",
        title="The service refused this user, whose session is valid",
        request_id=request_id,
    )


def fixed(
    status: int,
    fields: Fields,
    body: bytes,
    *,
    is_private: bool,
    has_new_tokens: bool,
) -> Response:
    """Return a response of the route table, with *fields* of its own.

    *is_private*: its route isn't public, so no shared cache keeps it unless *fields*
    say so. With new tokens, no cache keeps it.

    Source: RFC 9111 §3.5, §5.2.2.
    """
    if has_new_tokens:
        fields = (*(f for f in fields if f[0].lower() not in _CACHES), _NO_STORE)
    elif is_private and not any(f[0].lower() in _CACHES for f in fields):
        fields = (*fields, (b"Cache-Control", b"private, no-cache"))
    return Response(status=status, fields=fields, body=body)


def sign_in(location: bytes) -> Response:
    """Return the 302 to the page to sign in, in place of a 401 to a browser.

    Source: RFC 9110 §15.4.3.
    """
    return Response(status=302, fields=((b"Location", location), _NO_STORE))


def to_https(location: bytes) -> Response:
    """Return the 308 to the same resource over https; the method and body stay.

    Source: RFC 9110 §15.4.9.
    """
    return Response(status=308, fields=((b"Location", location), _NO_STORE))


def denied(verdict: Denied) -> Response:
    """Return SuperTokens' own refusal, byte for byte: its frontend SDKs read it."""
    return Response(
        status=verdict.status,
        fields=(*verdict.fields, _NO_STORE),
        body=verdict.body,
    )


def undecided(verdict: Undecided, request_id: str) -> Response:
    """Return the 503 for a session that couldn't be checked."""
    return problem(
        status=503,
        code="session_check_unavailable",
        title="The session can't be checked right now",
        request_id=request_id,
        fields=((b"Retry-After", str(verdict.retry_after_s).encode()),),
    )
