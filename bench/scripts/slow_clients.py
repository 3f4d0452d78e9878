"""Measure what slow clients cost an innocent one: `make slow-clients`.

Each proxy runs with one worker and its usual limits, in front of an upstream in a
process of its own. Slow clients upload 100 KB at 400 bytes a second, or read a large
reply at 1 KB a second. They come from one address or from as many as there are. After
some seconds, an innocent client asks for a small reply fifty times a second, each time
on a new connection.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import uvloop

from bench.rig import stage
from bench.rig.innocent import HEADINGS, RULE, ask, in_process
from bench.rig.plain import NAMES, started
from bench.rig.processes import DidNotStart

_SIZE = 100_000
"""Bytes of an upload: more than the gateway's `request.buffer`."""
_UPLOAD = (
    b"POST /public/upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % _SIZE
)
_DOWNLOAD = b"GET /public/large HTTP/1.1\r\nHost: a\r\n\r\n"
_LARGE_BYTES = 16 << 20
"""Bytes of a large reply: more than all buffers on its way."""
_PIECE = b"x" * 65536
_TICK_S = 1.0
_READ_BYTES = 1024
"""What a slow reader takes each tick."""
_SENT_BYTES = 400
"""What a slow sender sends each tick."""
_WARM_UP_S = 8.0
"""Until then all slow clients hold what they can get."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Slow clients, all of one kind."""

    name: str
    number: int
    uploads: bool
    one_address: bool

    @property
    def label(self) -> str:
        addresses = "one address" if self.one_address else "as many addresses"
        return f"{self.number} {self.name}, {addresses}"


_CROWDS = (
    Crowd("slow uploads", 260, uploads=True, one_address=True),
    Crowd("slow uploads", 260, uploads=True, one_address=False),
    Crowd("slow uploads", 1300, uploads=True, one_address=False),
    Crowd("slow readers", 300, uploads=False, one_address=True),
    Crowd("slow readers", 300, uploads=False, one_address=False),
)


class _Service(asyncio.Protocol):
    """The upstream: a small reply, a large one, or one after a whole upload."""

    def __init__(self) -> None:
        self._transport = cast("asyncio.Transport", None)
        self._left = 0
        """Bytes of the upload that are still to come."""
        self._unsent = 0
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._left and data.startswith(b"POST "):
            self._left = _SIZE
            data = data.partition(b"\r\n\r\n")[2]
        if self._left:
            self._left -= len(data)
            if self._left > 0:
                return
        if data.startswith(b"GET /public/large"):
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
            self._transport.write(head % _LARGE_BYTES)
            self._unsent = _LARGE_BYTES
            self._send()
        else:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def _send(self) -> None:
        while self._unsent and not self._is_paused:
            self._unsent -= len(_PIECE)
            self._transport.write(_PIECE)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._send()


async def _serve(listening: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(
        _Service, sock=listening, backlog=4096
    )
    await server.serve_forever()


async def _crowd(crowd: Crowd, port: int) -> None:
    await asyncio.gather(
        *(_slow(crowd, port, number) for number in range(crowd.number))
    )


async def _slow(crowd: Crowd, port: int, number: int) -> None:
    """Be a slow client for ever: one that is cut comes again."""
    loop = asyncio.get_running_loop()
    host = (
        "127.0.1.1"
        if crowd.one_address
        else f"127.1.{number // 200}.{number % 200 + 1}"
    )
    await asyncio.sleep(number / crowd.number)
    while True:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            sock.bind((host, 0))
            await loop.sock_connect(sock, ("127.0.0.1", port))
            if crowd.uploads:
                await loop.sock_sendall(sock, _UPLOAD)
                for _ in range(_SIZE // _SENT_BYTES):
                    await loop.sock_sendall(sock, b"x" * _SENT_BYTES)
                    with contextlib.suppress(BlockingIOError):
                        if not sock.recv(4096):
                            break
                    await asyncio.sleep(_TICK_S)
            else:
                await loop.sock_sendall(sock, _DOWNLOAD)
                while await loop.sock_recv(sock, _READ_BYTES):  # noqa: ASYNC110 - its pace
                    await asyncio.sleep(_TICK_S)
        except OSError:
            pass
        finally:
            sock.close()
        await asyncio.sleep(_TICK_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each proxy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each crowd")
    parser.add_argument("--only", default="", help="crowds with this in their names")
    parser.add_argument(
        "--proxies", default=",".join(NAMES), help="proxies to measure, by commas"
    )
    options = parser.parse_args(arguments)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    names = options.proxies.split(",")
    if names != ["gateway"]:
        stage.install()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(4096)
        upstream = int(listening.getsockname()[1])
        with in_process(lambda: uvloop.run(_serve(listening))):
            for name in names:
                _measure(name, upstream, options.seconds, options.only)
    return 0


def _measure(name: str, upstream: int, seconds: float, only: str) -> None:
    """Print the table of one proxy."""
    print(
        f"\n{name}: the innocent's times in ms\n\n| crowd | {HEADINGS} |\n|---|{RULE}|"
    )
    for crowd in (None, *_CROWDS):
        if crowd is not None and only not in crowd.label:
            continue
        with contextlib.ExitStack() as stack:
            try:
                port = stack.enter_context(started(name, upstream))
            except DidNotStart as error:
                print(f"| {name} did not start: {error} |", flush=True)
                return
            if port is None:
                print(f"| {name} isn't installed |", flush=True)
                return
            if crowd is not None:
                these, where = crowd, port
                stack.enter_context(
                    in_process(lambda: uvloop.run(_crowd(these, where)))  # noqa: B023 - ends with the block
                )
                time.sleep(_WARM_UP_S)
            times = ask(port, seconds, interval_s=0.02, fresh=True)
        label = "nobody" if crowd is None else crowd.label
        print(f"| {label} | {times.cells()} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
