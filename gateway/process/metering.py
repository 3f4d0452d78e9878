"""edge. What a worker sends to the hub for metrics, every 2 s."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from gateway.app import App
from gateway.observe.loop_lag import lag
from gateway.observe.meters import (
    CERTIFICATE,
    MIRRORED,
    POOL,
    RATE_LIMITED,
    SERVICE,
    SPLIT,
    TARGET,
    Meters,
    Sample,
    shown,
)
from gateway.process.messages import Snapshot
from gateway.tls import Certificate

_SNAPSHOT_S: Final = 2.0
_LOOK_S: Final = 0.25
"""How often the event loop's lag is measured; the longest one is sent."""


def usage() -> Iterator[Sample]:
    """Yield what this process uses of the machine."""
    yield Sample("counter", ("cpu_seconds",), (round(time.process_time(), 3),))
    yield _gauge("max_fds", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with contextlib.suppress(OSError, ValueError, IndexError):  # Linux only
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        yield _gauge("resident_bytes", pages * os.sysconf("SC_PAGE_SIZE"))
        yield _gauge("open_fds", sum(1 for _ in Path("/proc/self/fd").iterdir()))


def _gauge(name: str, value: float) -> Sample:
    return Sample("gauge", (name,), (max(0, value),))


class ClientCounts(Protocol):
    """How many clients a worker has."""

    @property
    def connections(self) -> int:
        """Those that are connected."""

    @property
    def active(self) -> int:
        """Those with a request in progress."""

    @property
    def certificates(self) -> Iterable[tuple[str, Certificate]]:
        """The certificates that clients get, each with its address."""


class Metering:
    """Sends a worker's samples while it serves."""

    def __init__(
        self,
        app: App,
        meters: Meters,
        *,
        clients: ClientCounts,
        send: Callable[[Snapshot], None],
    ) -> None:
        """*send* sends to the hub."""
        self._app = app
        self._meters = meters
        self._clients = clients
        self._send = send
        self._lag_s = 0.0
        self._splits = {
            (route.name, service.name)
            for route in app.proxy.dependencies.resources.table.routes
            for service in route.services
            if len(route.services) > 1
        }
        """The routes that are split, with each of their services."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send samples while the block runs, and once at its end."""
        self._app.sdk.on_core_call = self._meters.count_core_call
        task = asyncio.create_task(self._run(), name="metering")
        try:
            yield
        finally:
            task.cancel()
            self._snapshot()

    async def _run(self) -> None:
        while True:
            self._snapshot()
            self._lag_s = 0.0
            for _ in range(round(_SNAPSHOT_S / _LOOK_S)):
                self._lag_s = max(self._lag_s, await lag(_LOOK_S))

    def _snapshot(self) -> None:
        self._send(Snapshot((*self._meters.samples(), *self._gauges(), *usage())))

    def _gauges(self) -> Iterator[Sample]:
        app, lost = self._app, self._meters.log_lines_lost
        keys = app.keys.state()
        yield Sample("counter", ("log_lines_lost",), (lost,))
        yield Sample("counter", ("keys_fetched",), (keys.fetches - keys.failures,))
        yield Sample("counter", ("key_fetches_failed",), (keys.failures,))
        for policy, count in app.proxy.dependencies.limiter.refused.items():
            yield Sample(RATE_LIMITED, (shown(policy),), (count,))
        if self._splits:
            sent = self._meters.sent()
            for part in self._splits:
                yield Sample(SPLIT, tuple(map(shown, part)), (sent[part],))
        yield _gauge("lag_s", self._lag_s)
        shedding = app.proxy.decider.shedding
        yield _gauge("refused_share", 0.0 if shedding is None else shedding.share)
        yield _gauge("connections", self._clients.connections)
        yield _gauge("active", self._clients.active)
        yield _gauge("websockets", len(app.proxy.tunnels))
        yield _gauge("sign_ins_waiting", app.sdk.sign_ins_waiting)
        yield _gauge("remembered", app.sessions.remembered)
        yield _gauge("denied", app.sessions.denied)
        if keys.age_s is not None:
            yield _gauge("keys_age_s", keys.age_s)
        for pool in app.upstreams.pools:
            states = pool.in_use, pool.idle, pool.waiting
            yield Sample(POOL, (shown(str(pool.target)),), states)
        for service in app.proxy.dependencies.services.values():
            if (queue := service.in_flight) is not None:
                numbers = max(0, queue.count), queue.pending
                yield Sample(SERVICE, (shown(service.name),), numbers)
            for pool, is_up in service.up():
                labels = shown(service.name), shown(str(pool.target))
                yield Sample(TARGET, labels, (int(is_up),))
        if app.proxy.dependencies.mirroring is not None:
            for *names, count in app.proxy.dependencies.mirroring.counts():
                yield Sample(MIRRORED, tuple(map(shown, names)), (count,))
        for labels, not_after in _ends(self._clients.certificates).items():
            yield Sample(CERTIFICATE, labels, (not_after,))


def _ends(
    certificates: Iterable[tuple[str, Certificate]],
) -> dict[tuple[str, str], float]:
    """Return when the first certificate of each address and name expires."""
    ends: dict[tuple[str, str], float] = {}
    for address, certificate in certificates:
        labels = shown(address), shown(certificate.name)
        ends[labels] = min(certificate.not_after, ends.get(labels, math.inf))
    return ends
