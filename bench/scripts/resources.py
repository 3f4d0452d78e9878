"""Measure the gateway's memory, and how soon it ends requests: `make resources`.

Four figures of a gateway in a separate process, over loopback, each with a target: the
time from a client's disconnect to the end of the upstream's connection, the requests
that a drain loses, the memory of a large body with a slow peer, and the memory of idle
connections. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import os
import platform
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench.parts import idle as connections
from bench.rig.processes import resident_bytes, worker_pids
from bench.rig.rivals import ONE_WORKER

_ROOT = Path(__file__).parents[2]
_GATEWAY = str(Path(sys.executable).with_name("gateway"))
_MIB = 1024 * 1024
_PIECE = 256 * 1024
_START_S = 30.0

_CONFIG = """
version: 1
gateway:
  listen: "127.0.0.1:{port}"
  drain_timeout: 20
  limits: {{max_body_size: 8589934592, max_connections: 20000}}
supertokens: {{connection_uri: "http://127.0.0.1:9"}}
routes:
  - {{path: /, upstream: "http://127.0.0.1:{upstream}", protected: false}}
"""
"""A public route, so that no core is needed: verification isn't measured here."""


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    value: str
    target: str
    met: bool


# --- the two ends --------------------------------------------------------------


@dataclass
class Gateway:
    """A running gateway."""

    process: asyncio.subprocess.Process
    port: int

    @property
    def memory(self) -> int:
        """Resident bytes of the worker now; the process itself only supervises it."""
        return sum(map(resident_bytes, worker_pids(self.process.pid)))


class Upstream:
    """A service that handles each request with *behaviour*."""

    def __init__(self) -> None:
        self.behaviour: Callable[
            [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]
        ] = answer
        self.port = 0

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await self.behaviour(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reply with 200."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@asynccontextmanager
async def running(folder: Path, upstream: Upstream) -> AsyncIterator[Gateway]:
    """Yield a warm gateway in front of *upstream*, which runs during the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    config = folder / "routes.yaml"
    config.write_text(_CONFIG.format(port=port, upstream=upstream.port))
    with (folder / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            _GATEWAY,
            *("serve", "-c", str(config)),
            stdout=log,
            stderr=log,
            env={**os.environ, **ONE_WORKER},
        )
    try:
        async with asyncio.timeout(_START_S):
            while not await _answers(port):
                if process.returncode is not None:
                    raise SystemExit((folder / "gateway.log").read_text())
                await asyncio.sleep(0.05)
        for _ in range(200):
            assert await _answers(port)
        yield Gateway(process, port)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _answers(port: int) -> bool:
    try:
        reader, writer = await dial(port)
    except ConnectionError:
        return False
    try:
        writer.write(get())
        return await status(reader) == 200
    finally:
        writer.close()


async def dial(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection to the gateway."""
    return await asyncio.open_connection("127.0.0.1", port)


def get(method: str = "GET", more: str = "") -> bytes:
    """Return a request's head."""
    return f"{method} /a HTTP/1.1\r\nHost: a\r\n{more}\r\n".encode()


async def status(reader: asyncio.StreamReader) -> int:
    """Read a reply with a Content-Length; return its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))
    return int(head[9:12])


# --- the figures ---------------------------------------------------------------


async def aborts(gateway: Gateway, upstream: Upstream) -> AsyncIterator[Figure]:
    """Measure from a client's RST to the end of its request's upstream connection."""
    for what, request, reply in (
        ("upload", get("POST", "Content-Length: 1000000\r\n") + bytes(1000), b""),
        ("download", get(), b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nbegun"),
    ):
        began = asyncio.Event()
        ended: asyncio.Queue[float] = asyncio.Queue()

        async def hold(
            reader: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            *,
            reply: bytes = reply,
            began: asyncio.Event = began,
            ended: asyncio.Queue[float] = ended,
        ) -> None:
            writer.write(reply)
            began.set()
            try:
                while await reader.read(65536):
                    pass
            finally:
                ended.put_nowait(time.perf_counter())

        upstream.behaviour = hold
        took = []
        for _ in range(100):
            began.clear()
            reader, writer = await dial(gateway.port)
            writer.write(request)
            await began.wait()
            if reply:
                await reader.readuntil(b"begun")
            sock = writer.get_extra_info("socket")
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            at = time.perf_counter()
            writer.transport.abort()
            took.append((await ended.get() - at) * 1000)
        p99 = statistics.quantiles(took, n=100)[98]
        yield Figure(
            f"client gone in its {what} → upstream cancelled (100 times)",
            f"p50 {statistics.median(took):.1f} ms, p99 {p99:.1f} ms",
            "p99 ≤ 100 ms",
            p99 <= 100,
        )


async def bodies(
    gateway: Gateway, upstream: Upstream, size: int, rate: int
) -> AsyncIterator[Figure]:
    """Measure the growth of memory while *size* bytes pass at *rate* a second."""
    upstream.behaviour = answer
    await _answers(gateway.port)
    piece = bytes(_PIECE)

    async def pour(writer: asyncio.StreamWriter) -> None:
        for _ in range(size // _PIECE):
            writer.write(piece)
            await writer.drain()

    async def sip(reader: asyncio.StreamReader) -> None:
        began, left = time.monotonic(), size
        while left:
            data = await reader.read(_PIECE)
            assert data, "the body was cut"
            left -= len(data)
            ahead = (size - left) / rate - (time.monotonic() - began)
            if ahead > 0:
                await asyncio.sleep(ahead)

    async def give(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await pour(writer)

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await sip(reader)
        await answer(reader, writer)

    async def download() -> None:
        reader, writer = await dial(gateway.port)
        writer.write(get())
        await reader.readuntil(b"\r\n\r\n")
        await sip(reader)
        writer.close()

    async def upload() -> None:
        reader, writer = await dial(gateway.port)
        writer.write(get("POST", f"Content-Length: {size}\r\n"))
        await pour(writer)
        assert await status(reader) == 200
        writer.close()

    for what, behaviour, run in (
        ("downloaded by a slow client", give, download),
        ("uploaded to a slow service", take, upload),
    ):
        upstream.behaviour = behaviour
        before = peak = gateway.memory
        task = asyncio.create_task(run())
        while not task.done():
            await asyncio.wait((task,), timeout=0.05)
            peak = max(peak, gateway.memory)
        await task
        grown = (peak - before) / _MIB
        yield Figure(
            f"{size / 1024 / _MIB:g} GiB {what} ({rate // _MIB} MiB/s)",
            f"+{grown:.1f} MiB",
            "≤ 32 MiB",
            grown <= 32,
        )


async def idle(gateway: Gateway, upstream: Upstream, count: int) -> Figure:
    """Measure the memory of *count* idle connections, each after one answer."""
    upstream.behaviour = answer
    before = gateway.memory
    opened = await asyncio.to_thread(connections.hold, gateway.port, count)
    after = gateway.memory
    connections.close(opened)
    return Figure(
        f"{count:,} idle keep-alive connections",
        f"+{(after - before) / _MIB:.0f} MiB, {(after - before) / count / 1024:.1f} KiB"
        f" each, {after / _MIB:.0f} MiB in all",
        "≤ 16 KiB each",
        after - before <= count * 16 * 1024,
    )


async def drain(gateway: Gateway, upstream: Upstream) -> Figure:
    """Send SIGTERM while 100 requests are in flight, which stops the gateway."""
    arrived = asyncio.Semaphore(0)

    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.release()
        await asyncio.sleep(1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.behaviour = slow
    async with AsyncExitStack() as stack:
        replies = []
        for _ in range(100):
            reader, writer = await dial(gateway.port)
            stack.callback(writer.close)
            writer.write(get())
            replies.append(asyncio.create_task(status(reader)))
        for _ in replies:
            await arrived.acquire()
        at = time.perf_counter()
        gateway.process.send_signal(signal.SIGTERM)
        came = await asyncio.gather(*replies, return_exceptions=True)
        code = await gateway.process.wait()
        took = time.perf_counter() - at
    lost = 100 - came.count(200)
    return Figure(
        "SIGTERM with 100 requests of 1 s in flight",
        f"{lost} lost, exit status {code} after {took:.2f} s",
        "0 lost, 0, ≤ 3 s",
        lost == 0 and code == 0 and took <= 3,
    )


async def measure(size: int, rate: int, count: int) -> list[Figure]:
    """Return all figures; print each when it is measured."""
    upstream = Upstream()
    figures = []

    def note(figure: Figure) -> None:
        figures.append(figure)
        print(f"… {figure.what}: {figure.value}", file=sys.stderr, flush=True)

    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder), upstream) as gateway:
            async for figure in bodies(gateway, upstream, size, rate):
                note(figure)
            async for figure in aborts(gateway, upstream):
                note(figure)
            note(await idle(gateway, upstream, count))
            note(await drain(gateway, upstream))
    server.close()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.resources", description=__doc__
    )
    parser.add_argument("--size", type=float, default=2, help="GiB of each body")
    parser.add_argument("--rate", type=int, default=48, help="MiB/s of the slow peer")
    parser.add_argument("--connections", type=int, default=10_000)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    count = connections.affordable(options.connections)
    size = int(options.size * 1024 * _MIB) // _PIECE * _PIECE
    figures = uvloop.run(measure(size, options.rate * _MIB, count))
    print(
        f"\n{dt.datetime.now(dt.UTC):%Y-%m-%d}, revision {_revision()},"
        f" {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs,"
        f" Python {platform.python_version()}\n"
    )
    print("| what | measured | target | met |\n|---|---|---|---|")
    for figure in figures:
        met = "yes" if figure.met else "**no**"
        print(f"| {figure.what} | {figure.value} | {figure.target} | {met} |")
    return 0 if all(figure.met for figure in figures) else 1


def _revision() -> str:
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return git.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
