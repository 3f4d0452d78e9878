"""An innocent client, and what it is served while others attack."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bench.rig import client
from bench.rig.processes import LOAD_CORE
from bench.rig.report import percentile

REQUEST = b"GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n"
PATIENCE_S = 20.0
"""How long the client waits for a reply."""

HEADINGS = "p50 | p99 | max | statuses"
RULE = "---|---|---|---"


@dataclass
class Times:
    """Times of requests in milliseconds, and their statuses or failures."""

    ms: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    def cells(self) -> str:
        """Return the cells below `HEADINGS`."""
        statuses = ", ".join(f"{n} of {name}" for name, n in self.statuses.items())
        shares = (percentile(self.ms, share) for share in (0.5, 0.99, 1.0))
        return " | ".join((*(f"{value:.1f}" for value in shares), statuses))


def ask(
    port: int, seconds: float, *, interval_s: float = 0.004, fresh: bool = False
) -> Times:
    """Send a request every *interval_s* for *seconds*; return what it was served.

    A request isn't sent before the reply to the last one. *fresh*: each request has a
    connection of its own.
    """
    times = Times()
    end = time.perf_counter() + seconds
    sock: socket.socket | None = None
    while (begun := time.perf_counter()) < end:
        try:
            if sock is None:
                sock = client.dial(port)
                sock.settimeout(PATIENCE_S)
            status = str(client.ask(sock, REQUEST).status)
        except (OSError, client.Failed) as error:
            status = type(error).__name__
            if sock is not None:
                sock.close()
            sock = None
        took = time.perf_counter() - begun
        times.ms.append(took * 1000)
        times.statuses[status] += 1
        if fresh and sock is not None:
            sock.close()
            sock = None
        time.sleep(max(0.0, interval_s - took))
    if sock is not None:
        sock.close()
    return times


@contextlib.contextmanager
def in_process(run: Callable[[], None]) -> Iterator[None]:
    """Run *run* in a process on the load's core during the block."""

    def child() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.sched_setaffinity(0, {LOAD_CORE})
        run()

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
