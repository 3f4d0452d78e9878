"""Three gateways with one core, an upstream and a Redis, as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.rig.core_stage import PASSWORD, Clients, Seen, Stage
from bench.rig.innocent import free_port
from bench.rig.processes import CORES, running

REPLICAS = 3
WORKERS = 2
"""Of each gateway."""
PATIENCE_S = 60.0
"""A step that isn't done by then has failed."""
_COMMAND = (sys.executable, "-P", "-c", "from gateway.cli import main; main()")
ROUTES = """version: 1
gateway:
  listen: "127.0.0.1:{port}"
  probes: {{listen: "127.0.0.1:{probes}"}}
  shared: {{redis: "redis://127.0.0.1:{redis}"}}
supertokens:
  connection_uri: http://127.0.0.1:{core}
  recipes: {{emailpassword: {{}}}}
services:
  up: {{targets: ["http://127.0.0.1:{upstream}"]}}
routes:
  - {{path: /, service: up}}
"""


@dataclass(frozen=True, slots=True)
class Replica:
    """A gateway."""

    clients: Clients
    probes: int
    pid: int
    """Of its supervisor."""

    async def status(self, access: str) -> int:
        """Return the status of a request with an access token."""
        return (await self.clients.send("GET", "/", bearer=access)).status

    async def is_connected(self) -> bool:
        """Return whether it has all denials of the store."""
        return "\ngateway_shared_store_connected 1.0" in await self.metrics()

    async def metrics(self) -> str:
        """Return its metrics, as Prometheus text."""
        url = f"http://127.0.0.1:{self.probes}/metrics"
        async with self.clients.http.get(url) as reply:
            return await reply.text()


class Store:
    """The Redis server: without persistence, so a restart loses all data."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *("redis-server", "--bind", "127.0.0.1", "--port", str(self.port)),
                *("--save", "", "--appendonly", "no", "--dir", str(self._folder)),
            ],
            stdout=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def _replicas(
    folder: Path, store: Store, routes: str, upstream_module: str
) -> AsyncIterator[list[Replica]]:
    """Yield the gateways, with a core and an upstream."""
    core, upstream = free_port(), free_port()
    async with contextlib.AsyncExitStack() as stack:

        def start(command: list[str], port: int, name: str) -> int:
            return stack.enter_context(
                running(command, core=CORES, port=port, log=folder / f"{name}.log")
            )

        core_pid = start([*_COMMAND, "core", "--port", str(core)], core, "core")
        module = f"bench.rig.{upstream_module}"
        upstream_pid = start(
            [sys.executable, "-m", module, str(upstream)], upstream, "upstream"
        )
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=5),
                timeout=aiohttp.ClientTimeout(total=60),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        )
        found = []
        for number in range(REPLICAS):
            port, probes = free_port(), free_port()
            file = folder / f"routes-{number}.yaml"
            text = routes.format(
                port=port,
                probes=probes,
                redis=store.port,
                core=core,
                upstream=upstream,
            )
            await asyncio.to_thread(file.write_text, text)
            command = [*_COMMAND, "serve", "-c", str(file), "--workers", str(WORKERS)]
            pid = start(command, port, f"gateway-{number}")
            stage = Stage(port, pid, core, core_pid, upstream_pid)
            found.append(Replica(Clients(http, stage), probes, pid))
        yield found


@contextlib.asynccontextmanager
async def replicas(
    routes: str = ROUTES, *, upstream_module: str = "small_upstream"
) -> AsyncIterator[tuple[list[Replica], Store]]:
    """Yield the gateways, which are connected to the store, and the store.

    Raises:
        SystemExit: Redis isn't installed.
    """
    if shutil.which("redis-server") is None:
        print("redis-server isn't installed: Debian's package redis-server has it")
        raise SystemExit(1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.start()
        try:
            async with _replicas(Path(folder), store, routes, upstream_module) as found:
                await until_connected(found)
                yield found, store
        finally:
            store.kill()


async def until_connected(gateways: list[Replica]) -> None:
    """Return when all gateways have all denials of the store."""
    async with asyncio.timeout(PATIENCE_S):
        for gateway in gateways:
            while not await gateway.is_connected():  # noqa: ASYNC110 - of a process
                await asyncio.sleep(0.02)


async def enter(gateway: Replica, email: str) -> str:
    """Sign a user up, or in; return the access token, once it is accepted."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for api in ("signup", "signin"):
                tokens = await gateway.clients.sign(Seen(), api, email, PASSWORD)
                if tokens and await gateway.status(tokens["access"]) == 200:
                    return tokens["access"]
            await asyncio.sleep(0.1)
