"""Measure what one busy client costs another one: `make fairness`.

The gateway runs with one worker, in front of an upstream in a process of its own. An
innocent client sends a request every few milliseconds on one connection. Meanwhile,
other connections send what takes a proxy the most work for each byte: pipelined
requests, tiny frames of WebSockets, tiny chunks, heads byte by byte. The table has the
innocent's times with and without each of them. `--rivals` adds nginx and HAProxy, if
they are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import uvloop

from bench.rig.innocent import HEADINGS, REQUEST, RULE, ask, in_process
from bench.rig.plain import NAMES, started

_BLOCK = 64 * 1024
"""Bytes in one write of an attacker."""

_UPGRADE = (
    b"GET /public/socket HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_UPLOAD = (
    b"POST /public/upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Attack:
    """What an attacker's connection sends: *opening* once, then *piece* for ever."""

    name: str
    piece: bytes
    opening: bytes = b""
    is_slow: bool = False
    """Each piece is a write of its own; when the connection ends, it is made anew."""


_ATTACKS = (
    Attack("pipelined requests, 404", b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n"),
    Attack("pipelined requests, public", REQUEST),
    Attack("2-byte frames", b"\x82\x00", _UPGRADE),
    Attack("1-byte fragments, masked", b"\x00\x81maskx", _UPGRADE),
    Attack("4-byte frames, long form", b"\x82\x7e\x00\x00", _UPGRADE),
    Attack("1-byte chunks of a request", b"1\r\nx\r\n", _UPLOAD),
    Attack("chunks of CRLF of a request", b"2\r\n\r\n\r\n", _UPLOAD),
    Attack(
        "1-byte chunks of a reply", b"", b"GET /public/drip HTTP/1.1\r\nHost: a\r\n\r\n"
    ),
    Attack("empty lines", b"\r\n", is_slow=False),
    Attack("heads byte by byte", b"x", b"GET /public HTTP/1.1\r\nX: ", is_slow=True),
)


class _Service(asyncio.Protocol):
    """The upstream: a small reply, an endless one, or nothing after an upgrade."""

    def __init__(self) -> None:
        self._transport = cast("asyncio.Transport", None)
        self._is_sink = False
        self._is_dripping = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._is_sink:
            return
        if data.startswith(b"GET /public/socket"):
            self._is_sink = True
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n"
            )
        elif data.startswith(b"POST "):
            self._is_sink = True
        elif data.startswith(b"GET /public/drip"):
            self._is_sink = self._is_dripping = True
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            self._drip()
        else:
            reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            self._transport.write(reply * data.count(b"\r\n\r\n"))

    def _drip(self) -> None:
        while not self._paused and not self._transport.is_closing():
            self._transport.write(b"1\r\nx\r\n" * (_BLOCK // 6))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._is_dripping:
            asyncio.get_running_loop().call_soon(self._drip)


async def _serve(listening: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(_Service, sock=listening)
    await server.serve_forever()


async def _attack(attack: Attack, port: int, connections: int) -> None:
    await asyncio.gather(*(_attack_once(attack, port) for _ in range(connections)))


async def _attack_once(attack: Attack, port: int) -> None:
    """Send what *attack* has to send, as fast as it is taken, and read all replies."""
    piece = attack.piece
    if not attack.is_slow:
        piece *= _BLOCK // len(piece) if piece else 0
    while True:
        with contextlib.suppress(ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            reading = asyncio.create_task(_discard(reader))
            try:
                writer.write(attack.opening)
                if attack.opening == _UPGRADE:
                    await asyncio.sleep(0.2)
                while piece and not reading.done():
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                await reading
            finally:
                writer.transport.abort()
        await asyncio.sleep(0)


async def _discard(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(_BLOCK):
            pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each attack")
    parser.add_argument("--rivals", action="store_true", help="nginx and HAProxy, too")
    parser.add_argument("--only", default="", help="attacks with this in their names")
    options = parser.parse_args(arguments)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(256)
        upstream = int(listening.getsockname()[1])
        with in_process(lambda: uvloop.run(_serve(listening))):
            for name in NAMES[: 3 if options.rivals else 1]:
                _measure(name, upstream, options.seconds, options.only)
    return 0


def _measure(name: str, upstream: int, seconds: float, only: str) -> None:
    """Print the rows of one proxy."""
    for attack in (None, *_ATTACKS):
        for connections in (1, 20):
            if attack is None:
                if connections > 1:
                    continue
            elif only not in attack.name:
                continue
            with contextlib.ExitStack() as stack:
                port = stack.enter_context(started(name, upstream))
                if port is None:
                    print(f"{name} isn't installed", flush=True)
                    return
                ask(port, 0.5)
                label = "no attack"
                if attack is not None:
                    one, many, where = attack, connections, port
                    stack.enter_context(
                        in_process(lambda: uvloop.run(_attack(one, where, many)))  # noqa: B023 - ends with the block
                    )
                    time.sleep(0.7)
                    label = f"{attack.name} ({connections})"
                times = ask(port, seconds)
            if attack is None:
                print(f"\n{name}: the innocent's times in ms\n")
                print(f"| attack (connections) | {HEADINGS} |")
                print(f"|---|{RULE}|")
            print(f"| {label} | {times.cells()} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
