"""Restarts of a service's targets under load: `make rolling-restart`, a minute.

Three targets are stopped (SIGTERM) and started again, one after the other, each away
for 1 to 3 s. Then all three are away for 3 s at once. Clients send GETs at a fixed rate
meanwhile, and count those that fail (a status of 5xx, a broken reply, or no reply
within 12 s). Caddy with `lb_try_duration`, which is its `hold`, gets the same.

Goal: no request of the gateway's clients fails. Exits with 1 if one does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import uvloop

from bench.rig import builds
from bench.rig.asked import Asked, Load, is_failure
from bench.rig.fault_rivals import ENVIRON
from bench.rig.innocent import free_port
from bench.rig.processes import (
    LOAD_CORE,
    PROXY_CORE,
    DidNotStart,
    listens,
    machine,
    running,
)
from bench.rig.report import Table
from bench.rig.restarting_target import BODY
from bench.rig.stage import TOOLS, install, say

RATE: Final = 200.0
HOLD_S: Final = 10
AWAY_S: Final = (1.0, 2.0, 3.0)
"""How long each target is away, one after the other."""
ALL_AWAY_S: Final = 3.0
_PATIENCE_S: Final = HOLD_S + 2.0
_SETTLE_S: Final = 1.0
_STARTS_S: Final = 30.0
_PIECE_S: Final = 0.1
_GET: Final = b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n"


def _gateway(folder: Path, port: int, ports: Sequence[int]) -> list[str]:
    config = folder / "gateway.yaml"
    targets = ", ".join(f'"http://127.0.0.1:{one}"' for one in ports)
    config.write_text(
        f"""version: 1
gateway:
  listen: "127.0.0.1:{port}"
  limits: {{per_client: {{connections: 4000}}}}
supertokens: {{connection_uri: "http://127.0.0.1:9"}}
services:
  up:
    targets: [{targets}]
    max_connections: 1024
    hold: {HOLD_S}s
routes:
  - {{path: /, service: up, protected: false}}
"""
    )
    program = str(Path(sys.executable).with_name("gateway"))
    return [program, "serve", "-c", str(config), "--log-format", "none"]


def _caddy(folder: Path, port: int, ports: Sequence[int]) -> list[str]:
    """As often as the gateway's first request in the line: every 100 ms."""
    program = builds.find("caddy", TOOLS)
    if program is None:
        raise DidNotStart("caddy isn't installed")
    config = folder / "Caddyfile"
    targets = " ".join(f"127.0.0.1:{one}" for one in ports)
    config.write_text(
        f"""{{
  admin off
  auto_https off
  persist_config off
}}
http://:{port} {{
  bind 127.0.0.1
  reverse_proxy {targets} {{
    lb_policy least_conn
    lb_try_duration {HOLD_S}s
    lb_try_interval 100ms
  }}
}}
"""
    )
    return [program, "run", "--config", str(config), "--adapter", "caddyfile"]


_PROXIES: Mapping[str, Callable[[Path, int, Sequence[int]], list[str]]] = {
    "gateway": _gateway,
    "caddy": _caddy,
}


class _Process:
    """One target, in a process of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.away_s = 0.0
        """How long it took no connections, the last time."""
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Return when it takes connections."""
        self._run()
        end = time.monotonic() + _STARTS_S
        while not await asyncio.to_thread(listens, self.port):
            if time.monotonic() > end:
                raise DidNotStart(f"no target on port {self.port}")
            await asyncio.sleep(0.02)

    def _run(self) -> None:
        words = [sys.executable, "-m", "bench.rig.restarting_target", str(self.port)]
        self._process = subprocess.Popen(words)

    async def stop(self) -> None:
        """Send SIGTERM; return when it has exited."""
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait)
            self._process = None

    async def restart(self, away_s: float) -> None:
        """Be away for *away_s*, and for as long as the start takes."""
        stopped = time.monotonic()
        await self.stop()
        await asyncio.sleep(away_s)
        await self.start()
        self.away_s = time.monotonic() - stopped


async def one_by_one(targets: Sequence[_Process]) -> None:
    """Restart the targets, each when the last one serves again."""
    for target, away_s in zip(targets, AWAY_S, strict=True):
        await target.restart(away_s)
        await asyncio.sleep(_SETTLE_S)


async def all_at_once(targets: Sequence[_Process]) -> None:
    """Restart all targets at the same time."""
    await asyncio.gather(*(target.restart(ALL_AWAY_S) for target in targets))


_STEPS: Mapping[str, Callable[[Sequence[_Process]], Awaitable[None]]] = {
    "one by one": one_by_one,
    "all at once": all_at_once,
}


@asynccontextmanager
async def _started() -> AsyncIterator[list[_Process]]:
    targets = [_Process() for _ in AWAY_S]
    try:
        await asyncio.gather(*(target.start() for target in targets))
        yield targets
    finally:
        await asyncio.gather(*(target.stop() for target in targets))


async def _measure(name: str, step: str) -> tuple[Asked, float]:
    """Return what a proxy's clients got during a step, and the longest time away.

    Raises:
        DidNotStart: the proxy or a target.
    """
    async with _started() as targets:
        with tempfile.TemporaryDirectory() as made:
            folder, port = Path(made), free_port()
            command = _PROXIES[name](folder, port, [each.port for each in targets])
            proxy = running(
                command,
                core=PROXY_CORE,
                port=port,
                log=folder / "log",
                environ=dict(ENVIRON),
            )
            await asyncio.to_thread(proxy.__enter__)
            try:
                load = Load(port, body=BODY, patience_s=_PATIENCE_S)
                await load.run(RATE, _SETTLE_S, [_GET])
                asked = await _while(_STEPS[step](targets), load)
                load.close()
            finally:
                await asyncio.to_thread(proxy.__exit__, None, None, None)
        return asked, max(target.away_s for target in targets)


async def _while(step: Awaitable[None], load: Load) -> Asked:
    """Return the outcomes of requests during *step*, and for a while after it."""
    asked = Asked()
    ends = asyncio.ensure_future(step)
    try:
        while not ends.done():
            await load.send(RATE, _PIECE_S, [_GET], asked)
        await load.send(RATE, _SETTLE_S, [_GET], asked)
        await load.ended()
    finally:
        ends.cancel()
    await ends
    return asked


def table(results: Mapping[tuple[str, str], tuple[Asked, float]]) -> Table:
    """Return a row for each step and proxy."""
    rows: list[tuple[str, ...]] = []
    for (step, name), (asked, away_s) in results.items():
        times = (f"{asked.at(share):,.0f}" for share in (0.5, 0.99, 1.0))
        bad = ", ".join(
            f"{n} {what}" for what, n in asked.outcomes.items() if is_failure(what)
        )
        away = f"{away_s:.1f}"
        counts = (f"{asked.count:,}", f"{asked.failed}")
        rows.append((step, name, away, *counts, *times, bad))
    return Table(
        columns=(
            *("restarted", "who", "away s", "requests", "failed"),
            *("p50 ms", "p99 ms", "max ms", "failures"),
        ),
        rows=rows,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.rolling_restart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=_PROXIES, default=[*_PROXIES])
    options = parser.parse_args()
    # A signal that stops this process must stop its children, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    install()
    os.sched_setaffinity(0, {LOAD_CORE})
    before = machine()
    results: dict[tuple[str, str], tuple[Asked, float]] = {}
    try:
        for step in _STEPS:
            for name in options.only:
                say(f"{step}: {name}")
                results[step, name] = uvloop.run(_measure(name, step))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except DidNotStart as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    print(f"{RATE:.0f} GETs a second, 20 ms each, hold and lb_try_duration {HOLD_S} s")
    print(time.strftime("%Y-%m-%d %H:%M; ") + machine().meanwhile(before), end="\n\n")
    print("\n".join(table(results).markdown()), end="\n\n")
    lost = sum(
        asked.failed for (_, name), (asked, _) in results.items() if name == "gateway"
    )
    print(f"- the gateway loses no request: {'MISSED' if lost else 'reached'}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
