"""Rate limits in a real gateway of two workers: they share each limit."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from pathlib import Path

from faults import FaultUpstream, answer
from processes import DEADLINE_S, command, hub_of, serving
from wire import ask

from gateway.dev.core import ThreadedCore

ROUTES = """\
version: 1
gateway:
  listen: 127.0.0.1:0
  trusted_proxies: [127.0.0.1]
  probes: {listen: "127.0.0.1:0"}
supertokens: {connection_uri: "${CORE}", recipes: {emailpassword: {}}}
rate_limits:
  few: {rate: 1/d, burst: 6}
  many: {rate: 60/d}
services:
  app: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /few, service: app, protected: false, rate_limit: few}
  - {path: /many, service: app, protected: false, rate_limit: many}
"""


async def test_two_workers_share_each_limit(
    tmp_path: Path, st_core: ThreadedCore
) -> None:
    """They admit the burst together; a reload doesn't renew it; with a hub that hangs,
    each of them has its half."""
    (tmp_path / "routes.yaml").write_text(ROUTES)
    async with FaultUpstream(answer()) as upstream:
        environ = {
            "CORE": st_core.url,
            "UPSTREAM": upstream.url,
            "GATEWAY_WORKERS": "2",
        }
        async with command(
            "serve", "-c", "routes.yaml", cwd=tmp_path, environ=environ
        ) as gateway:
            port = await serving(gateway)
            match = await gateway.until_said(rb"robes[^\n]*:(\d+)")
            probes = int(match[1])

            async def statuses(path: str, client: str, count: int) -> list[int]:
                """Return the statuses of requests on connections of their own."""
                field = ("X-Forwarded-For", client)
                replies = await asyncio.gather(
                    *(ask(port, "GET", path, field) for _ in range(count))
                )
                return sorted(reply.status for reply in replies)

            async def exhausted(path: str, burst: int) -> str:
                """Return a client for which both workers have admitted the burst.

                If the hub isn't ready or is slow, each worker keeps to its half for a
                while, so that fewer or more may be admitted: at most twice as many.
                """
                async with asyncio.timeout(DEADLINE_S):
                    for number in itertools.count():
                        client = f"192.0.2.{number}"
                        before = len(upstream.requests)
                        got = await statuses(path, client, 3 * burst)
                        admitted = got.count(200)
                        assert len(upstream.requests) == before + admitted
                        assert admitted + got.count(429) == 3 * burst
                        assert admitted <= 2 * burst
                        if admitted == burst:
                            return client
                raise AssertionError

            await hub_of(gateway.child.pid)
            await exhausted("/few", 6)
            client = await exhausted("/many", 60)
            (tmp_path / "routes.yaml").write_text(ROUTES + "# changed\n")
            gateway.signal(signal.SIGHUP)
            await gateway.until_said(rb"reloaded")
            assert await statuses("/many", client, 20) == [429] * 20
            async with asyncio.timeout(DEADLINE_S):
                metrics = b""
                while b'rate_limited_total{policy="few"}' not in metrics:
                    await asyncio.sleep(0.1)  # workers report every 2 s
                    metrics = (await ask(probes, "GET", "/metrics")).body
            # A hub that hangs: each of the workers goes on with its half.
            child = await hub_of(gateway.child.pid)
            os.kill(child, signal.SIGSTOP)
            seen = (await statuses("/few", "203.0.113.1", 40)).count(200)
            assert 3 <= seen <= 6
            os.kill(child, signal.SIGCONT)
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended() == 0
