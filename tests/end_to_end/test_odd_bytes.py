"""Unusual bytes in the fields that the gateway decodes never cause a 5xx."""

from __future__ import annotations

import asyncio
import json

import pytest
from faults import FaultUpstream
from stack import Gateway, Start

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0", trusted_proxies: [127.0.0.0/8]}
supertokens:
  connection_uri: "${CORE}"
  api_domain: http://localhost:8000
  website_domain: http://localhost:8000
  recipes: {emailpassword: {}}
services:
  echo: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /public, service: echo, protected: false}
  - {path: /private, service: echo}
  - {path: /checked, service: echo, session: {check_database: always}}
"""

BYTES = b'\x00\x01\t\n\r\x1f "%,;=\\\x7f\x80\xa0\xc3\xff'
"""Controls, separators and non-ASCII bytes, which alone are never valid UTF-8."""

Fields = tuple[tuple[str, str], ...]

PREFLIGHT: Fields = (
    ("Origin", "http://localhost:8000"),
    ("Access-Control-Request-Method", "GET"),
    ("Access-Control-Request-Headers", "x-a,x-b"),
)
WEBSOCKET: Fields = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Protocol", "chat"),
    ("Origin", "http://localhost:8000"),
)
READ: Fields = (
    ("Authorization", "Bearer a.b.c"),
    ("Cookie", "sAccessToken=a.b.c"),
    ("anti-csrf", "x1"),
    ("rid", "session"),
    ("st-auth-mode", "header"),
    ("Origin", "http://localhost:8000"),
    ("X-Forwarded-For", "192.0.2.1"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "a.example"),
    ("X-Request-Id", "abcdef"),
    ("Accept-Encoding", "gzip"),
)
API: Fields = (
    *READ[:6],
    ("Content-Type", "application/json"),
    ("fdi-version", "1.17"),
    ("Accept-Language", "en"),
)
SIGN_IN = json.dumps({"formFields": [{"id": "email", "value": "a@b.example"}]}).encode()

CASES: dict[str, tuple[str, Fields, bytes]] = {
    "preflight": ("OPTIONS /public", PREFLIGHT, b""),
    "preflight of the API": ("OPTIONS /auth/signin", PREFLIGHT, b""),
    "public": ("GET /public", READ, b""),
    "private": ("GET /private", READ, b""),
    "checks the database": ("GET /checked", READ, b""),
    "user": ("GET /user", READ, b""),
    "WebSocket": ("GET /public", WEBSOCKET, b""),
    "sign-in": ("POST /auth/signin", API, SIGN_IN),
    "refresh": ("POST /auth/session/refresh", API, b""),
    "exists": ("GET /auth/signup/email/exists?email=a@b.example", API, b""),
}


async def status(gateway: Gateway, data: bytes) -> int:
    """Send *data* on a connection of its own; return the status of the reply."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
    return int(head[9:12])


@pytest.mark.parametrize("name", CASES)
async def test_an_odd_byte_is_never_a_5xx(
    start: Start, upstream: FaultUpstream, name: str
) -> None:
    """Each byte is put into the middle of each value in turn; the rest stays valid."""
    gateway = await start(ROUTES)
    line, fields, body = CASES[name]
    for odd, (changed, _) in ((o, f) for o in BYTES for f in fields):
        head = [f"{line} HTTP/1.1".encode(), b"Host: localhost:8000"]
        for field, value in fields:
            encoded = value.encode()
            middle = len(encoded) // 2
            if field == changed:
                encoded = encoded[:middle] + bytes([odd]) + encoded[middle:]
            head.append(field.encode() + b": " + encoded)
        head.append(b"Content-Length: %d" % len(body))
        data = b"\r\n".join(head) + b"\r\n\r\n" + body
        assert await status(gateway, data) < 500, (changed, odd)
    reasons = {record.reason for record in gateway.records.all}
    assert "internal_error" not in reasons
