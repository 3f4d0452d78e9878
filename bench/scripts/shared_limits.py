"""A rate limit over three gateways and one Redis: `make shared-limits`.

Clients without pause call three gateways, all under one limit, while Redis is there,
killed, started again with no data, hung, and there again. Printed is how many requests
were admitted in each window, beside the bound that docs/rate-limits.md states, and how
long answers took, refusals included.

Goals: no window admits more than its bound; every answer is 200 or 429.

Exits with 1 if one is missed, and with 130 at Ctrl-C. No process is left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator

from bench.rig.core_stage import Report, Seen
from bench.rig.replica_stage import ROUTES, Replica, replicas, until_connected

_RATE = 20
"""A second, with a burst of as many."""
_ADVANCE = 3 * 2 * (_RATE // 10)
"""What the workers of all gateways may have drawn in advance."""
_ANSWERS = {"200", "429 with Retry-After"}
_LATE_MS = 250.0
_CALLS = 2
"""Clients of each gateway."""
_LIMIT = f"""
rate_limits:
  all: {{{{rate: {_RATE}/s, key: route}}}}
"""


def _routes() -> str:
    limited = "  - {{path: /, service: up, protected: false, rate_limit: all}}"
    return ROUTES.replace("  - {{path: /, service: up}}", limited) + _LIMIT


@contextlib.asynccontextmanager
async def _load(gateways: list[Replica]) -> AsyncIterator[Seen]:
    """Call all gateways while the block runs."""
    seen, over = Seen(), asyncio.Event()

    async def call(gateway: Replica) -> None:
        while not over.is_set():
            await gateway.clients.get(seen, "/", "")
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for gateway in gateways:
            for _ in range(_CALLS):
                group.create_task(call(gateway))
        try:
            yield seen
        finally:
            over.set()


async def _window(
    report: Report, gateways: list[Replica], what: str, window_s: float, parts: int
) -> None:
    """Print what is admitted in a window, of which *parts* limits may be used up."""
    began = time.perf_counter()
    async with _load(gateways) as seen:
        await asyncio.sleep(window_s)
    took_s = time.perf_counter() - began
    admitted = seen.statuses["200"]
    bound = int(parts * _RATE * (1 + took_s)) + _ADVANCE
    late = sum(each > _LATE_MS for each in seen.ms)
    report.figure(f"{what}: {seen.words()}; {late} answers after {_LATE_MS:.0f} ms")
    report.goal(
        f"{what}: {admitted} admitted in {took_s:.1f} s"
        f" ({admitted / took_s:.0f}/s), bound {bound}",
        reached=admitted <= bound and set(seen.statuses) <= _ANSWERS,
    )


async def measure(report: Report, window_s: float) -> None:
    """Run all windows."""
    async with replicas(_routes()) as (gateways, store):
        many = len(gateways) + 1
        async with _load(gateways):  # the hubs connect
            await asyncio.sleep(1.0)
        await _window(report, gateways, "there", window_s, 1)
        store.kill()
        await _window(report, gateways, "killed", window_s, many)
        store.start()
        # A store without data, and gateways that are still by themselves.
        await _window(report, gateways, "back", window_s, many)
        await until_connected(gateways)
        await _window(report, gateways, "again", window_s, 1)
        with store.hanging():
            await _window(report, gateways, "hung", window_s, many)
        await until_connected(gateways)
        await _window(report, gateways, "resumed", window_s, many)


def main() -> int:
    """Measure, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=float, default=6.0, help="seconds; 6")
    given = parser.parse_args()
    report = Report()
    print(f"3 gateways of 2 workers, one limit of {_RATE}/s for all clients")
    try:
        asyncio.run(measure(report, given.window))
    except KeyboardInterrupt:
        return 130
    return int(report.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
