"""How late a sign-out is known at other replicas: `make replicas`.

Three gateways share one core and one Redis. Users call all three without pause; one
after another signs out at a gateway that is drawn. Printed is how long after the answer
to the sign-out another gateway still accepted the session, with Redis there, killed and
started again with no data, and hung in the middle.

Goals: 100 ms with Redis there; none is accepted after Redis is back and the gateways
have said so; no request and no sign-out fails for want of Redis.

Exits with 1 if one is missed, and with 130 at Ctrl-C. No process is left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.rig.core_stage import PASSWORD, Clients, Report, Seen, Stage
from bench.rig.innocent import free_port
from bench.rig.processes import CORES, running
from bench.rig.report import percentile

GOAL_MS = 100.0
_REPLICAS = 3
_WORKERS = 2
_PATIENCE_S = 60.0
"""A step that isn't done by then has failed."""
_AWAY_S = 3.0
"""How long Redis is away, or hangs."""
_CALLS = 4
"""Clients of each gateway, for the load."""
_PAUSE_S = 0.002
"""Between two requests with a session that was signed out."""
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

    async def status(self, access: str) -> int:
        """Return the status of a request with an access token."""
        return (await self.clients.send("GET", "/", bearer=access)).status

    async def is_connected(self) -> bool:
        """Return whether it has all denials of the store."""
        url = f"http://127.0.0.1:{self.probes}/metrics"
        async with self.clients.http.get(url) as reply:
            text = await reply.text()
        return "\ngateway_shared_store_connected 1.0" in text


@dataclass(slots=True)
class SignOuts:
    """What was seen after sign-outs."""

    late_ms: list[float] = field(default_factory=list)
    """From the answer to a sign-out to the last request that was accepted elsewhere."""
    never: int = 0
    """Sessions that were still accepted at the end."""
    failed: int = 0
    """Sign-outs without 200."""

    def words(self) -> str:
        late = self.late_ms or [0.0]
        p50, p99, most = (percentile(late, share) for share in (0.5, 0.99, 1.0))
        return (
            f"{len(self.late_ms)} sign-outs; last accepted elsewhere after p50"
            f" {p50:.0f}, p99 {p99:.0f}, max {most:.0f} ms"
        )


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
async def replicas(
    folder: Path, store: Store, routes: str = ROUTES
) -> AsyncIterator[list[Replica]]:
    """Yield the gateways, with a core and an upstream."""
    core, upstream = free_port(), free_port()
    async with contextlib.AsyncExitStack() as stack:

        def start(command: list[str], port: int, name: str) -> int:
            return stack.enter_context(
                running(command, core=CORES, port=port, log=folder / f"{name}.log")
            )

        core_pid = start([*_COMMAND, "core", "--port", str(core)], core, "core")
        module = "bench.rig.small_upstream"
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
        for number in range(_REPLICAS):
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
            command = [*_COMMAND, "serve", "-c", str(file), "--workers", str(_WORKERS)]
            pid = start(command, port, f"gateway-{number}")
            stage = Stage(port, pid, core, core_pid, upstream_pid)
            found.append(Replica(Clients(http, stage), probes))
        yield found


async def until_connected(gateways: list[Replica]) -> None:
    """Return when all gateways have all denials of the store."""
    async with asyncio.timeout(_PATIENCE_S):
        for gateway in gateways:
            while not await gateway.is_connected():  # noqa: ASYNC110 - of a process
                await asyncio.sleep(0.02)


async def _enter(gateway: Replica, email: str) -> str:
    """Sign a user up, or in; return the access token, once it is accepted."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            for api in ("signup", "signin"):
                tokens = await gateway.clients.sign(Seen(), api, email, PASSWORD)
                if tokens and await gateway.status(tokens["access"]) == 200:
                    return tokens["access"]
            await asyncio.sleep(0.1)


async def _sign_out(
    gateways: list[Replica], access: str, seen: SignOuts, patience_s: float
) -> None:
    """Sign out at one gateway; ask the others until all have refused three times."""
    here, *others = random.sample(gateways, len(gateways))
    last = 0.0

    async def ask(gateway: Replica, since: float) -> None:
        nonlocal last
        refused = 0
        while refused < 3:
            asked_at = time.perf_counter()
            if await gateway.status(access) == 200:
                last, refused = max(last, asked_at - since), 0
                if asked_at - since > patience_s:
                    seen.never += 1
                    return
            else:
                refused += 1
            await asyncio.sleep(_PAUSE_S)

    reply = await here.clients.send("POST", "/auth/signout", bearer=access)
    since = time.perf_counter()
    seen.failed += reply.status != 200
    await asyncio.gather(*(ask(gateway, since) for gateway in others))
    seen.late_ms.append(last * 1000)


@contextlib.asynccontextmanager
async def _load(gateways: list[Replica], access: str) -> AsyncIterator[Seen]:
    """Call all gateways while the block runs."""
    seen, over = Seen(), asyncio.Event()

    async def call(gateway: Replica) -> None:
        while not over.is_set():
            await gateway.clients.get(seen, "/", access)

    async with asyncio.TaskGroup() as group:
        for gateway in gateways:
            for _ in range(_CALLS):
                group.create_task(call(gateway))
        try:
            yield seen
        finally:
            over.set()


async def _step(
    report: Report, gateways: list[Replica], store: Store | None, what: str, count: int
) -> None:
    """Sign users out, before and after what happens to Redis."""
    tokens = [
        await _enter(gateways[number % len(gateways)], f"{what}{number}@example.com")
        for number in range(count)
    ]
    other = await _enter(gateways[0], "load@example.com")
    seen = SignOuts()
    async with _load(gateways, other) as load:
        if store is None:
            for access in tokens:
                await _sign_out(gateways, access, seen, _PATIENCE_S)
        else:
            await _in_an_outage(gateways, store, what, tokens, seen)
    report.figure(f"{what}: load {load.words()}")
    reached = not seen.failed and not seen.never and load.only("200")
    if store is None:
        reached = reached and max(seen.late_ms, default=0.0) <= GOAL_MS
    report.goal(
        f"{what}: {seen.words()}; {seen.never} lost, {seen.failed} sign-outs failed",
        reached=reached,
    )


async def _in_an_outage(
    gateways: list[Replica], store: Store, what: str, tokens: list[str], seen: SignOuts
) -> None:
    """Sign out while Redis is away; afterwards none may be accepted."""
    async with asyncio.TaskGroup() as group:
        with store.hanging() if what == "hung" else contextlib.nullcontext():
            if what != "hung":
                store.kill()
            for access in tokens:
                group.create_task(_sign_out(gateways, access, seen, _PATIENCE_S))
                await asyncio.sleep(_AWAY_S / len(tokens))
        if what != "hung":
            store.start()
        back = time.perf_counter()
    took_ms = (time.perf_counter() - back) * 1000
    print(f"- {what}: all were refused {took_ms:.0f} ms after Redis was back")
    await until_connected(gateways)
    statuses = [await g.status(access) for access in tokens for g in gateways]
    seen.never += sum(status == 200 for status in statuses)


async def measure(report: Report, count: int) -> None:
    """Run all steps with so many sign-outs each."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.start()
        try:
            async with replicas(Path(folder), store) as gateways:
                await until_connected(gateways)
                await _step(report, gateways, None, "there", count)
                await _step(report, gateways, store, "killed", count)
                await _step(report, gateways, store, "hung", count)
                await _step(report, gateways, None, "again", count)
        finally:
            store.kill()


def main() -> int:
    """Measure, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 sign-outs a step")
    given = parser.parse_args()
    if shutil.which("redis-server") is None:
        print("redis-server isn't installed: Debian's package redis-server has it")
        return 1
    report = Report()
    print(f"{_REPLICAS} gateways of {_WORKERS} workers, {_REPLICAS * _CALLS} clients")
    try:
        asyncio.run(measure(report, 10 if given.quick else 100))
    except KeyboardInterrupt:
        return 130
    return int(report.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
