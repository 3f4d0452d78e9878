"""A service with three targets, one of which breaks: `make traffic`, seven minutes.

Each of five proxies, with the settings in `bench.rig.fault_rivals`, gets the same
requests at the same rate while one of its three targets breaks in the same way. Clients
give up after 3 s. Counted from the moment when the target breaks: requests that failed
(a status of 5xx, a broken reply, or given up), how long requests took, and how many
reached the broken target for each request of a client.

Goals, for each fault: no proxy fails fewer requests than the gateway, and none has a
lower p99, apart from 5 ms, which is noise here. Exits with 1 if the gateway fails a
request although it says that it loses none (`LOSES_NONE`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from bench.rig import builds
from bench.rig.asked import Asked, Load
from bench.rig.fault_rivals import ENVIRON, RIVALS, Settings
from bench.rig.fault_targets import BODY, FAULTS, targets
from bench.rig.innocent import free_port
from bench.rig.processes import LOAD_CORE, PROXY_CORE, DidNotStart, machine, running
from bench.rig.report import Table
from bench.rig.stage import TOOLS, install, say

RATE: Final = 200.0
PATIENCE_S: Final = 3.0
NOISE_MS: Final = 5.0
"""A difference of two p99 that says nothing here."""
LOSES_NONE: Final = (
    "none", "black hole", "refused", "slow", "flapping", "silent", "503",
)  # fmt: skip
"""The faults of which no request of the gateway's clients may see anything.

Of the others, they see a part of the reply: it can't be taken back.
"""
_WARM_S: Final = 1.5
"""All targets are in order for so long; the first checks are made."""
_UNKNOWN: Final = frozenset({"refused", "flapping"})
"""The system refuses connections, and nobody can count them."""
_GET: Final = b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one proxy's clients got during one fault."""

    requests: int
    failed: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    share: float | None
    """Requests that reached the broken target, for each of the clients; None: unknown.
    """
    why: str = ""
    """What the failed ones got."""

    @classmethod
    def of(cls, asked: Asked, reached: int | None) -> Result:
        bad = {k: n for k, n in asked.outcomes.items() if not k.startswith("2")}
        return cls(
            requests=asked.count,
            failed=asked.failed,
            p50_ms=asked.at(0.5),
            p99_ms=asked.at(0.99),
            max_ms=asked.at(1.0),
            share=None if reached is None else reached / asked.count,
            why=", ".join(f"{n} {name}" for name, n in sorted(bad.items())),
        )


Results = Mapping[str, Result]
"""By the name of the proxy."""


async def measure(name: str, fault: str, seconds: float) -> Result:
    """Return what the clients of a proxy get when one of its targets breaks.

    Raises:
        DidNotStart: the proxy's program is missing or ended.
    """
    program = _program(name)
    async with targets(3) as three:
        with tempfile.TemporaryDirectory() as made:
            folder, port = Path(made), free_port()
            settings = Settings(
                folder=folder, port=port, targets=[target.port for target in three]
            )
            proxy = running(
                RIVALS[name](settings, program),
                core=PROXY_CORE,
                port=port,
                log=folder / "log",
                environ=dict(ENVIRON),
            )
            await asyncio.to_thread(proxy.__enter__)
            try:
                load = Load(port, body=BODY, patience_s=PATIENCE_S)
                warm = await load.run(RATE, _WARM_S, [_GET])
                if warm.failed:
                    raise DidNotStart(f"{name}: {dict(warm.outcomes)} before the fault")
                await three[-1].begin(fault)
                asked = await load.run(RATE, seconds, [_GET])
                load.close()
            finally:
                await asyncio.to_thread(proxy.__exit__, None, None, None)
        return Result.of(asked, None if fault in _UNKNOWN else three[-1].reached)


def _program(name: str) -> str:
    if name == "gateway":
        return str(Path(sys.executable).with_name("gateway"))
    found = builds.find(name, TOOLS)
    if found is None:
        raise DidNotStart(f"{name} isn't installed")
    return found


# --- what follows from the figures ---


def is_best(results: Results, ours: str = "gateway") -> tuple[bool, bool]:
    """Return whether nobody has fewer failures, and nobody a lower p99, than *ours*.

    The share of failures counts, and a p99 that is lower by more than `NOISE_MS`.
    """
    mine = results[ours]
    failures = min(one.failed / one.requests for one in results.values())
    p99_ms = min(one.p99_ms for one in results.values())
    return (
        mine.failed / mine.requests <= failures,
        mine.p99_ms <= p99_ms + NOISE_MS,
    )


def broken_promises(results: Mapping[str, Results]) -> list[str]:
    """Return the faults that failed a request of the gateway, and shouldn't have."""
    return [
        fault
        for fault in LOSES_NONE
        if fault in results
        and "gateway" in results[fault]
        and results[fault]["gateway"].failed
    ]


def table(results: Mapping[str, Results]) -> Table:
    """Return a row for each fault and proxy."""
    rows: list[tuple[str, ...]] = []
    for fault, by_name in results.items():
        for number, (name, one) in enumerate(by_name.items()):
            share = "?" if one.share is None else f"{one.share:.1%}"
            times = (f"{ms:,.0f}" for ms in (one.p50_ms, one.p99_ms, one.max_ms))
            counts = (f"{one.requests:,}", f"{one.failed:,}")
            shown = "" if number else fault
            rows.append((shown, name, *counts, *times, share, one.why))
    return Table(
        columns=(
            *("fault", "who", "requests", "failed"),
            *("p50 ms", "p99 ms", "max ms", "reached it", "not 200"),
        ),
        rows=rows,
    )


def goals(results: Mapping[str, Results]) -> list[str]:
    """Return a line for each fault that the gateway and another were measured with."""
    lines = []
    for fault, by_name in results.items():
        if "gateway" not in by_name or len(by_name) == 1:
            continue
        fewest, fastest = is_best(by_name)
        verdict = {True: "reached", False: "MISSED"}
        lines.append(
            f"{fault}: fewest failed requests {verdict[fewest]},"
            f" lowest p99 {verdict[fastest]}"
        )
    return lines


# --- the command ---


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.traffic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="of a fault; default 6"
    )
    parser.add_argument("--only", nargs="+", choices=RIVALS, default=[*RIVALS])
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=[*FAULTS])
    options = parser.parse_args()
    # A signal that stops this process must stop its children, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    install()
    os.sched_setaffinity(0, {LOAD_CORE})
    before = machine()
    try:
        results = _all(options.only, options.faults, options.seconds)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(f"{RATE:.0f} requests a second, {options.seconds:g} s of each fault")
    print(time.strftime("%Y-%m-%d %H:%M; ") + machine().meanwhile(before), end="\n\n")
    print("\n".join(table(results).markdown()), end="\n\n")
    for line in goals(results):
        print(f"- {line}")
    broken = broken_promises(results)
    for fault in broken:
        print(f"- {fault}: the gateway loses no request MISSED")
    return 1 if broken else 0


def _all(
    names: Sequence[str], faults: Sequence[str], seconds: float
) -> dict[str, Results]:
    results: dict[str, Results] = {}
    for fault in faults:
        by_name: dict[str, Result] = {}
        for name in names:
            say(f"{fault}: {name}")
            try:
                by_name[name] = uvloop.run(measure(name, fault, seconds))
            except DidNotStart as exc:
                say(f"  {name} is left out: {exc}")
        results[fault] = by_name
    return results


if __name__ == "__main__":
    sys.exit(main())
