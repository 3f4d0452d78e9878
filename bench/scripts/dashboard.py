"""Draw the dashboard from a real scrape: `make dashboard`, a minute and a half.

A real Prometheus scrapes a gateway with two workers every second, and evaluates the
alert rules, while clients call the gateway and things happen to it: a reload, a killed
worker, a core and a service that hang, refused tokens. Then every panel of
deploy/grafana/dashboard.json is asked from Prometheus and drawn on one page of SVG.

Exits with 1 if a query fails or a panel has no data: then it would be empty for
everybody. Debian's packages `prometheus` and `redis-server` must be installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.rig import prometheus
from bench.rig.callers import Callers
from bench.rig.core_stage import PASSWORD, Clients, Seen, Stage, clients, staged
from bench.rig.innocent import free_port
from bench.rig.lines import Moment, Panel, svg
from bench.rig.processes import CORES, running, worker_pids
from bench.rig.stage import ROOT, forged, say
from bench.rig.tls_rivals import certificate

_SCRAPE_S = 1
_WINDOW = "10s"
"""Grafana's $__rate_interval for such scrapes would be 4 s, and hardly hold a request
of each kind."""
_DASHBOARD = ROOT / "deploy/grafana/dashboard.json"
_ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
_ROUTES = """version: 1
gateway:
  listen:
    - "127.0.0.1:{port}"
    - {{address: "127.0.0.1:TLS", tls: {{certificates: [CERTIFICATE]}}}}
  probes: {{listen: "127.0.0.1:PROBES"}}
  overload: {{lag: 1s}}
  shared: {{redis: "redis://127.0.0.1:REDIS"}}
supertokens:
  connection_uri: http://127.0.0.1:{core}
  recipes: {{emailpassword: {{}}}}
  core: {{timeout: 2s}}
services:
  up:
    targets: ["http://127.0.0.1:{upstream}"]
    limits: {{in_flight: 100, pending: 50}}
  copied: {{targets: ["http://127.0.0.1:{upstream}"], mirror: {{service: shadow}}}}
  shadow: {{targets: ["http://127.0.0.1:{upstream}"]}}
rate_limits: {{few: {{rate: 1/s, key: client}}}}
defaults: {{timeouts: {{response: 2s}}}}
routes:
  - name: open
    path: /open
    service: up
    split: {{to: shadow, weight: 0.2, sticky: none}}
    protected: false
  - {{name: few, path: /few, service: copied, protected: false, rate_limit: [few]}}
  - {{name: checked, path: /checked, service: up, session: {{check_database: always}}}}
  - {{name: private, path: /, service: up}}
"""
_LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")


class NoData(Exception):
    """Prometheus has refused a query, or doesn't answer."""


@dataclass
class Recording:
    """What happened, in seconds since the begin."""

    began: float = field(default_factory=time.time)
    moments: list[Moment] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Note that it happens now."""
        at_s = time.time() - self.began
        self.moments.append(Moment(at_s=at_s, what=what))
        say(f"  {at_s:3.0f} s: {what}")


async def _happen(stage: Stage, here: Clients, times: float) -> Recording:
    """Call the gateway while things happen to it; return what did."""
    seen = Seen()
    tokens = await here.sign(seen, "signup", "one@example.com", PASSWORD)
    recording = Recording()
    callers = Callers(stage.port, tokens["access"].encode(), kept=6, fresh=2)
    async with callers.calling(repeat=True), _mixed(here, tokens["access"]):
        await asyncio.sleep(12 * times)
        recording.note("reload")
        os.kill(stage.pid, signal.SIGHUP)
        await asyncio.sleep(12 * times)
        recording.note("a worker is killed")
        os.kill(min(worker_pids(stage.pid)), signal.SIGKILL)
        await asyncio.sleep(12 * times)
        recording.note("the core hangs for 8 s")
        with _stopped(stage.core_pid):
            await asyncio.sleep(8)
        await asyncio.sleep(12 * times)
        recording.note("the service hangs for 5 s")
        with _stopped(stage.upstream_pid):
            await asyncio.sleep(5)
        await asyncio.sleep(15 * times)
    return recording


@contextlib.asynccontextmanager
async def _mixed(here: Clients, access: str) -> AsyncIterator[None]:
    """Send the rarer kinds of requests while the block runs."""

    async def loop() -> None:
        bad, seen, number = forged(access), Seen(), 0
        while True:
            number += 1
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with asyncio.timeout(5):
                    await here.get(seen, "/checked", access)
                    await here.get(seen, "/private", bad)
                    await here.get(seen, "/few", access)
                    await here.get(seen, "/auth/none", access)
                    if number % 5 == 0:
                        tokens = await here.sign(
                            seen, "signin", "one@example.com", PASSWORD
                        )
                        await here.send(
                            "POST", "/auth/signout", bearer=tokens["access"]
                        )
            await asyncio.sleep(0.1)

    task = asyncio.create_task(loop())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


@contextlib.contextmanager
def _stopped(pid: int) -> Any:
    """Stop a process while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# --- Prometheus ---------------------------------------------------------------------


async def _series(
    http: aiohttp.ClientSession, port: int, query: str, began: float, ended: float
) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
    """Return labels and points of each series of a query over the whole time.

    Raises:
        NoData: Prometheus refuses it.
    """
    for name, value in (
        ("$job", ".*"),
        ("$instance", ".*"),
        ("$__rate_interval", _WINDOW),
    ):
        query = query.replace(name, value)
    form = {
        "query": query,
        "start": f"{began:.3f}",
        "end": f"{ended:.3f}",
        "step": str(_SCRAPE_S),
    }
    url = f"http://127.0.0.1:{port}/api/v1/query_range"
    async with http.post(url, data=form) as reply:
        answer = await reply.json()
    if answer["status"] != "success":
        raise NoData(f"{query}: {answer['error']}")
    return [
        (
            series["metric"],
            [
                (float(at) - began, float(value))
                for at, value in series["values"]
                if math.isfinite(float(value))
            ],
        )
        for series in answer["data"]["result"]
    ]


async def _panels(port: int, began: float, ended: float) -> list[Panel]:
    """Return the dashboard's panels, and one of the alerts, from Prometheus."""
    dashboard = json.loads(_DASHBOARD.read_text())
    alerts: Mapping[str, Any] = {
        "title": "Alerts, pending or firing",
        "targets": [
            {
                "expr": "count by (alertname, alertstate) (ALERTS)",
                "legendFormat": "{{alertname}}, {{alertstate}}",
            }
        ],
    }
    found = []
    async with aiohttp.ClientSession() as http:
        for panel in (*dashboard["panels"], alerts):
            if panel.get("type") == "row":
                continue
            series: dict[str, list[tuple[float, float]]] = {}
            for target in panel["targets"]:
                for labels, points in await _series(
                    http, port, target["expr"], began, ended
                ):
                    name = legend(target.get("legendFormat", ""), labels)
                    if points:
                        series[name] = points
            unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
            found.append(Panel(title=panel["title"], unit=unit, series=series))
    return found


def legend(template: str, labels: Mapping[str, str]) -> str:
    """Return the name of a series, as Grafana writes it."""
    if not template:
        return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return _LEGEND.sub(lambda match: labels.get(match[1], ""), template)


async def _record(folder: Path, times: float) -> tuple[list[Panel], Recording, float]:
    """Return the panels, what happened, and how long it took in seconds."""
    probes, port, tls, redis = (free_port() for _ in range(4))
    cert, key = certificate(folder)
    routes = (
        _ROUTES.replace("PROBES", str(probes))
        .replace("TLS", str(tls))
        .replace("REDIS", str(redis))
        .replace("CERTIFICATE", f'{{{{cert: "{cert}", key: "{key}"}}}}')
    )
    with (
        running(
            [
                *("redis-server", "--bind", "127.0.0.1", "--port", str(redis)),
                *("--save", "", "--appendonly", "no", "--dir", str(folder)),
            ],
            core=CORES,
            port=redis,
            log=folder / "redis.log",
        ),
        staged(folder, workers=2, tree=None, routes=routes) as stage,
        running(
            prometheus.command(
                folder, port=port, probes=probes, every_s=_SCRAPE_S, rules=(_ALERTS,)
            ),
            core=CORES,
            port=port,
            log=folder / "prometheus.log",
        ),
    ):
        await asyncio.sleep(3 * _SCRAPE_S)
        async with clients(stage) as here:
            recording = await _happen(stage, here, times)
        ended = time.time()
        await asyncio.sleep(2 * _SCRAPE_S)
        panels = await _panels(port, recording.began, ended)
    return panels, recording, ended - recording.began


def main() -> int:
    """Record, draw, and say what is empty."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.dashboard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(f"dashboard-{dt.datetime.now(dt.UTC):%Y-%m-%d}.svg"),
        metavar="FILE",
        help="default: dashboard-DATE.svg here",
    )
    parser.add_argument("--quick", action="store_true", help="in half the time")
    options = parser.parse_args()
    for program in ("prometheus", "redis-server"):
        if shutil.which(program) is None:
            print(f"missing: {program} (a package of Debian's)", file=sys.stderr)
            return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory() as folder:
            panels, recording, seconds = asyncio.run(
                _record(Path(folder), 0.4 if options.quick else 1.0)
            )
    except NoData as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    options.out.write_text(
        svg(
            "The gateway's dashboard, from a recorded scrape",
            panels,
            recording.moments,
            seconds=seconds,
            gap_s=3 * _SCRAPE_S,
        )
    )
    empty = [panel.title for panel in panels if not panel.series]
    drawn = sum(len(panel.series) for panel in panels)
    print(f"{len(panels)} panels, {drawn} series: {options.out}")
    for title in empty:
        print(f"empty: {title}", file=sys.stderr)
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
