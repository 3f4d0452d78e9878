"""What metrics cost a request: `make bench-scrape`, about a minute and a half.

The gateway is measured without probes, with probes that nobody asks, and with a real
Prometheus that scrapes it every second, fifteen times as often as usual. The time is
that of all its processes, so the hub's work for a scrape counts. Rounds go through all
three in turn. Then the series of one scrape are counted, by route.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.rig import client, prometheus
from bench.rig.innocent import free_port
from bench.rig.load import Sample, run
from bench.rig.processes import LOAD_CORE, running
from bench.rig.report import Table, spread
from bench.rig.rivals import ONE_WORKER, PORTS, Rival, Stage, gateway_config
from bench.rig.script import measured, parsed

CONNECTIONS = 64
_EVERY_S = 1
_PROBES = PORTS["gateway"] + 300
NONE, UNASKED, SCRAPED = "without probes", "probes", "probes, scraped"
_ROUTE = re.compile(r'^gateway_\w+\{[^}]*\broute="([^"]*)"', re.MULTILINE)
_LINE = re.compile(r"^gateway_", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Scrape:
    """One answer of `/metrics`."""

    series: int
    size: int
    """In bytes."""
    by_route: dict[str, int]


def _command(*, has_probes: bool) -> Callable[[Stage, str], list[str]]:
    def command(stage: Stage, program: str) -> list[str]:
        config = gateway_config(stage, "gateway", cache_size=20000)
        more = ["--probes-listen", f"127.0.0.1:{_PROBES}"] if has_probes else []
        return [program, "serve", "-c", str(config), "--log-format", "none", *more]

    return command


GATEWAYS = tuple(
    Rival(
        name=name,
        does="verifies the session",
        program="gateway",
        port=PORTS["gateway"],
        command=_command(has_probes=name != NONE),
        verifies=True,
        environ=ONE_WORKER,
    )
    for name in (NONE, UNASKED, SCRAPED)
)


def scrape(text: str) -> Scrape:
    """Return what is in a text of metrics."""
    return Scrape(
        series=len(_LINE.findall(text)),
        size=len(text.encode()),
        by_route=dict(Counter(_ROUTE.findall(text))),
    )


def _asked() -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{_PROBES}/metrics") as reply:
        return scrape(reply.read().decode())


class Measurement:
    """Measures one gateway after the other."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.last: Scrape | None = None
        """What was answered after the last load."""

    def sample(self, stage: Stage, rival: Rival, pids: tuple[int, ...]) -> Sample:
        """Return the sample of a running gateway."""

        def load(seconds: float) -> Sample:
            return run(
                rival.port,
                client.head(rival.port, "/orders", token=stage.token),
                pids=pids,
                has=f'"user":"{stage.user}"',
                seconds=seconds,
                connections=CONNECTIONS,
                folder=stage.folder,
            )

        with contextlib.ExitStack() as stack:
            if rival.name == SCRAPED:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                port = free_port()
                stack.enter_context(
                    running(
                        prometheus.command(
                            folder, port=port, probes=_PROBES, every_s=_EVERY_S
                        ),
                        core=LOAD_CORE,
                        port=port,
                        log=folder / "log",
                    )
                )
            load(1)  # warm
            sample = load(self._seconds)
            if rival.name == SCRAPED:
                self.last = _asked()
        return sample


def table(taken: dict[str, list[Sample]]) -> Table:
    """Return the medians, and the difference to no probes within a round."""
    rows: list[tuple[str, ...]] = []
    for name, rounds in taken.items():
        more = [
            100 * (one.cpu_us / base.cpu_us - 1)
            for one, base in zip(rounds, taken[NONE], strict=False)
        ]
        wrong = sum(one.wrong + one.errors for one in rounds)
        cpu = spread([one.cpu_us for one in rounds])
        rows.append((name, cpu.text(), spread(more).text(), str(wrong)))
    return Table(columns=("gateway", "CPU µs/request", "more, %", "wrong"), rows=rows)


def main() -> int:
    """Measure, and print the table, and what is in a scrape."""
    options = parsed("bench.scripts.scrape", __doc__, seconds=5)
    if shutil.which("prometheus") is None:
        print("missing: prometheus (Debian: apt install prometheus)", file=sys.stderr)
        return 1
    measurement = Measurement(options.seconds)
    turns = measured(GATEWAYS, measurement.sample, rounds=options.rounds)
    print(*table(turns.taken).markdown(), *turns.missing, sep="\n")
    if (found := measurement.last) is not None:
        print(f"\nOne scrape: {found.series} series, {found.size} bytes.")
        for route, count in sorted(found.by_route.items()):
            print(f"- route {route}: {count} series")
    return 1 if turns.missing else 0


if __name__ == "__main__":
    sys.exit(main())
