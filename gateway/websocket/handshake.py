"""PURE. The opening handshake of a WebSocket, from fields alone."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from gateway.http import fields as raw
from gateway.http.fields import Fields
from gateway.responses import Response, problem

UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
"""The hop-by-hop fields that open a WebSocket, in both directions.

Source: RFC 9110 §7.8.
"""


def wants_upgrade(fields: Fields) -> bool:
    """Return whether the request asks for a WebSocket. Any other upgrade is ignored.

    Source: RFC 9110 §7.8, RFC 6455 §4.2.1.
    """
    return _has_token(raw.values(fields, b"upgrade"), b"websocket") and _has_token(
        raw.values(fields, b"connection"), b"upgrade"
    )


def refuse_handshake(
    method: str, fields: Fields, request_id: str, *, http10: bool
) -> Response | None:
    """Return the answer to a malformed handshake, None if it is valid.

    A body is refused, because the service may answer before all of it has arrived:
    the rest would be read as frames.

    Source: RFC 6455 §4.2.1, §4.2.2 (426 names the supported version).
    """
    if method != "GET" or http10 or _has_body(fields):
        return problem(
            status=400,
            code="bad_handshake",
            title="A WebSocket handshake is a GET over HTTP/1.1, without a body",
            request_id=request_id,
            close=True,
        )
    versions = tuple(raw.values(fields, b"sec-websocket-version"))
    if versions != (b"13",):
        return problem(
            status=426,
            code="websocket_version",
            title="Only version 13 of the WebSocket protocol is spoken",
            request_id=request_id,
            fields=((b"Sec-WebSocket-Version", b"13"), (b"Upgrade", b"websocket")),
            close=True,
        )
    keys = tuple(raw.values(fields, b"sec-websocket-key"))
    if len(keys) != 1 or not _is_key(keys[0]):
        return problem(
            status=400,
            code="bad_handshake",
            title="Sec-WebSocket-Key is missing or malformed",
            request_id=request_id,
            close=True,
        )
    return None


def origin_allowed(fields: Fields, allowed: frozenset[str], *, by_cookie: bool) -> bool:
    """Return whether the page that sends this handshake may open a socket.

    Browsers send cookies with a handshake from any page, and CORS doesn't apply to
    it, so the Origin must be checked. Without one (the client isn't a browser), a
    session from a cookie is not enough.

    Source: RFC 6455 §10.2.
    """
    origins = tuple(raw.values(fields, b"origin"))
    if not origins:
        return not by_cookie
    return len(origins) == 1 and origins[0].decode("latin-1") in allowed


def accepted(status: int, fields: Fields) -> bool:
    """Return whether the upstream's reply opens a tunnel: a 101 to a WebSocket."""
    return status == 101 and _has_token(raw.values(fields, b"upgrade"), b"websocket")


def _has_token(values: Iterable[bytes], token: bytes) -> bool:
    return any(
        part.strip(b" \t").lower() == token
        for value in values
        for part in value.split(b",")
    )


def _has_body(fields: Fields) -> bool:
    lengths = raw.values(fields, b"content-length")
    return raw.first(fields, b"transfer-encoding") is not None or any(
        length != b"0" for length in lengths
    )


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
