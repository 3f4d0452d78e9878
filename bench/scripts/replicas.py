"""How late a sign-out is known at other replicas: `make replicas`.

Three gateways share one core and one Redis. Users call all three without pause; one
after another signs out at a gateway that is drawn. Printed is how long after the answer
to the sign-out another gateway still accepted the session, with Redis there, killed and
started again with no data, and hung in the middle.

Goals: 100 ms with Redis there; none is accepted after Redis is back and the gateways
have said so; no request and no sign-out fails for want of Redis.

`--requests 100000` sends so many requests at half load instead, with sign-outs at
random among them, and judges each answer: whose it is, and whether a worker accepts a
session that it has refused. The latest acceptance is printed beside the delays of the
event loops.

Exits with 1 if one is missed, and with 130 at Ctrl-C. No process is left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from bench.rig import half_load
from bench.rig.core_stage import Report, Seen
from bench.rig.replica_stage import (
    PATIENCE_S,
    REPLICAS,
    WORKERS,
    Replica,
    Store,
    enter,
    replicas,
    until_connected,
)
from bench.rig.report import percentile

GOAL_MS = 100.0
_AWAY_S = 3.0
"""How long Redis is away, or hangs."""
_CALLS = 4
"""Clients of each gateway, for the load."""
_PAUSE_S = 0.002
"""Between two requests with a session that was signed out."""


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
        await enter(gateways[number % len(gateways)], f"{what}{number}@example.com")
        for number in range(count)
    ]
    other = await enter(gateways[0], "load@example.com")
    seen = SignOuts()
    async with _load(gateways, other) as load:
        if store is None:
            for access in tokens:
                await _sign_out(gateways, access, seen, PATIENCE_S)
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
                group.create_task(_sign_out(gateways, access, seen, PATIENCE_S))
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
    async with replicas() as (gateways, store):
        await _step(report, gateways, None, "there", count)
        await _step(report, gateways, store, "killed", count)
        await _step(report, gateways, store, "hung", count)
        await _step(report, gateways, None, "again", count)


async def _at_half_load(report: Report, requests: int, sign_outs: int) -> None:
    async with replicas(upstream_module="mirror_upstream") as (gateways, _):
        await half_load.measure(
            report, gateways, requests=requests, sign_outs=sign_outs, goal_ms=GOAL_MS
        )


def main() -> int:
    """Measure, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 sign-outs a step")
    parser.add_argument(
        "--requests", type=int, help="at half load, in place of the steps"
    )
    parser.add_argument(
        "--sign-outs", type=int, help="among them; one for 500 requests, at least 10"
    )
    given = parser.parse_args()
    report = Report()
    print(f"{REPLICAS} gateways of {WORKERS} workers")
    try:
        if given.requests is None:
            asyncio.run(measure(report, 10 if given.quick else 100))
        else:
            sign_outs = given.sign_outs or max(10, given.requests // 500)
            asyncio.run(_at_half_load(report, given.requests, sign_outs))
    except KeyboardInterrupt:
        return 130
    return int(report.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
