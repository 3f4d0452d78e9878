"""A long mixed load with faults in the middle: `make soak`, ten minutes by default.

Users with sessions of their own do everything that users do (`bench.rig.visitors`),
through a gateway with two workers, a core and an upstream in processes of their own. In
the middle, the gateway is reloaded, a worker is killed, the core is stopped and goes
on, and the upstream is slow and stopped.

Goals: each reply is the caller's own, no valid session is refused, no other token
is accepted, and all users are served at the end. With the load paused, no process
holds more sockets and descriptors than after the warm-up, and none in CLOSE-WAIT. The
memory of each process is a figure, as MiB and MiB an hour.

Exits with 1 if a goal is missed, and with 130 at Ctrl-C. No process is left in either
case.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import aiohttp

from bench.rig.core_stage import PASSWORD, Clients, Report, Stage, clients, staged
from bench.rig.processes import (
    descriptors,
    machine,
    resident_bytes,
    sockets_of,
    worker_pids,
)
from bench.rig.visitors import Outcomes, Visitor, keep_visiting
from gateway.dev.core import Core, CoreSettings, serve_in_thread

_MIB = 1024 * 1024
_USERS = 60
_EXPIRED = 10
_IDLE_S = 40.0
"""Longer than an idle connection is kept: to the core 15 s, to the upstream 30 s."""
_WARM_UP = 0.1
"""The share of the time before the first measurement."""
_MIDDLE = (0.4, 0.6)
"""The shares of the time between which there are faults."""
_ROUND_S = 60.0
_STALL_S = 8.0
"""Longer than the deadline of a call to the core."""
_SLOW_S = 0.5
_SETTLED_S = 5.0
_REPLACED_S = 60.0
"""Longer than the drain of a worker, on a busy machine too."""
_PATIENCE_S = 30.0
_ROWS = 12
_SAMPLES = 120
_SPARE = 2
"""Descriptors that a process may have more than after the warm-up."""
_ROUTES = """version: 1
gateway: {{listen: "127.0.0.1:{port}"}}
supertokens:
  connection_uri: http://127.0.0.1:{core}
  recipes: {{emailpassword: {{}}}}
services:
  up: {{targets: ["http://127.0.0.1:{upstream}"]}}
routes:
  - {{path: /open, service: up, protected: false}}
  - {{path: /optional, service: up, protected: optional}}
  - {{path: /checked, service: up, session: {{check_database: always}}}}
  - path: /socket
    service: up
    websocket: {{allowed_origins: ["http://localhost:8000"]}}
  - {{path: /, service: up}}
"""


def expired_tokens(database: Path) -> list[str]:
    """Return tokens that the core with this database signed two hours ago."""
    made = Core(CoreSettings(database=database), clock=lambda: time.time() - 7200)
    with contextlib.closing(made), serve_in_thread(made) as core:

        async def ask() -> list[str]:
            async with aiohttp.ClientSession(headers={"cdi-version": "5.4"}) as http:

                async def post(path: str, body: object) -> dict[str, dict[str, str]]:
                    async with http.post(core.url + path, json=body) as reply:
                        return dict(await reply.json(content_type=None))

                account = {"email": "expired@example.com", "password": PASSWORD}
                user = (await post("/recipe/signup", account))["user"]["id"]
                session = {
                    "userId": user,
                    "userDataInJWT": {},
                    "userDataInDatabase": {},
                    "enableAntiCsrf": False,
                }
                return [
                    (await post("/recipe/session", session))["accessToken"]["token"]
                    for _ in range(_EXPIRED)
                ]

        return asyncio.run(ask())


# --- levels ---------------------------------------------------------------------


class Level(NamedTuple):
    """What a process holds while nothing is asked."""

    role: str
    descriptors: int
    sockets: Counter[str]

    def words(self) -> str:
        held = ", ".join(f"{n} {state}" for state, n in sorted(self.sockets.items()))
        return f"{self.role}: {self.descriptors} descriptors, sockets: {held or 'none'}"


def roles(stage: Stage) -> dict[int, str]:
    """Return the gateway's processes by id: supervisor, hub, then the workers."""
    workers = worker_pids(stage.pid)
    return {
        pid: "supervisor" if pid == stage.pid else "worker" if pid in workers else "hub"
        for pid in stage.processes()
    }


def levels(stage: Stage) -> list[Level]:
    return [
        Level(role, descriptors(pid), sockets_of(pid))
        for pid, role in roles(stage).items()
    ]


def judge_levels(before: list[Level], after: list[Level], report: Report) -> None:
    """Report each process beside those of its role before."""
    for level in after:
        others = [each for each in before if each.role == level.role]
        most = max((each.descriptors for each in others), default=0)
        sockets = max((each.sockets.total() for each in others), default=0)
        report.goal(
            f"{level.words()} (before: {most} descriptors, {sockets} sockets)",
            reached=level.descriptors <= most + _SPARE
            and level.sockets.total() <= sockets + _SPARE
            and level.sockets["CLOSE-WAIT"] == 0,
        )
    count = Counter(each.role for each in after)
    report.goal(
        f"processes: {dict(count)}",
        reached=count == Counter(each.role for each in before),
    )


# --- memory ---------------------------------------------------------------------


@dataclass
class Memory:
    """The resident memory of one process, as (seconds, bytes)."""

    role: str
    samples: list[tuple[float, int]]

    def slope(self, since: float) -> float | None:
        """Return MiB an hour by least squares, for a share of its life to the end."""
        first, last = self.samples[0][0], self.samples[-1][0]
        used = [
            (at, mem)
            for at, mem in self.samples
            if at >= first + since * (last - first)
        ]
        if len(used) < 4:
            return None
        mean_at = sum(at for at, _ in used) / len(used)
        mean = sum(mem for _, mem in used) / len(used)
        spread = sum((at - mean_at) ** 2 for at, _ in used)
        both = sum((at - mean_at) * (mem - mean) for at, mem in used)
        return both / spread * 3600 / _MIB


class Watch:
    """Samples of every process that the gateway has had."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._began = time.monotonic()
        self.by_pid: dict[int, Memory] = {}
        self.rows: list[tuple[float, dict[int, int]]] = []

    def sample(self) -> None:
        at = time.monotonic() - self._began
        row = {}
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for pid, role in roles(self._stage).items():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    if resident := resident_bytes(pid):  # a killed one has none
                        row[pid] = resident
                        memory = self.by_pid.setdefault(pid, Memory(role, []))
                        memory.samples.append((at, resident))
        self.rows.append((at, row))

    async def keep(self, every_s: float) -> None:
        while True:
            self.sample()
            await asyncio.sleep(every_s)

    def table(self) -> Iterator[str]:
        """Yield a table of resident memory, in MiB."""
        yield "| minute | supervisor | hub | workers |"
        yield "|---|---|---|---|"
        step = max(1, len(self.rows) // _ROWS)
        for at, row in self.rows[::step]:
            cells = [
                " ".join(
                    f"{mem / _MIB:.1f}"
                    for pid, mem in row.items()
                    if self.by_pid[pid].role == role
                )
                for role in ("supervisor", "hub", "worker")
            ]
            yield f"| {at / 60:.1f} | {' | '.join(cells)} |"

    def slopes(self) -> Iterator[str]:
        """Yield a line for each process that lived for a tenth of the time."""
        whole = self.rows[-1][0]
        for pid, memory in self.by_pid.items():
            (begun, first), (ended, last) = memory.samples[0], memory.samples[-1]
            rates = [memory.slope(since) for since in (0.0, 0.5)]
            if ended - begun < whole / 10 or None in rates:
                continue
            yield (
                f"{memory.role} {pid}, minutes {begun / 60:.1f} to {ended / 60:.1f}:"
                f" {first / _MIB:.1f} to {last / _MIB:.1f} MiB,"
                f" {rates[0]:+.1f} MiB/h; second half {rates[1]:+.1f} MiB/h"
            )


# --- faults ---------------------------------------------------------------------


class Faults:
    """What others do to the gateway, the core and the upstream meanwhile."""

    def __init__(
        self, stage: Stage, visitors: Sequence[Visitor], chance: random.Random
    ):
        self._stage = stage
        self._visitors = visitors
        self._chance = chance
        self.done: Counter[str] = Counter()
        self.not_replaced = 0

    async def round(self, *, replace_workers: bool) -> None:
        if replace_workers:
            await self._reload()
            await self._kill()
        await self._stop("core stopped", self._stage.core_pid, _STALL_S)
        await self._slow()
        await self._stop("upstream stopped", self._stage.upstream_pid, 3.0)

    async def _reload(self) -> None:
        before = worker_pids(self._stage.pid)
        os.kill(self._stage.pid, signal.SIGHUP)
        self.done["reload"] += 1
        await self._replaced(before, len(before))

    async def _kill(self) -> None:
        before = worker_pids(self._stage.pid)
        pid = self._chance.choice(sorted(before))
        os.kill(pid, signal.SIGKILL)
        self.done["worker killed"] += 1
        await self._replaced({pid}, len(before))

    async def _replaced(self, old: set[int], count: int) -> None:
        """Wait until there are *count* workers, none of them an old one."""
        deadline = time.monotonic() + _REPLACED_S
        while (now := worker_pids(self._stage.pid)) & old or len(now) != count:
            if time.monotonic() > deadline:
                self.not_replaced += 1
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(_SETTLED_S)

    async def _stop(self, what: str, pid: int, seconds: float) -> None:
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
        self.done[what] += 1
        await asyncio.sleep(_SETTLED_S)

    async def _slow(self) -> None:
        for visitor in self._visitors:
            visitor.wait_s = _SLOW_S
        await asyncio.sleep(_SETTLED_S)
        for visitor in self._visitors:
            visitor.wait_s = 0.0
        self.done["upstream slow"] += 1
        await asyncio.sleep(_SETTLED_S)


# --- the run --------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Do the work until the block ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Run:
    """One run against a stage."""

    def __init__(
        self, options: argparse.Namespace, stage: Stage, here: Clients, report: Report
    ) -> None:
        self._options = options
        self._stage = stage
        self._report = report
        self._chance = random.Random(options.seed)  # noqa: S311 - a repeatable load
        self._outcomes = Outcomes()
        self._here = here
        self._visitors: list[Visitor] = []

    async def measure(self, expired: list[str]) -> None:
        for number in range(_USERS):
            visitor = Visitor(
                f"user-{number}", self._here, self._outcomes, self._chance, expired
            )
            await visitor.sign_up()
            self._visitors.append(visitor)
        whole_s = self._options.minutes * 60
        before_load = machine()
        await self._load(whole_s * _WARM_UP)
        before = await self._idle()
        watch = Watch(self._stage)
        faults = Faults(self._stage, self._visitors, self._chance)
        async with _meanwhile(watch.keep(max(1.0, whole_s / _SAMPLES))):
            await self._load(whole_s * _MIDDLE[0])
            async with _meanwhile(self._visit()):
                rounds = max(1, round(whole_s * (_MIDDLE[1] - _MIDDLE[0]) / _ROUND_S))
                for _ in range(rounds):
                    await faults.round(replace_workers=not self._options.calm)
            await self._load(whole_s * (1 - _MIDDLE[1]))
        self._identities(faults)
        await self._all_served()
        judge_levels(before, await self._idle(), self._report)
        for line in watch.slopes():
            self._report.figure(line)
        self._report.figure(machine().meanwhile(before_load))
        print("\nResident memory, MiB:\n")
        print("\n".join(watch.table()))

    async def _visit(self) -> None:
        await keep_visiting(self._visitors, self._options.rate, self._chance)

    async def _load(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._visit()

    async def _idle(self) -> list[Level]:
        await asyncio.sleep(_IDLE_S)
        return levels(self._stage)

    def _identities(self, faults: Faults) -> None:
        outcomes = self._outcomes
        done = ", ".join(f"{n} x {what}" for what, n in faults.done.items())
        self._report.figure(f"{outcomes.requests} requests; {done}")
        for action, counts in outcomes.counts.items():
            words = ", ".join(f"{n} of {what}" for what, n in counts.most_common())
            self._report.figure(f"{action}: {words}"[:400])
        for line in outcomes.wrong:
            self._report.figure(f"WRONG: {line}")
        self._report.goal(
            f"{outcomes.wrong_count} replies of another user, false 401, or bad tokens"
            " that were accepted",
            reached=outcomes.wrong_count == 0,
        )

        self._report.goal(
            f"{faults.not_replaced} reloads and kills after which old workers were left"
            f" or new ones missing for {_REPLACED_S:.0f} s",
            reached=faults.not_replaced == 0,
        )

    async def _all_served(self) -> None:
        began = time.monotonic()
        left = list(self._visitors)
        while left and time.monotonic() - began < _PATIENCE_S:
            left = [each for each in left if not await each.is_served()]
        self._report.goal(
            f"{len(self._visitors) - len(left)} of {len(self._visitors)} users are"
            f" served at the end, after {time.monotonic() - began:.1f} s",
            reached=not left,
        )


async def _run(options: argparse.Namespace, report: Report, folder: Path) -> None:
    expired = await asyncio.to_thread(expired_tokens, folder / "core.sqlite")
    with staged(
        folder,
        workers=options.workers,
        tree=options.tree,
        routes=_ROUTES,
        upstream_module="identity_upstream",
        core_options=(),
    ) as stage:
        async with clients(stage) as here:
            await Run(options, stage, here, report).measure(expired)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "minutes", type=float, nargs="?", default=10.0, help="of load (10)"
    )
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="of the load (1)")
    parser.add_argument(
        "--calm",
        action="store_true",
        help="neither reload nor kill, so that the workers live for the whole run",
    )
    parser.add_argument("--tree", type=Path, help="another checkout to measure")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = Report()
    print(f"# {options.minutes:g} minutes of load, {options.workers} workers\n")
    try:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(_run(options, report, Path(folder)))
    except KeyboardInterrupt:
        print("interrupted: the gateway, the core and the upstream were stopped")
        return 130
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
