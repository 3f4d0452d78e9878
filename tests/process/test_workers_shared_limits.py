"""Three real gateways and a real Redis: they share rate limits, whatever it does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from faults import FaultUpstream, answer
from processes import DEADLINE_S, command, serving
from redis_server import RedisServer, needs_redis, redis_running
from wire import ask

from gateway.dev.core import ThreadedCore

pytestmark = needs_redis

BURST = 6
ROUTES = """\
version: 1
gateway:
  listen: 127.0.0.1:0
  trusted_proxies: [127.0.0.1]
  probes: {listen: "127.0.0.1:0"}
  shared: {redis: "${REDIS}"}
supertokens: {connection_uri: "${CORE}", recipes: {emailpassword: {}}}
rate_limits:
  few: {rate: 1/d, burst: 6}
  each: {rate: 1/d, burst: 6, shared: false}
  open: {rate: 1/d, burst: 6, on_store_failure: allow}
  strict: {rate: 1/d, burst: 6, on_store_failure: deny}
services:
  app: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /few, service: app, protected: false, rate_limit: few}
  - {path: /each, service: app, protected: false, rate_limit: each}
  - {path: /open, service: app, protected: false, rate_limit: open}
  - {path: /strict, service: app, protected: false, rate_limit: strict}
"""


class Limited:
    """Three gateways, their store, and clients that are new."""

    def __init__(self, ports: list[tuple[int, int]], redis: RedisServer) -> None:
        self.ports = ports
        self.redis = redis
        self._clients = (
            f"198.51.{a}.{b}" for a, b in itertools.product(range(99), range(255))
        )
        self.seen: Counter[int] = Counter()

    async def admitted(self, path: str, client: str | None = None) -> int:
        """Return how many of a client's requests are admitted, at all gateways."""
        field = ("X-Forwarded-For", client or next(self._clients))
        replies = await asyncio.gather(
            *(
                ask(port, "GET", path, field)
                for port, _ in self.ports
                for _ in range(2 * BURST)
            )
        )
        statuses = Counter(reply.status for reply in replies)
        assert set(statuses) <= {200, 429}
        self.seen += statuses
        return statuses[200]

    async def until(self, path: str, admitted: int, *, most: int) -> None:
        """Return when so many are admitted; never may be more than *most*.

        On a slow machine, Redis or a hub may answer too late; then fewer or more are.
        """
        async with asyncio.timeout(DEADLINE_S):
            while (got := await self.admitted(path)) != admitted:
                assert got <= most, path

    async def until_ready_says(self, status: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            for _, probes in self.ports:
                found = ""
                while found != status:
                    reply = await ask(probes, "GET", "/readyz?verbose")
                    assert reply.status == 200
                    found = json.loads(reply.body)["checks"]["shared"]["status"]

    async def metric(self, name: str) -> list[float]:
        """Return the metric's values at all gateways; those without it are left out."""
        found = []
        for _, probes in self.ports:
            text = (await ask(probes, "GET", "/metrics")).body.decode()
            found += [
                float(line.split()[1])
                for line in text.splitlines()
                if line.startswith(f"gateway_{name} ")
            ]
        return found

    async def until_connected(self, value: int) -> None:
        """Wait until the metric of all gateways says whether Redis is used.

        Metrics are rendered now and then, and a hung Redis still takes connections.
        """
        async with asyncio.timeout(DEADLINE_S):
            while True:
                if set(await self.metric("shared_rates_connected")) == {value}:
                    return
                await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Send requests of new clients while the block runs; each is answered."""
        over = asyncio.Event()

        async def call() -> None:
            while not over.is_set():
                assert await self.admitted("/few") <= 7 * BURST

        task = asyncio.create_task(call())
        try:
            yield
        finally:
            over.set()
            await task


@pytest.fixture
async def limited(
    tmp_path: Path, st_core: ThreadedCore
) -> AsyncIterator[tuple[Limited, FaultUpstream]]:
    (tmp_path / "routes.yaml").write_text(ROUTES)
    async with (
        contextlib.AsyncExitStack() as opened,
        redis_running(tmp_path) as redis,
        FaultUpstream(answer()) as upstream,
    ):
        ports = []
        for _ in range(3):
            process = await opened.enter_async_context(
                command(
                    *("serve", "-c", "routes.yaml", "--workers", "1"),
                    cwd=tmp_path,
                    environ={
                        "CORE": st_core.url,
                        "UPSTREAM": upstream.url,
                        "REDIS": redis.url,
                    },
                )
            )
            port = await serving(process)
            probes = await process.until_said(rb"probes on http://127\.0\.0\.1:(\d+)")
            ports.append((port, int(probes[1])))
        yield Limited(ports, redis), upstream


async def test_three_gateways_share_a_limit_whatever_redis_does(
    limited: tuple[Limited, FaultUpstream],
) -> None:
    """With Redis: one burst for all. Without: what `on_store_failure` says, at once.

    At no time is more admitted than once the burst for Redis, and for each gateway and
    its worker. Health and metrics say how it is, and it is as before afterwards.
    """
    gateways, upstream = limited
    most = (1 + 3 + 3) * BURST
    async with gateways.load():
        await gateways.until("/few", BURST, most=most)
    await gateways.until("/each", 3 * BURST, most=2 * 3 * BURST)
    await gateways.until_connected(1)
    for end, begin_again in (
        (gateways.redis.kill, gateways.redis.start),
        (gateways.redis.hang, None),
    ):
        async with gateways.load():
            end()
            await gateways.until_ready_says("degraded")
            await gateways.until("/few", 3 * BURST, most=most)
        await gateways.until_connected(0)
        await gateways.until("/open", 3 * 2 * BURST, most=3 * 2 * BURST)
        await gateways.until("/strict", 0, most=most)
        async with gateways.load():
            if begin_again is None:
                gateways.redis.resume()
            else:
                await begin_again()
            await gateways.until_ready_says("ok")
            for path in "/few", "/open", "/strict":
                await gateways.until(path, BURST, most=3 * 2 * BURST + most)
        await gateways.until_connected(1)
    assert len(upstream.requests) == gateways.seen[200]
    keys = await gateways.redis.do("KEYS", "*")
    assert b"198.51" not in keys
    assert b":rates:" in keys
