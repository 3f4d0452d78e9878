"""How a failing core affects other requests: `make faults`, figures and goals.

The gateway has a process and a CPU core for itself; the SuperTokens core, the upstream
and the load share another. A task in the gateway measures stalls of its event loop.
Exits with 1 if a goal is missed.

1 The SuperTokens core accepts connections and never answers, while one client sends
  1,000 forged key ids a second. Quiet runs alternate with it, so that noise affects
  both. The median of all turns counts.
2 The core rotates its keys under load, and clients send its new tokens at once.
3 The core is killed under load, and started again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.rig.processes import LOAD_CORE, PROXY_CORE, running
from gateway.dev.core import CoreSettings, ThreadedCore, serve_in_thread

_GATEWAY, _UPSTREAM, _CORE = 9401, 9402, 9403
_ORIGIN = "http://localhost:8000"
_JWKS = "/.well-known/jwks.json"
_VERIFY = "*/recipe/session/verify"

_RATE = 300
"""Requests a second to the public route, and as many to the protected one."""
_FORGED = 1_000
"""Forged key ids a second."""

_ROUTES = f"""version: 1
gateway: {{listen: "127.0.0.1:{_GATEWAY}"}}
supertokens:
  connection_uri: http://127.0.0.1:{_CORE}
  api_domain: {_ORIGIN}
  website_domain: {_ORIGIN}
services:
  up: {{targets: [{{url: "http://127.0.0.1:{_UPSTREAM}"}}]}}
routes:
  - {{path: /open, service: up, protected: false}}
  - {{path: /checked, service: up, session: {{check_database: always}}}}
  - {{path: /, service: up}}
"""

Request = tuple[str, str]
"""The name of a request in the figures, and its head."""


@dataclass
class Report:
    """Figures, and the goals that they miss."""

    lines: list[str] = field(default_factory=list)
    missed: int = 0

    def title(self, text: str) -> None:
        self.lines += ["", f"## {text}", ""]

    def figure(self, text: str) -> None:
        self.lines.append(f"- {text}")

    def goal(self, text: str, *, reached: bool) -> None:
        self.missed += not reached
        self.lines.append(f"- {text}: {'reached' if reached else 'MISSED'}")


class Gateway:
    """The gateway's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._line() == "ready"

    def stall_ms(self) -> float:
        """Return the longest stall of its event loop since the last call, in ms."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.faults", description=__doc__
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one turn")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    report = Report(["# A core in trouble"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(_all(folder, report, options.turns, options.seconds))
    print("\n".join(report.lines))
    return 1 if report.missed else 0


async def _all(folder: Path, report: Report, turns: int, seconds: float) -> None:
    settings = CoreSettings(database=folder / "core.sqlite")
    upstream = [sys.executable, "-m", "bench.rig.small_upstream", str(_UPSTREAM)]
    with (
        contextlib.ExitStack() as core_life,
        running(upstream, core=LOAD_CORE, port=_UPSTREAM, log=folder / "upstream.log"),
    ):
        core = core_life.enter_context(serve_in_thread(settings, port=_CORE))
        with _gateway(folder) as gateway:
            await _hang(report, gateway, core, turns, seconds)
            await _rotate(report, core, seconds)
            await _kill(report, core, core_life, settings, seconds)


@contextlib.contextmanager
def _gateway(folder: Path) -> Iterator[Gateway]:
    config = folder / "routes.yaml"
    config.write_text(_ROUTES)
    with subprocess.Popen(
        [
            *("taskset", "-c", str(PROXY_CORE)),
            *(sys.executable, "-m", "bench.rig.monitored", str(config)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Gateway(process)
        finally:
            process.terminate()


# --- 1 a hung core and forged key ids -------------------------------------------------


async def _hang(
    report: Report, gateway: Gateway, core: ThreadedCore, turns: int, seconds: float
) -> None:
    tokens = await _sessions(20)
    forged_payload = tokens[0].split(".")[1]
    load = [("public", _get("/open")), ("protected", _get("/", tokens[0]))]
    forged = [("forged", _get("/", "{forged}"))]
    await _steady(load, rate=2 * _RATE, seconds=1)  # connections, keys, caches
    quiet: list[dict[str, Any]] = []
    flooded: list[dict[str, Any]] = []
    stalls: dict[str, list[float]] = {"quiet": [], "flooded": []}
    flood: Counter[str] = Counter()
    fetches = 0
    for _ in range(turns):
        gateway.stall_ms()
        quiet.append(await _steady(load, rate=2 * _RATE, seconds=seconds))
        stalls["quiet"].append(gateway.stall_ms())
        core.core.faults.forget_calls()
        core.core.faults.hang()
        outcomes, answered = await asyncio.gather(
            _steady(load, rate=2 * _RATE, seconds=seconds),
            _steady(
                forged,
                rate=_FORGED,
                seconds=seconds,
                connections=1_000,
                payload=forged_payload,
            ),
        )
        stalls["flooded"].append(gateway.stall_ms())
        fetches += core.core.faults.count(_JWKS)
        flooded.append(outcomes)
        flood.update(answered["counts"])
        core.core.faults.clear()
    report.title(f"The core hangs, {_FORGED} forged key ids a second")
    report.figure(
        f"{turns} turns of {seconds:.0f} s, {_RATE} requests a second to each route"
    )
    report.figure(f"fetches of the keys: {fetches}")
    report.figure(f"the flood was answered: {_words(flood)}")
    for name in ("public", "protected"):
        before = statistics.median(run["p99_ms"][name] for run in quiet)
        during = statistics.median(run["p99_ms"][name] for run in flooded)
        report.goal(
            f"{name} p99: {before:.1f} ms quiet, {during:.1f} ms flooded,"
            f" {during / before:.2f} times (goal 2)",
            reached=during <= 2 * before,
        )
    worst = max(stalls["flooded"])
    report.goal(
        f"longest stall of the event loop: {max(stalls['quiet']):.0f} ms quiet,"
        f" {worst:.0f} ms flooded (goal 50)",
        reached=worst <= 50,
    )
    counts = sum((Counter(run["counts"]) for run in flooded), Counter())
    report.goal(
        f"all other requests were served: {_words(counts)}",
        reached=_only(counts, "public: 200", "protected: 200"),
    )
    report.goal(
        "every forged token was refused: 503 with Retry-After, or 401",
        reached=_only(flood, "forged: 503 with Retry-After", "forged: 401"),
    )


# --- 2 keys are rotated ---------------------------------------------------------------


async def _rotate(report: Report, core: ThreadedCore, seconds: float) -> None:
    rotations = max(2, int(seconds / 1.5))
    core.core.faults.forget_calls()
    tokens = await _sessions(20)
    counts: Counter[str] = Counter()

    async def rotate() -> None:
        for _ in range(rotations):
            await asyncio.sleep(1.5)  # further apart than `keys.cooldown`
            await asyncio.to_thread(core.do, core.core.rotate_keys())
            new = await _sessions(20)
            outcomes = await _steady(
                [("new key", _get("/", token)) for token in new],
                rate=1_000,
                seconds=0.2,
            )
            counts.update(outcomes["counts"])

    load = [("old key", _get("/", token)) for token in tokens]
    outcomes, _ = await asyncio.gather(
        _steady(load, rate=_RATE, seconds=rotations * 2.5), rotate()
    )
    counts.update(outcomes["counts"])
    report.title(f"{rotations} key rotations under load")
    report.figure(
        f"fetches of the keys: {core.core.faults.count(_JWKS)}; the new key signs at"
        " once, where a real core shows it for 60 s first"
    )
    report.goal(
        f"no request was refused: {_words(counts)}",
        reached=_only(counts, "old key: 200", "new key: 200"),
    )


# --- 3 the core is killed -------------------------------------------------------------


async def _kill(
    report: Report,
    core: ThreadedCore,
    life: contextlib.ExitStack,
    settings: CoreSettings,
    seconds: float,
) -> None:
    tokens = await _sessions(20)
    checked = [("checked", _get("/checked", token)) for token in tokens]
    local = [("local", _get("/", token)) for token in tokens]
    public = [("public", _get("/open"))] * len(tokens)
    load = [each for trio in zip(checked, local, public, strict=True) for each in trio]
    before = await _steady(load, rate=_RATE, seconds=seconds / 2)
    core.core.faults.hang(_VERIFY)

    async def kill() -> None:
        await asyncio.sleep(seconds / 2)  # while calls to it are in flight
        await asyncio.to_thread(life.close)

    during, _ = await asyncio.gather(
        _steady(load, rate=_RATE, seconds=2 * seconds), kill()
    )
    restarted = time.monotonic()
    with contextlib.ExitStack() as second:
        await asyncio.to_thread(
            second.enter_context, serve_in_thread(settings, port=_CORE)
        )
        while True:
            outcomes = await _steady(checked, rate=20, seconds=0.1)
            if set(outcomes["counts"]) - {"unanswered"} == {"checked: 200"}:
                break
        took_s = time.monotonic() - restarted
        after = await _steady(load, rate=_RATE, seconds=seconds / 2)
        await asyncio.to_thread(second.close)
    report.title("The core hangs, is killed, and started again")
    counts = Counter(during["counts"])
    report.figure(f"before: {_words(Counter(before['counts']))}")
    report.figure(f"after: {_words(Counter(after['counts']))}, {took_s:.1f} s later")
    report.goal(
        f"while it was down: {_words(counts)}; no 401, and 503 has Retry-After",
        reached=_only(
            counts, "public: 200", "local: 200", "checked: 503 with Retry-After"
        ),
    )


# --- the load -------------------------------------------------------------------------


def _get(path: str, token: str | None = None) -> str:
    token_field = "" if token is None else f"Authorization: Bearer {token}\r\n"
    return f"GET {path} HTTP/1.1\r\nHost: localhost:8000\r\n{token_field}\r\n"


async def _steady(
    requests: Sequence[Request],
    *,
    rate: float,
    seconds: float,
    connections: int = 500,
    payload: str | None = None,
) -> dict[str, Any]:
    """Send *requests* in turn at *rate* a second, from another process.

    Return the outcomes, as `bench.rig.steady` prints them.
    """
    job: dict[str, Any] = {
        "port": _GATEWAY,
        "rate": rate,
        "seconds": seconds,
        "connections": connections,
        "requests": requests,
        "start": time.time() + 0.5,
    }
    if payload is not None:
        job["payload"] = payload
    process = await asyncio.create_subprocess_exec(
        "taskset",
        *("-c", str(LOAD_CORE), sys.executable, "-m", "bench.rig.steady"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate(json.dumps(job).encode() + b"\n")
    outcomes = json.loads(output)
    assert isinstance(outcomes, dict)
    return outcomes


async def _sessions(count: int) -> list[str]:
    """Return access tokens of new sessions."""
    made = []
    async with aiohttp.ClientSession() as http:
        for number in range(count):
            async with http.post(
                f"http://127.0.0.1:{_CORE}/public/recipe/session",
                json={
                    "userId": f"user-{number}",
                    "userDataInJWT": {"iss": f"{_ORIGIN}/auth"},
                    "userDataInDatabase": {},
                    "useDynamicSigningKey": True,
                    "enableAntiCsrf": False,
                },
                headers={"cdi-version": "5.4"},
            ) as reply:
                made.append((await reply.json())["accessToken"]["token"])
    return made


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _only(counts: Counter[str], *names: str) -> bool:
    """Return whether there are counts, and all of them are under *names*."""
    names_counted = {name for name, count in counts.items() if count}
    return bool(names_counted) and names_counted <= {*names}


if __name__ == "__main__":
    sys.exit(main())
