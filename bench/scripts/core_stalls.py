"""What stalls of the core leave behind: `make core-stalls`, figures and goals.

The core is stopped by SIGSTOP several times, under a steady load of requests to a route
with `check_database: always` and to one without. At the end, as many checks as there
are places are made at once, and the gateway's sockets and descriptors are counted
after idle connections have ended. Exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.rig.core_stage import (
    PASSWORD,
    Clients,
    Report,
    Seen,
    Stage,
    clients,
    staged,
)

_USERS = 100
"""As many concurrent checks, since those of one session share a call."""
_EVERY_S = 0.01
_IDLE_S = 35.0
"""Longer than an idle connection is kept: to the core 15 s, to the upstream 30 s."""
_BETWEEN_S = 2.0
_PATIENCE_S = 30.0
_MOST_RECOVERY_S = 5.0
"""`core.timeout`: what waits when the core goes on is over then."""


class _Load:
    """Requests at a steady rate, one of two to each route."""

    def __init__(self, here: Clients, tokens: list[str]) -> None:
        self._here = here
        self._tokens = tokens
        self.checked, self.local = Seen(), Seen()

    async def run(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        try:
            for number in itertools.count():
                token = self._tokens[number % len(self._tokens)]
                for seen, path in ((self.checked, "/checked"), (self.local, "/")):
                    task = asyncio.create_task(self._here.get(seen, path, token))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                await asyncio.sleep(_EVERY_S)
        finally:
            await asyncio.gather(*tasks)

    async def recovered_s(self) -> float:
        """Return the seconds until twenty checks in a row were served, at most 30."""
        began = time.perf_counter()
        row = 0
        while row < 20 and time.perf_counter() - began < _PATIENCE_S:
            seen = Seen()
            await self._here.get(seen, "/checked", self._tokens[row])
            row = row + 1 if seen.only("200") else 0
        return time.perf_counter() - began


async def _measure(
    stage: Stage, here: Clients, report: Report, stalls: int, seconds: float
) -> None:
    tokens = []
    for each in range(_USERS):
        email = f"user-{each}@example.com"
        tokens.append((await here.sign(Seen(), "signup", email, PASSWORD))["access"])
    await asyncio.sleep(_IDLE_S)
    sockets, descriptors = stage.sockets(), stage.descriptors()
    load = _Load(here, tokens)
    running = asyncio.create_task(load.run())
    recoveries = []
    for _ in range(stalls):
        await asyncio.sleep(_BETWEEN_S)
        os.kill(stage.core_pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(stage.core_pid, signal.SIGCONT)
        recoveries.append(await load.recovered_s())
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    report.figure(f"checked by the core: {load.checked.words()}")
    report.figure(f"checked here: {load.local.words()}")
    report.goal(
        "0 false 401, and every 503 has Retry-After",
        reached=load.checked.only("200", "503 with Retry-After"),
    )
    report.goal("checks without the core succeed", reached=load.local.only("200"))
    report.goal(
        f"recovery: {', '.join(f'{each:.2f}' for each in recoveries)} s"
        f" (goal {_MOST_RECOVERY_S:.0f})",
        reached=max(recoveries) <= _MOST_RECOVERY_S,
    )
    burst = Seen()
    await asyncio.gather(*(here.get(burst, "/checked", token) for token in tokens))
    report.goal(
        f"{_USERS} checks at once afterwards: {burst.words()}",
        reached=burst.only("200"),
    )
    await asyncio.sleep(_IDLE_S)
    now, opened = stage.sockets(), stage.descriptors()
    report.goal(
        f"sockets to the core, idle: {dict(sockets)} before, {dict(now)} after",
        reached=now["CLOSE-WAIT"] == 0 and now.total() <= max(4, sockets.total()),
    )
    report.goal(
        f"descriptors, idle: {descriptors} before, {opened} after",
        reached=opened <= descriptors + 4,
    )


async def _run(options: argparse.Namespace, report: Report) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        staged(Path(folder), workers=options.workers, tree=options.tree) as stage,
    ):
        async with clients(stage) as here:
            await _measure(stage, here, report, options.stalls, options.seconds)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.core_stalls", description=__doc__
    )
    parser.add_argument("--stalls", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one stall")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tree", type=Path, help="another checkout to measure")
    options = parser.parse_args()
    report = Report()
    print(f"# {options.stalls} stalls of the core, {options.seconds:.0f} s each\n")
    asyncio.run(_run(options, report))
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
