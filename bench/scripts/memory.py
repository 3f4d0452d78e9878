"""Measure what clients can make one worker hold: `make memory`.

A gateway with one worker runs in separate processes, over loopback. Each case opens
connections that hold something in the worker, reads its resident memory (RSS) when no
more bytes move, closes the connections, and reads it again. RSS is Linux's; what the
kernel holds for the sockets isn't in it. docs/operations.md lists the bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import os
import platform
import random
import resource
import socket
import string
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp

from bench.parts import idle
from bench.rig import client
from bench.rig.processes import cpu, resident_bytes, running, worker_pids
from bench.rig.rivals import ONE_WORKER
from gateway.dev.core import ThreadedCore, serve_in_thread

_GATEWAY = str(Path(sys.executable).with_name("gateway"))
_MIB = 1024 * 1024
_BODY = 100 * _MIB
_HEAD = 62 * 1024
_SETTLED_S = 1.0
_AT_REST_S = 0.02
"""CPU that a worker with idle connections uses in a second, at most."""
_ORIGIN = "http://localhost:8000"

_CONFIG = """
version: 1
gateway:
  listen: "127.0.0.1:{port}"
  limits:
    max_connections: 20000
    head_timeout: 600
    body_idle_timeout: 600
    write_idle_timeout: 600
    keep_alive: 600
    {memory}
supertokens: {{connection_uri: "{core}"}}
services:
  app: {{targets: ["http://127.0.0.1:{upstream}"], timeouts: {timeouts}}}
  few: {{targets: ["http://localhost:{upstream}"], max_connections: 1,
         timeouts: {timeouts}}}
routes:
  - {{path: /, service: app, protected: false}}
  - {{path: /few, service: few, protected: false}}
  - {{path: /guarded, service: app}}
"""


class Figure(NamedTuple):
    """What one case took."""

    what: str
    number: int
    before: int
    held: int
    after: int

    @property
    def each(self) -> float:
        return (self.held - self.before) / self.number / 1024


class _Service(asyncio.Protocol):
    """A service that replies to GET, with an endless body at /large, and never reads
    the body of a POST."""

    def __init__(self) -> None:
        self._is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST"):
            self._transport.pause_reading()
        elif data.startswith(b"GET /large"):
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _BODY
            self._transport.write(head)
            self.resume_writing()
        else:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        while not (self._is_full or self._transport.is_closing()):
            self._transport.write(_PIECE)


_PIECE = bytes(256 * 1024)


class Rig:
    """A gateway, its worker's memory, and the connections that a case has opened."""

    def __init__(self, port: int, worker: int, core: str) -> None:
        self.port = port
        self.core = core
        self._worker = worker
        self._open: list[socket.socket] = []

    @property
    def memory(self) -> int:
        return resident_bytes(self._worker)

    def settled(self) -> int:
        """Return the memory once the worker has done nothing for a second."""
        used = -1.0
        while (now := cpu([self._worker]).total_s) - used > _AT_REST_S:
            used = now
            time.sleep(_SETTLED_S)
        return self.memory

    def dial(self, receive_bytes: int | None = None) -> socket.socket:
        if receive_bytes is None:
            sock = client.dial(self.port)
        else:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.connect(("127.0.0.1", self.port))
        self._open.append(sock)
        return sock

    def close(self) -> None:
        for sock in self._open:
            sock.close()
        self._open.clear()


def pour(socks: Iterable[socket.socket], pieces: Iterator[bytes]) -> None:
    """Send as much as is taken, until nobody has taken anything for a second."""
    left = dict.fromkeys(socks, b"")
    for sock in left:
        sock.setblocking(False)
    since = time.monotonic()
    while left and time.monotonic() - since < _SETTLED_S:
        for sock in tuple(left):
            data = left[sock] or next(pieces)
            try:
                sent = sock.send(data)
            except BlockingIOError:
                left[sock] = data
                continue
            except ConnectionError:
                del left[sock]
                continue
            left[sock] = data[sent:]
            since = time.monotonic()


# --- the cases -------------------------------------------------------------------


def idle_connections(rig: Rig, count: int) -> None:
    for _ in range(count):
        assert client.ask(rig.dial(), client.head(rig.port)).status == 200


def _head() -> bytes:
    field = b"X-A: " + b"a" * 8000 + b"\r\n"
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + field * (_HEAD // len(field) + 1)
    return head[:_HEAD]


def heads(rig: Rig, count: int) -> None:
    """Send 62 KB of a head at once."""
    for _ in range(count):
        with contextlib.suppress(ConnectionError):  # cut, or closed: see --memory
            rig.dial().sendall(_head())


def heads_in_pieces(rig: Rig, count: int) -> None:
    """Send the same, 4 KB of each in turn."""
    socks = [rig.dial() for _ in range(count)]
    data = _head()
    for at in range(0, len(data), 4096):
        for sock in socks:
            sock.sendall(data[at : at + 4096])


def heads_in_crumbs(rig: Rig, count: int) -> None:
    """Send 1,500 bytes of a head, 10 bytes of each in turn."""
    socks = [rig.dial() for _ in range(count)]
    data = _head()
    for at in range(0, 1500, 10):
        for sock in socks:
            sock.sendall(data[at : at + 10])


def _upload(path: str, more: str) -> bytes:
    return client.head(0, path, method="POST", more=more)


def _forever(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def uploads(rig: Rig, count: int, path: str = "/", size: int = _BODY) -> None:
    """Send bodies with a length to a service that doesn't read."""
    socks = [rig.dial() for _ in range(count)]
    for sock in socks:
        sock.sendall(_upload(path, f"Content-Length: {size}\r\n"))
    pour(socks, _forever(bytes(65536)))


def chunked_uploads(rig: Rig, count: int) -> None:
    socks = [rig.dial() for _ in range(count)]
    for sock in socks:
        sock.sendall(_upload("/", "Transfer-Encoding: chunked\r\n"))
    pour(socks, _forever(b"10000\r\n%b\r\n" % bytes(65536)))


def small_chunked_uploads(rig: Rig, count: int) -> None:
    socks = [rig.dial() for _ in range(count)]
    for sock in socks:
        sock.sendall(_upload("/few", "Transfer-Encoding: chunked\r\n"))
    pour(socks, _forever(b"2\r\naa\r\n" * 2048))


def waiting_uploads(rig: Rig, count: int) -> None:
    """Send bodies to a service whose only place is taken."""
    uploads(rig, count, "/few")


def auth_bodies(rig: Rig, count: int) -> None:
    """Send all but the last KiB of the largest body to SuperTokens' API."""
    body = bytes(_MIB - 1024)
    for _ in range(count):
        more = f"Content-Length: {_MIB}\r\nContent-Type: application/json\r\n"
        rig.dial().sendall(_upload("/auth/signin", more) + body)


def readers(rig: Rig, count: int) -> None:
    """Ask for a reply of 100 MiB, and don't read it."""
    for _ in range(count):
        rig.dial(4096).sendall(client.head(rig.port, "/large"))


def pipelined(rig: Rig, count: int) -> None:
    """Send requests behind one that waits for its service."""
    head = _upload("/", f"Content-Length: {_BODY}\r\n")
    socks = [rig.dial() for _ in range(count)]
    for sock in socks:
        sock.sendall(client.head(rig.port, "/large"))
    pour(socks, _forever(head))


def _claims(size: int) -> dict[str, object]:
    """Return claims of about *size* bytes that aren't passed on to services."""
    letters = random.Random(size)  # noqa: S311 - claims, not secrets
    words: list[str] = []
    while 11 * len(words) < size:  # with quotes and a comma
        words.append("".join(letters.choices(string.ascii_lowercase, k=8)))
    return {
        "iss": f"{_ORIGIN}/auth",
        "st-role": {"v": ["member"], "t": 1},
        "st-perm": {"v": [], "t": 1},
        "data": words,
    }


async def _tokens(core: str, count: int, size: int) -> list[str]:
    """Return *count* access tokens with *size* bytes of claims."""
    async with aiohttp.ClientSession(headers={"cdi-version": "5.4"}) as http:

        async def one(number: int) -> str:
            session = {
                "userId": f"user-{number}",
                "userDataInJWT": _claims(size),
                "userDataInDatabase": {},
                "enableAntiCsrf": False,
            }
            async with http.post(f"{core}/recipe/session", json=session) as reply:
                return str((await reply.json())["accessToken"]["token"])

        return [await one(number) for number in range(count)]


def tokens(size: int) -> Callable[[Rig, int], None]:
    """Show *count* tokens with *size* bytes of claims, once each."""

    def show(rig: Rig, count: int) -> None:
        made = asyncio.run(_tokens(rig.core, count, size))
        print(f"… a token has {len(made[0])} characters", file=sys.stderr)
        with client.connected(rig.port) as sock:
            for token in made:
                head = client.head(rig.port, "/guarded", token=token)
                answer = client.ask(sock, head)
                assert answer.status == 200, answer

    return show


CASES: dict[str, tuple[str, Callable[[Rig, int], None], int]] = {
    "idle": ("idle connections, each after one reply", idle_connections, 1000),
    "heads": ("62 KB of a head, at once", heads, 1000),
    "pieces": ("62 KB of a head, in pieces of 4 KB", heads_in_pieces, 1000),
    "crumbs": ("1,500 bytes of a head, in pieces of 10", heads_in_crumbs, 1000),
    "uploads": ("uploads that the service doesn't read", uploads, 100),
    "chunked": ("the same, in chunks of 64 KiB", chunked_uploads, 100),
    "tiny": ("uploads in chunks of 2 bytes that wait", small_chunked_uploads, 100),
    "waiting": ("uploads that wait for a place", waiting_uploads, 200),
    "auth": ("1 MiB bodies to /auth, all but the end", auth_bodies, 200),
    "readers": ("replies of 100 MiB that aren't read", readers, 100),
    "pipelined": ("requests behind such a reply", pipelined, 100),
    "tokens": ("usual tokens", tokens(60), 2000),
    "large": ("tokens of 14 KB", tokens(10_000), 1000),
}


@contextlib.contextmanager
def started(
    folder: Path, memory: str, upstream: int, core: ThreadedCore
) -> Iterator[Rig]:
    """Yield a warm gateway with one worker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    config = folder / "routes.yaml"
    limit = f"memory: {memory}" if memory else ""
    config.write_text(
        _CONFIG.format(
            port=port,
            upstream=upstream,
            core=core.url,
            memory=limit,
            timeouts="{connect: 600, idle: 600, response: 600}",
        )
    )
    with running(
        [_GATEWAY, "serve", "-c", str(config), "--log-format", "text"],
        core=sorted(os.sched_getaffinity(0)),
        port=port,
        log=folder / "gateway.log",
        environ=ONE_WORKER,
    ) as pid:
        (token,) = asyncio.run(_tokens(core.url, 1, 60))
        for _ in range(200):
            for path in ("/", "/guarded"):
                with client.connected(port) as sock:
                    head = client.head(port, path, token=token)
                    assert client.ask(sock, head).status == 200
        (worker,) = worker_pids(pid)
        yield Rig(port, worker, core.url)


def _serve(started_at: Callable[[int], None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        # Otherwise the kernel would take megabytes of each upload.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.bind(("127.0.0.1", 0))
        server = await loop.create_server(_Service, sock=sock, backlog=1024)
        started_at(sock.getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def measure(names: Iterable[str], memory: str) -> Iterator[Figure]:
    """Yield the figures, each case with a gateway of its own."""
    ready, ports = threading.Event(), list[int]()

    def note(port: int) -> None:
        ports.append(port)
        ready.set()

    threading.Thread(target=_serve, args=(note,), daemon=True).start()
    ready.wait()
    with serve_in_thread() as core:
        for name in names:
            what, run, count = CASES[name]
            with (
                tempfile.TemporaryDirectory() as folder,
                started(Path(folder), memory, ports[0], core) as rig,
            ):
                count = idle.affordable(count)
                before = rig.settled()
                run(rig, count)
                held = rig.settled()
                rig.close()
                after = rig.settled()
            yield Figure(what, count, before, held, after)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.memory", description=__doc__
    )
    parser.add_argument("cases", nargs="*", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--memory", default="", help="gateway.limits.memory")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {platform.system()} {platform.machine()},"
        f" Python {platform.python_version()}\n"
    )
    print(
        "| what | number | before, MiB | held, MiB | each, KiB | afterwards, MiB |\n"
        "|---|---|---|---|---|---|"
    )
    for figure in measure(given.cases or CASES, given.memory):
        before, held, after = (
            f"{size / _MIB:.1f}" for size in (figure.before, figure.held, figure.after)
        )
        print(
            f"| {figure.what} | {figure.number} | {before} | {held}"
            f" | {figure.each:.1f} | {after} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
