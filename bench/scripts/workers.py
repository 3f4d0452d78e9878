"""Measure several workers: `make bench-workers`, half a minute.

It measures the memory of each worker, how soon a sign-out in one worker is known in
another, how soon a killed worker is replaced, and how many requests are lost when the
gateway reloads or stops under load. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from bench.rig.processes import family, share_of_memory, worker_pids
from gateway.dev.core import serve_in_thread

_GATEWAY = str(Path(sys.executable).with_name("gateway"))
_START_S = 30.0
_MIB = 1024 * 1024
_FORM = (
    b'{"formFields":[{"id":"email","value":"%b"},'
    b'{"id":"password","value":"correct-horse-1"}]}'
)
_CONFIG = """
version: 1
gateway: {{listen: "127.0.0.1:{port}"}}
supertokens:
  connection_uri: "{core}"
  recipes: {{emailpassword: {{}}, userroles: {{}}, usermetadata: {{}}}}
services: {{up: {{targets: ["http://127.0.0.1:{upstream}"]}}}}
routes:
  - {{path: /open, service: up, protected: false}}
  - {{path: /private, service: up}}
"""
_SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
_HANDSHAKE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://localhost:8000\r\n"
)


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    value: str
    target: str = ""
    met: bool = True


class Reply(NamedTuple):
    """The parts of a reply that are checked."""

    status: int
    fields: dict[bytes, bytes]

    @property
    def worker(self) -> bytes:
        """The common prefix of the request ids of one worker."""
        return self.fields[b"x-request-id"][:16]


class Wire:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader = reader
        self.writer = writer

    async def ask(self, line: bytes, fields: bytes = b"", body: bytes = b"") -> Reply:
        """Send a request, read its reply."""
        self.writer.write(
            b"%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%b\r\n%b"
            % (line, len(body), fields, body)
            if body
            else b"%b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (line, fields)
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        start, *lines = head[:-4].split(b"\r\n")
        fields_sent = dict(line.split(b": ", 1) for line in lines)
        fields_found = {name.lower(): value for name, value in fields_sent.items()}
        await self.reader.readexactly(int(fields_found.get(b"content-length", 0)))
        return Reply(int(start.split()[1]), fields_found)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection as the upstream."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            is_socket = b"\r\nupgrade: " in head.lower()
            ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            writer.write(_SWITCH if is_socket else ok)
            if is_socket:
                await reader.read()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


class Crew:
    """A running gateway with several workers."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, workers: int):
        self.process = process
        self.port = port
        self.count = workers

    @property
    def workers(self) -> set[int]:
        """The process ids of the workers."""
        return worker_pids(self.process.pid)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Wire]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Wire(reader, writer)
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def each(self, connections: int) -> AsyncIterator[list[list[Wire]]]:
        """Yield *connections* connections to every worker."""
        by_worker: dict[bytes, list[Wire]] = {}
        async with AsyncExitStack() as opened, asyncio.timeout(_START_S):
            while (
                len(by_worker) < self.count
                or min(map(len, by_worker.values())) < connections
            ):
                wire = await opened.enter_async_context(self.connect())
                reply = await wire.ask(b"GET /open")
                by_worker.setdefault(reply.worker, []).append(wire)
            yield [wires[:connections] for wires in by_worker.values()]


@asynccontextmanager
async def running(
    folder: Path, core: str, upstream: int, workers: int
) -> AsyncIterator[Crew]:
    """Run a gateway while the block runs; wait until all its workers are ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    config = folder / "routes.yaml"
    config.write_text(_CONFIG.format(port=port, core=core, upstream=upstream))
    process = await asyncio.create_subprocess_exec(
        _GATEWAY,
        *("serve", "-c", str(config), "--workers", str(workers)),
        *("--log-format", "none"),
        stderr=subprocess.DEVNULL,
    )
    crew = Crew(process, port, workers)
    try:
        async with asyncio.timeout(_START_S):
            while True:
                try:
                    async with crew.each(1):
                        break
                except ConnectionError:
                    await asyncio.sleep(0.01)
        yield crew
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def memory(crew: Crew, requests: int) -> list[Figure]:
    """Measure the memory of the processes after some requests."""
    async with crew.each(1) as wires:
        for (wire,) in wires:
            for _ in range(requests):
                await wire.ask(b"GET /open")
    main = crew.process.pid
    every = {pid: share_of_memory(pid) for pid in family([main])}
    own = statistics.median(every[pid].private for pid in crew.workers)
    hub = [
        one.private for pid, one in every.items() if pid not in (main, *crew.workers)
    ]
    whole = sum(one.proportional for one in every.values())
    return [
        Figure("a worker's own memory", f"{own / _MIB:.1f} MiB"),
        Figure("the supervisor's own", f"{every[main].private / _MIB:.1f} MiB"),
        Figure("the hub's own", f"{sum(hub) / _MIB:.1f} MiB"),
        Figure(f"{crew.count} workers, supervisor and hub", f"{whole / _MIB:.0f} MiB"),
    ]


async def sign_outs(crew: Crew, times: int, *, what: str) -> Figure:
    """Measure how long after a sign-out's answer another worker closes its WebSocket.

    Negative: it was closed before the answer arrived.
    """
    late: list[float] = []
    for number in range(times):
        async with crew.each(1) as wires:
            (ours,), (theirs,), *_ = wires
            email = b"%d-%d@example.com" % (time.time_ns(), number)
            reply = await ours.ask(
                b"POST /auth/signup",
                b"st-auth-mode: header\r\nContent-Type: application/json\r\n",
                _FORM % email,
            )
            bearer = b"Authorization: Bearer %b\r\n" % reply.fields[b"st-access-token"]
            reply = await theirs.ask(b"GET /private", bearer + _HANDSHAKE)
            assert reply.status == 101, reply

            async def closed(wire: Wire = theirs) -> float:
                assert (await wire.reader.read(4))[2:] == (4401).to_bytes(2, "big")
                return time.perf_counter()

            closing = asyncio.create_task(closed())
            reply = await ours.ask(b"POST /auth/signout", bearer, b"{}")
            answered = time.perf_counter()
            assert reply.status == 200, reply
            late.append((await closing - answered) * 1000)
    late.sort()
    worst = late[-1]
    value = f"median {statistics.median(late):.1f} ms, most {worst:.1f} ms"
    return Figure(what, value, "100 ms", worst <= 100)


class Load:
    """Clients that send requests without pause, and their outcomes."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.counts: Counter[str] = Counter()
        self.is_over = False

    async def client(self, fields: bytes) -> None:
        """Send requests on a connection until the gateway closes it, then reconnect."""
        while not self.is_over:
            try:
                async with self.crew.connect() as wire:
                    connection = b""
                    while connection != b"close" and not self.is_over:
                        reply = await wire.ask(b"GET /open", fields)
                        self.counts[str(reply.status)] += 1
                        connection = reply.fields.get(b"connection", b"")
            except ConnectionRefusedError:
                self.is_over = True
            except (ConnectionError, asyncio.IncompleteReadError):
                self.counts["lost"] += 1

    async def during(self, act: Callable[[], None], seconds: float) -> str:
        """Return the outcomes of all requests during *act*, and shortly after."""
        async with asyncio.TaskGroup() as group:
            for fields in [b""] * 24 + [b"Connection: close\r\n"] * 8:
                group.create_task(self.client(fields))
            await asyncio.sleep(1)
            act()
            await asyncio.sleep(seconds)
            self.is_over = True
        return f"{self.counts['lost']} of {self.counts.total()}"

    @property
    def is_whole(self) -> bool:
        return set(self.counts) == {"200"}


async def replaced(crew: Crew) -> Figure:
    """Measure how soon a killed worker is replaced."""
    before = crew.workers
    began = time.perf_counter()
    os.kill(min(before), signal.SIGKILL)
    async with crew.each(1):
        took = time.perf_counter() - began
    return Figure("a killed worker is replaced after", f"{took * 1000:.0f} ms")


async def measure(workers: int, times: int) -> list[Figure]:
    """Return all figures."""
    figures: list[Figure] = []
    upstream = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    port = upstream.sockets[0].getsockname()[1]
    with serve_in_thread() as core, tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder), core.url, port, workers) as crew:
            figures += await memory(crew, 3000)
            figures.append(
                await sign_outs(crew, times, what="known elsewhere after a sign-out")
            )
            load = Load(crew)
            async with asyncio.TaskGroup() as group:
                for _ in range(16):
                    group.create_task(load.client(b""))
                figures.append(await sign_outs(crew, times, what="the same under load"))
                load.is_over = True
            figures.append(await replaced(crew))
            load = Load(crew)
            lost = await load.during(lambda: crew.process.send_signal(signal.SIGHUP), 4)
            figures.append(Figure("lost by a reload", lost, "0", load.is_whole))
            load = Load(crew)
            lost = await load.during(crew.process.terminate, 3)
            figures.append(Figure("lost by a stop", lost, "0", load.is_whole))
    upstream.close()
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--times", type=int, default=30, help="sign-outs to measure")
    chosen = parser.parse_args()
    figures = asyncio.run(measure(chosen.workers, chosen.times))
    for figure in figures:
        target = f" (target {figure.target})" if figure.target else ""
        missed = "" if figure.met else "  MISSED"
        print(f"{figure.what:38} {figure.value}{target}{missed}")
    sys.exit(not all(figure.met for figure in figures))


if __name__ == "__main__":
    main()
