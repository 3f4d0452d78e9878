"""PURE. The opening handshake of a WebSocket, from fields alone."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Container, Iterable, Iterator

from gateway.http import fields as raw
from gateway.http.fields import Fields
from gateway.responses import Response, problem

UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
"""The hop-by-hop fields that open a WebSocket, in both directions.

Source: RFC 9110 §7.8.
"""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


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


def origin_allowed(fields: Fields, allowed: Container[str], *, by_cookie: bool) -> bool:
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


def flaw_of_switch(request: Fields, reply: Fields) -> str | None:
    """Return why a 101 doesn't open the WebSocket that was asked for; None: it does.

    *request* and *reply* are the fields of the client's handshake, which was not
    refused, and of the upstream's 101. A client must fail such a connection, but some
    don't; and a service that sends it may not speak the protocol.

    Source: RFC 6455 §4.1 (the client's checks), §4.2.2; RFC 9110 §7.6.1.
    """
    upgrades = tuple(raw.values(reply, b"upgrade"))
    if len(upgrades) != 1 or upgrades[0].lower() != b"websocket":
        return "Upgrade is not exactly websocket"
    listed = frozenset(_elements(raw.values(reply, b"connection")))
    if b"upgrade" not in {name.lower() for name in listed}:
        return "Connection does not list Upgrade"
    if any(name.lower().startswith(b"sec-websocket-") for name in listed):
        return "Connection lists a field of the handshake"
    accepts = tuple(raw.values(reply, b"sec-websocket-accept"))
    if len(accepts) != 1:
        return f"{len(accepts)} Sec-WebSocket-Accept fields"
    key = raw.first(request, b"sec-websocket-key") or b""
    if accepts[0] != accept_value(key):
        return "Sec-WebSocket-Accept does not match the key"
    selected = tuple(raw.values(reply, b"sec-websocket-protocol"))
    if len(selected) > 1:
        return "several Sec-WebSocket-Protocol fields"
    if not set(selected) <= set(
        _elements(raw.values(request, b"sec-websocket-protocol"))
    ):
        return "a subprotocol that the client did not offer"
    if not set(_extensions(reply)) <= set(_extensions(request)):
        return "an extension that the client did not offer"
    return None


def accept_value(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key.

    Source: RFC 6455 §4.2.2, item 5.4.
    """
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def _extensions(fields: Fields) -> Iterator[bytes]:
    """Yield the name of each extension, without its parameters."""
    for element in _elements(raw.values(fields, b"sec-websocket-extensions")):
        yield element.partition(b";")[0].rstrip(b" \t")


def _elements(values: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the elements of a list in one or more fields; empty ones don't count.

    Source: RFC 9110 §5.6.1.
    """
    for value in values:
        for part in value.split(b","):
            if element := part.strip(b" \t"):
                yield element


def _has_token(values: Iterable[bytes], token: bytes) -> bool:
    return any(element.lower() == token for element in _elements(values))


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
