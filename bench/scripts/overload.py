"""Measure a service with three times its requests: `make overload`.

The service works on so many requests at a time, each for 50 ms; further ones wait in
it. Requests arrive at three times the rate that it can serve, whatever becomes of the
ones before, and one of ten is for a critical route. Clients give up after 2 s. The
table has what they got, with and without `limits`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from bench.rig.innocent import free_port, in_process
from bench.rig.processes import PROXY_CORE, running
from bench.rig.report import percentile
from bench.rig.rivals import ONE_WORKER

AT_A_TIME: Final = 10
WORK_S: Final = 0.05
RATE: Final = 3 * AT_A_TIME / WORK_S
PATIENCE_S: Final = 2.0
CRITICAL: Final = 10
"""One of so many requests is critical."""

_GATEWAY = str(Path(sys.executable).with_name("gateway"))
_CONFIG = """
version: 1
gateway:
  listen: "127.0.0.1:%(port)d"
  limits: {per_client: {connections: 10000}}
supertokens: {connection_uri: "http://127.0.0.1:9"}
services:
  app:
    targets: ["http://127.0.0.1:%(upstream)d"]
    max_connections: 4096
    timeouts: {connect: 1s}
    %(limits)s
routes:
  - {path: /, service: app, protected: false}
  - {path: /pay, service: app, protected: false, critical: true}
"""
_LIMITS = f"limits: {{in_flight: {AT_A_TIME}, pending: {2 * AT_A_TIME}}}"
_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def _serve(listening: socket.socket) -> None:
    """Answer requests, `AT_A_TIME` of them at a time."""
    places = asyncio.Semaphore(AT_A_TIME)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                async with places:
                    await asyncio.sleep(WORK_S)
                writer.write(_REPLY)
        writer.close()

    server = await asyncio.start_server(serve, sock=listening, backlog=4096)
    await server.serve_forever()


class _Load:
    """Requests at a fixed rate, and what became of them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.ms: dict[tuple[str, str], list[float]] = {}
        """The times of the requests, by path and outcome."""

    async def run(self, seconds: float) -> None:
        """Send requests for *seconds*; return when all have ended."""
        loop = asyncio.get_running_loop()
        begun, number, asked = loop.time(), 0, set()
        while (now := loop.time() - begun) < seconds:
            while number < now * RATE:
                path = "/a" if number % CRITICAL else "/pay"
                asked.add(asyncio.create_task(self._ask(path)))
                number += 1
            await asyncio.sleep(0.002)
        await asyncio.gather(*asked)
        for _, writer in self._idle:
            writer.close()

    async def _ask(self, path: str) -> None:
        begun, outcome = time.perf_counter(), "given up"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                outcome = await self._status(path)
        took_ms = (time.perf_counter() - begun) * 1000
        self.ms.setdefault((path, outcome), []).append(took_ms)

    async def _status(self, path: str) -> str:
        reader, writer = (
            self._idle.pop()
            if self._idle
            else await asyncio.open_connection("127.0.0.1", self._port)
        )
        is_whole = False
        try:
            writer.write(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
            head = await reader.readuntil(b"\r\n\r\n")
            _, _, rest = head.lower().partition(b"content-length:")
            await reader.readexactly(int(rest.split(b"\r\n")[0]))
            is_whole = True
            return head.split()[1].decode()
        except (asyncio.IncompleteReadError, ConnectionError):
            return "cut"
        finally:
            if is_whole:
                self._idle.append((reader, writer))
            else:
                writer.close()


def _measure(name: str, limits: str, upstream: int, seconds: float) -> None:
    """Print the rows of one configuration."""
    with tempfile.TemporaryDirectory() as made:
        folder, port = Path(made), free_port()
        file = folder / "routes.yaml"
        values = {"port": port, "upstream": upstream, "limits": limits}
        file.write_text(_CONFIG % values, encoding="utf-8")
        words = [_GATEWAY, "serve", "-c", str(file), "--log-format", "none"]
        with running(
            words,
            core=PROXY_CORE,
            port=port,
            log=folder / "log",
            environ=dict(ONE_WORKER),
        ):
            load = _Load(port)
            uvloop.run(load.run(seconds))
    for path, kind in (("/pay", "critical"), ("/a", "others")):
        counts = Counter(
            {key[1]: len(ms) for key, ms in load.ms.items() if key[0] == path}
        )
        good = load.ms.get((path, "200"), [])
        times = [
            f"{percentile(good, share):.0f}" if good else "-" for share in (0.5, 0.99)
        ]
        others = counts.total() - counts["200"] - counts["503"]
        cells = (counts.total(), counts["200"], *times, counts["503"], others)
        print(f"| {name}, {kind} | {' | '.join(map(str, cells))} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    options = parser.parse_args(arguments)
    print("times in ms, of answered requests\n")
    print("| requests | asked | answered | p50 | p99 | refused | given up |")
    print("|---|---|---|---|---|---|---|")
    for name, limits in (("no limits", ""), (_LIMITS, _LIMITS)):
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(4096)
            upstream = int(listening.getsockname()[1])
            with in_process(lambda: uvloop.run(_serve(listening))):
                _measure(name, limits, upstream, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
