"""What many sign-ins at once cost: `make sign-in-burst`, figures and goals.

The embedded core hashes passwords at the real one's cost. All users sign up or in at
once, and then many clients send wrong passwords at once. Meanwhile other clients send
requests to a route with `check_database: always`, and refresh their sessions. Exits
with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from bench.rig.core_stage import PASSWORD, Clients, Report, Seen, clients, staged

_CHECKERS = 10
_CHECK_EVERY_S = 0.05
_REFRESH_EVERY_S = 0.25
_QUIET_S = 4.0
_MOST_CHECK_MS = 1000.0
"""The longest that a session check may take beside sign-ins, on two CPUs, unless the
core itself takes long."""
_MOST_TIMES = 2
"""How often the core's own time a session check may take: it asks the core twice."""


class _Meanwhile:
    """The other clients: session checks and refreshes at a steady rate."""

    def __init__(self, here: Clients, tokens: list[dict[str, str]]) -> None:
        self._here = here
        self._tokens = tokens
        self._refreshing = tokens.pop()
        self.checks, self.refreshes, self.direct = Seen(), Seen(), Seen()

    async def during(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run *work*; `checks`, `refreshes` and `direct` are then of this time."""
        self.checks, self.refreshes, self.direct = Seen(), Seen(), Seen()
        task = asyncio.ensure_future(work)
        await asyncio.gather(
            self._check(task), self._refresh(task), self._ask_core(task), task
        )

    async def _ask_core(self, until: asyncio.Future[Any]) -> None:
        """Ask the core itself: what it takes then isn't the gateway's doing."""
        while not until.done():
            await self._here.ask_core(self.direct)
            await asyncio.sleep(_CHECK_EVERY_S)

    async def _check(self, until: asyncio.Future[Any]) -> None:
        tasks = set()
        number = 0
        while not until.done():
            tokens = self._tokens[number % len(self._tokens)]
            number += 1
            tasks.add(
                asyncio.create_task(
                    self._here.get(self.checks, "/checked", tokens["access"])
                )
            )
            await asyncio.sleep(_CHECK_EVERY_S)
        await asyncio.gather(*tasks)

    async def _refresh(self, until: asyncio.Future[Any]) -> None:
        while not until.done():
            new = await self._here.refresh(self.refreshes, self._refreshing["refresh"])
            self._refreshing = new or self._refreshing
            await asyncio.sleep(_REFRESH_EVERY_S)

    def tell(self, report: Report) -> None:
        report.figure(f"session checks meanwhile: {self.checks.words()}")
        report.figure(f"refreshes meanwhile: {self.refreshes.words()}")
        report.figure(f"the core itself meanwhile: {self.direct.words()}")


async def _measure(here: Clients, report: Report, number: int, wrong: int) -> None:
    tokens = [
        await here.sign(Seen(), "signup", f"checker-{each}@example.com", PASSWORD)
        for each in range(_CHECKERS + 1)
    ]
    meanwhile = _Meanwhile(here, tokens)
    print(f"\n## Quiet, {_QUIET_S:.0f} s\n")
    await meanwhile.during(asyncio.sleep(_QUIET_S))
    meanwhile.tell(report)

    emails = [f"user-{each}@example.com" for each in range(number)]
    for api, title in (("signup", "sign-ups"), ("signin", "sign-ins")):
        print(f"\n## {number} {title} at once\n")
        users = await here.users()
        seen = Seen()
        await meanwhile.during(
            _all(here.sign(seen, api, email, PASSWORD) for email in emails)
        )
        made = await here.users() - users
        report.figure(f"{title}: {seen.words()}")
        report.figure(f"users made: {made}")
        meanwhile.tell(report)
        report.goal(f"all {title} succeed", reached=seen.only("200"))
        if api == "signup":
            report.goal(
                "as many users as successes", reached=made == seen.statuses["200"]
            )
        _judge(report, meanwhile)

    print(f"\n## {wrong} wrong passwords at once\n")
    seen = Seen()
    await meanwhile.during(
        _all(
            here.sign(seen, "signin", emails[each % number], "wrong-horse-1")
            for each in range(wrong)
        )
    )
    report.figure(f"wrong passwords: {seen.words()}")
    meanwhile.tell(report)
    _judge(report, meanwhile)


def _judge(report: Report, meanwhile: _Meanwhile) -> None:
    report.goal("every session check succeeds", reached=meanwhile.checks.only("200"))
    report.goal("every refresh succeeds", reached=meanwhile.refreshes.only("200"))
    most = max(_MOST_CHECK_MS, _MOST_TIMES * max(meanwhile.direct.ms))
    report.goal(
        f"no session check takes {_MOST_CHECK_MS:.0f} ms, nor {_MOST_TIMES} times as"
        " long as the core itself",
        reached=max(meanwhile.checks.ms) < most,
    )


async def _all(work: Any) -> None:
    await asyncio.gather(*work)


async def _run(options: argparse.Namespace, report: Report) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        staged(Path(folder), workers=options.workers, tree=options.tree) as stage,
    ):
        async with clients(stage) as here:
            await _measure(here, report, options.number, options.wrong)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.sign_in_burst", description=__doc__
    )
    parser.add_argument("--number", type=int, default=40, help="of sign-ups at once")
    parser.add_argument("--wrong", type=int, default=300, help="passwords at once")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tree", type=Path, help="another checkout to measure")
    options = parser.parse_args()
    report = Report()
    print("# Many sign-ins at once")
    asyncio.run(_run(options, report))
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
