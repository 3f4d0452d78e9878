"""How other HTTP parsers read what the gateway forwarded: all must read the same.

Five that have nothing in common: llhttp (httptools), h11, the standard library's
http.server, aiohttp's in C and aiohttp's in Python. A sixth, `strict`, is the rig's.
"""

from __future__ import annotations

import asyncio
import http.client
import io
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from unittest import mock

import h11
import httptools
from aiohttp import http_parser, streams
from aiohttp.base_protocol import BaseProtocol


@dataclass(frozen=True)
class Read:
    """One request as a parser understood it."""

    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    """Names in lower case, sorted; values without surrounding blanks."""
    body: bytes


Reading = tuple[Read, ...] | str
"""All requests in the bytes, or why they were refused."""


def _fields(pairs: Any) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(sorted((name.lower(), value.strip(b" \t")) for name, value in pairs))


def by_httptools(data: bytes) -> Reading:
    found: list[Read] = []

    class Protocol:
        def on_message_begin(self) -> None:
            self.url = b""
            self.pairs: list[tuple[bytes, bytes]] = []
            self.body = b""

        def on_url(self, url: bytes) -> None:
            self.url += url

        def on_header(self, name: bytes, value: bytes) -> None:
            self.pairs.append((name, value))

        def on_body(self, body: bytes) -> None:
            self.body += body

        def on_message_complete(self) -> None:
            found.append(
                Read(parser.get_method(), self.url, _fields(self.pairs), self.body)
            )

    parser = httptools.HttpRequestParser(Protocol())
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as exc:
        return type(exc).__name__
    return tuple(found)


def by_h11(data: bytes) -> Reading:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    found: list[Read] = []
    head: h11.Request | None = None
    body = b""
    try:
        while True:
            match connection.next_event():
                case h11.Request() as head:
                    body = b""
                case h11.Data(data=piece):
                    body += bytes(piece)
                case h11.EndOfMessage():
                    assert head is not None
                    found.append(
                        Read(head.method, head.target, _fields(head.headers), body)
                    )
                case _:
                    return tuple(found)
    except h11.RemoteProtocolError as exc:
        return type(exc).__name__


class _Stdlib(BaseHTTPRequestHandler):
    """http.server's parser; framing as its users write it: Content-Length."""

    raw_requestline: bytes

    def __init__(self, data: bytes) -> None:
        self.rfile = io.BytesIO(data)
        self.wfile = io.BytesIO()
        self.client_address = ("test", 0)
        self.refused = ""

    def send_error(self, code: int, *args: Any, **kwargs: Any) -> None:
        self.refused = f"status {code}"


@mock.patch.object(http.client, "_MAXHEADERS", 1000)  # 100, which is the client's limit
def by_stdlib(data: bytes) -> Reading:
    found: list[Read] = []
    handler = _Stdlib(data)
    while True:
        handler.raw_requestline = handler.rfile.readline(65537)
        if not handler.raw_requestline:
            return tuple(found)
        if not handler.parse_request():
            return handler.refused or "refused"
        pairs = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in handler.headers.items()
        ]
        if handler.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            try:
                while size := int(handler.rfile.readline(), 16):
                    body += handler.rfile.read(size)
                    handler.rfile.readline()
            except ValueError:
                return "bad chunk"
            handler.rfile.readline()
        else:
            try:
                length = int(handler.headers.get("Content-Length", 0))
            except ValueError:
                return "bad length"
            body = handler.rfile.read(length)
        method, target = handler.requestline.split(" ")[:2]
        # http.server folds a leading `//`; the gateway never sends one.
        found.append(
            Read(
                method.encode("latin-1"),
                target.encode("latin-1"),
                _fields(pairs),
                body,
            )
        )


_LOOP = mock.create_autospec(asyncio.AbstractEventLoop, instance=True)


def _by_aiohttp(parser_class: Any) -> Callable[[bytes], Reading]:
    def read(data: bytes) -> Reading:
        protocol = BaseProtocol(_LOOP)
        parser = parser_class(
            protocol,
            _LOOP,
            2**16,
            max_line_size=2**20,
            max_field_size=2**20,
            max_headers=1000,
            auto_decompress=False,
        )
        protocol._parser = parser
        try:
            messages, _, _ = parser.feed_data(data)
            return tuple(
                Read(
                    message.method.encode(),
                    message.path.encode("utf-8", "surrogateescape"),
                    _fields(message.raw_headers),
                    _body(payload),
                )
                for message, payload in messages
            )
        except Exception as exc:  # noqa: BLE001 - whatever it refuses with
            return type(exc).__name__

    return read


def _body(payload: streams.StreamReader) -> bytes:
    return (
        b""
        if isinstance(payload, streams.EmptyStreamReader)
        else (payload.read_nowait() if payload.is_eof() else b"(no end)")
    )


READERS: dict[str, Callable[[bytes], Reading]] = {
    "httptools": by_httptools,
    "h11": by_h11,
    "http.server": by_stdlib,
    "aiohttp (C)": _by_aiohttp(http_parser.HttpRequestParser),
    "aiohttp (Python)": _by_aiohttp(http_parser.HttpRequestParserPy),
}


def readings(data: bytes) -> dict[str, Reading]:
    """Return how each parser reads *data*, by its name."""
    return {name: read(data) for name, read in READERS.items()}
