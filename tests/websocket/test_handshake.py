"""WebSocket handshakes: which are accepted, from which origin, and which replies."""

from __future__ import annotations

import pytest

from gateway import websocket
from gateway.http.fields import Field, Fields

KEY: Field = (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")
VERSION: Field = (b"Sec-WebSocket-Version", b"13")
UPGRADE: Field = (b"Upgrade", b"websocket")
CONNECTION: Field = (b"Connection", b"Upgrade")


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ((UPGRADE, CONNECTION), True),
        (((b"upgrade", b"WebSocket"), (b"connection", b"keep-alive, upgrade")), True),
        (((b"Upgrade", b"h2c, websocket"), CONNECTION), True),
        ((UPGRADE,), False),
        ((CONNECTION,), False),
        (((b"Upgrade", b"h2c"), CONNECTION), False),
        (((b"Upgrade", b"websockets"), CONNECTION), False),
        ((UPGRADE, (b"Connection", b"x-upgrade")), False),
    ],
)
def test_only_a_websocket_is_an_upgrade(fields: Fields, wanted: bool) -> None:
    """Other upgrades, such as h2c, are no WebSocket and are ignored (RFC 9110 §7.8)."""
    assert websocket.wants_upgrade(fields) is wanted


@pytest.mark.parametrize(
    ("method", "http10", "fields", "status"),
    [
        ("GET", False, (KEY, VERSION), None),
        ("POST", False, (KEY, VERSION), 400),
        ("GET", True, (KEY, VERSION), 400),
        ("GET", False, (KEY,), 426),
        ("GET", False, (KEY, (b"Sec-WebSocket-Version", b"8")), 426),
        ("GET", False, (KEY, VERSION, VERSION), 426),
        ("GET", False, (VERSION,), 400),
        ("GET", False, (VERSION, KEY, KEY), 400),
        ("GET", False, (VERSION, (b"Sec-WebSocket-Key", b"c2hvcnQ=")), 400),
        ("GET", False, (VERSION, (b"Sec-WebSocket-Key", b"\xff")), 400),
    ],
)
def test_invalid_handshakes_are_refused(
    method: str, http10: bool, fields: Fields, status: int | None
) -> None:
    """A handshake needs GET, HTTP/1.1, a key and version 13 (RFC 6455 §4.2.1).

    The reply to another version is 426 with the right one.
    """
    refused = websocket.refuse_handshake(method, fields, "id", http10=http10)
    assert (refused and refused.status) == status
    if status == 426:
        assert refused is not None
        assert (b"Sec-WebSocket-Version", b"13") in refused.fields


ALLOWED = frozenset({"https://app.example.com"})


@pytest.mark.parametrize(
    ("origins", "by_cookie", "allowed"),
    [
        ((b"https://app.example.com",), True, True),
        ((b"https://app.example.com.evil",), True, False),
        ((b"https://app.example.com/",), True, False),
        ((b"HTTPS://APP.EXAMPLE.COM",), True, False),
        ((b"null",), True, False),
        ((b"",), False, False),
        ((b"\xff",), True, False),
        ((b"https://app.example.com", b"https://app.example.com"), True, False),
        ((), True, False),
        ((), False, True),
    ],
)
def test_a_cookie_needs_an_allowed_origin(
    origins: tuple[bytes, ...], by_cookie: bool, allowed: bool
) -> None:
    """A session from a cookie needs an allowed Origin; any Origin must be allowed.

    Otherwise any page could open a WebSocket with the user's cookies (RFC 6455 §10.2).
    """
    fields = tuple((b"Origin", origin) for origin in origins)
    assert websocket.origin_allowed(fields, ALLOWED, by_cookie=by_cookie) is allowed


ACCEPT: Field = (b"Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
SWITCH = (UPGRADE, CONNECTION, ACCEPT)


def protocol(value: bytes) -> Field:
    return (b"Sec-WebSocket-Protocol", value)


def extension(value: bytes) -> Field:
    return (b"sec-websocket-extensions", value)


DEFLATE = extension(b"permessage-deflate; client_max_window_bits, x-a")


def test_the_accept_value_is_that_of_the_rfc() -> None:
    """RFC 6455 §1.3 has one key and its answer."""
    assert websocket.accept_value(KEY[1]) == ACCEPT[1]


@pytest.mark.parametrize(
    ("offered", "reply", "flaw"),
    [
        ((), SWITCH, None),
        (
            (),
            ((b"upgrade", b"WebSocket"), (b"connection", b"x, UPGRADE"), ACCEPT),
            None,
        ),
        ((), (CONNECTION, ACCEPT), "Upgrade"),
        ((), ((b"Upgrade", b"h2c"), CONNECTION, ACCEPT), "Upgrade"),
        ((), ((b"Upgrade", b"websocket, h2c"), CONNECTION, ACCEPT), "Upgrade"),
        ((), (UPGRADE, *SWITCH), "Upgrade"),
        ((), (UPGRADE, ACCEPT), "Connection"),
        ((), (UPGRADE, (b"Connection", b"close"), ACCEPT), "Connection"),
        ((), (UPGRADE, (b"Connection", b"x-upgrade"), ACCEPT), "Connection"),
        # The field would be removed, and the client would see a 101 without it.
        (
            (),
            (*SWITCH, (b"Connection", b"Sec-WebSocket-Accept")),
            "Connection lists a field",
        ),
        ((), (UPGRADE, CONNECTION), "0 Sec-WebSocket-Accept"),
        ((), (*SWITCH, ACCEPT), "2 Sec-WebSocket-Accept"),
        ((), (UPGRADE, CONNECTION, (ACCEPT[0], b"")), "match the key"),
        ((), (UPGRADE, CONNECTION, (ACCEPT[0], KEY[1])), "match the key"),
        ((), (UPGRADE, CONNECTION, (ACCEPT[0], ACCEPT[1].lower())), "match the key"),
        ((), (UPGRADE, CONNECTION, (ACCEPT[0], ACCEPT[1] + b", x")), "match the key"),
        ((protocol(b"v2, v1"),), SWITCH, None),
        ((protocol(b"v2, v1"),), (*SWITCH, protocol(b"v1")), None),
        ((protocol(b"v2"), protocol(b"v1")), (*SWITCH, protocol(b"v1")), None),
        ((), (*SWITCH, protocol(b"v1")), "subprotocol"),
        ((protocol(b"v1"),), (*SWITCH, protocol(b"V1")), "subprotocol"),
        ((protocol(b"v1"),), (*SWITCH, protocol(b"")), "subprotocol"),
        ((protocol(b"v2, v1"),), (*SWITCH, protocol(b"v2, v1")), "subprotocol"),
        (
            (protocol(b"v2, v1"),),
            (*SWITCH, protocol(b"v2"), protocol(b"v1")),
            "several Sec-WebSocket-Protocol",
        ),
        ((DEFLATE,), SWITCH, None),
        ((DEFLATE,), (*SWITCH, extension(b"permessage-deflate")), None),
        (
            (DEFLATE,),
            (*SWITCH, extension(b"permessage-deflate;server_max_window_bits=9")),
            None,
        ),
        ((DEFLATE,), (*SWITCH, extension(b"x-a ; b"), extension(b"")), None),
        ((), (*SWITCH, extension(b"permessage-deflate")), "extension"),
        ((DEFLATE,), (*SWITCH, extension(b"x-a, x-b")), "extension"),
        ((DEFLATE,), (*SWITCH, extension(b"x-a"), extension(b"x-b")), "extension"),
        ((DEFLATE,), (*SWITCH, extension(b"; x-a")), "extension"),
    ],
)
def test_a_101_opens_the_socket_that_was_asked_for_or_none(
    offered: Fields, reply: Fields, flaw: str | None
) -> None:
    """RFC 6455 §4.1: what a client must check, as some clients don't."""
    found = websocket.flaw_of_switch((UPGRADE, CONNECTION, KEY, *offered), reply)
    assert (found is None) == (flaw is None)
    assert (flaw or "") in (found or "")
