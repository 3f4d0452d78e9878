"""edge. The checks of targets, in one process for all workers.

Each check makes a connection of its own, with the service's TLS settings and Host, as a
request would: a service that takes no new connections isn't well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, Final

from gateway import __version__
from gateway.config import TlsConfig
from gateway.errors import OutOfDescriptors, UpstreamError
from gateway.events import RuntimeEvent, about
from gateway.timeouts import Timeouts
from gateway.upstream.address import UpstreamTarget
from gateway.upstream.checked import CheckedTarget, ServiceCheck, is_good
from gateway.upstream.dial import Lookup
from gateway.upstream.discovery import Names
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.reply import Reply
from gateway.upstream.upstreams import Upstreams

_AT_ONCE: Final = 64
"""Checks at a time, of all services."""
_JITTER: Final = 0.1
"""The part of `interval` by which a pause is longer or shorter, so that the gateways of
a service don't all check it at the same time."""
_BODY_BYTES: Final = 64 * 1024
"""How much of a reply's body is read. A longer one is good by then."""
_KEEP_S: Final = 0.001
"""How long a connection is kept after a check: the next one has a connection of its
own."""
_log = logging.getLogger("gateway.upstream")


class TargetChecker:
    """Checks the targets of the configuration that serves."""

    def __init__(
        self,
        report: Callable[[str, tuple[str, ...]], None],
        *,
        rng: Random | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        """*report* is called with a service and all of its targets that are down, each
        time that they change. *lookup* replaces the system's resolver."""
        self._report = report
        self._rng = rng or Random()  # noqa: S311 - no secret
        self._lookup = lookup
        self._upstreams = Upstreams(lookup=lookup)
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._down: dict[str, frozenset[str]] = {}
        """What was known of each service before this configuration."""
        self._states: dict[str, dict[str, CheckedTarget]] = {}
        """By service and target."""

    def begin(self) -> None:
        """Check nothing from now on but what `add` is called with.

        Services that are added again begin with the states that they have now.
        """
        self._down = {name: frozenset(self.down(name)) for name in self._states}
        self._states.clear()
        for task in self._tasks:
            task.cancel()
        self._upstreams = Upstreams(lookup=self._lookup)

    def know(self, service: str, down: Collection[str]) -> None:
        """Begin with these targets of a *service* down, when it is added.

        What was found here counts more: the report on it may be on its way.
        """
        self._down.setdefault(service, frozenset(down))

    def add(self, check: ServiceCheck) -> None:
        """Check the targets of a service from now on."""
        down = self._down.pop(check.service, frozenset())
        self._states[check.service] = {}
        tls = TlsConfig(
            ca_file=check.ca_file, server_name=check.server_name, verify=check.verify
        )
        pools: list[UpstreamPool] = []
        for url in check.targets:
            try:
                target = UpstreamTarget.parse(url, tls)
                pool = self._upstreams.pool(target, keepalive_s=_KEEP_S)
            except ValueError:
                # Its CA file: no worker starts with it, either.
                self._states[check.service][url] = CheckedTarget(
                    check, is_down=url in down
                )
                continue
            pools.append(pool)
        self._follow(check, pools, down)

    def _follow(
        self, check: ServiceCheck, pools: Sequence[UpstreamPool], down: frozenset[str]
    ) -> None:
        """Check the targets that have *pools*, or all addresses of their names."""
        states, tasks = self._states[check.service], dict[str, asyncio.Task[None]]()
        names = Names(
            *(check.service, pools, self._upstreams), check.resolve_s, self._rng
        )

        def changed() -> None:
            now = {pool.name: pool for _, pool in names.current()}
            gone = [states.pop(url).is_down for url in tasks.keys() - now.keys()]
            for url in tasks.keys() - now.keys():
                tasks.pop(url).cancel()
            for url, pool in now.items():
                if url not in tasks:
                    state = states[url] = CheckedTarget(check, is_down=url in down)
                    tasks[url] = self._start(self._watch(check, pool, state))
            if any(gone):
                self._report(check.service, tuple(self.down(check.service)))

        changed()
        for watch in names.watches(changed):
            _ = self._start(watch)  # `_tasks` holds it

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def down(self, service: str) -> Sequence[str]:
        """Return the targets of *service* that are down."""
        states = self._states.get(service, {})
        return [url for url, state in states.items() if state.is_down]

    def found(self) -> Mapping[str, Mapping[str, bool]]:
        """Return by service and target whether it is up."""
        return {
            service: {url: not state.is_down for url, state in states.items()}
            for service, states in self._states.items()
        }

    def services_down(self) -> Sequence[str]:
        """Return the services of which all targets are down."""
        return [
            service
            for service, states in self._states.items()
            if all(state.is_down for state in states.values())
        ]

    async def aclose(self) -> None:
        """End all checks."""
        self.begin()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(
        self, check: ServiceCheck, pool: UpstreamPool, state: CheckedTarget
    ) -> None:
        """Check one target for ever, the first time at any point of an interval."""
        await asyncio.sleep(check.interval_s * self._rng.random())
        while True:
            async with self._places:
                flaw = await look(check, pool)
            if flaw is not None and state.note(is_well=not flaw):
                self._changed(check.service, pool.name, flaw)
            part = 1 + _JITTER * (2 * self._rng.random() - 1)
            await asyncio.sleep(check.interval_s * part)

    def _changed(self, service: str, target: str, flaw: str) -> None:
        self._report(service, tuple(self.down(service)))
        if flaw:
            _log.warning(
                "service %s: target %s is down: its check fails: %s",
                *(service, target, flaw),
                extra=about(
                    RuntimeEvent.TARGET_DOWN,
                    service=service,
                    target=target,
                    reason=flaw,
                ),
            )
        else:
            _log.warning(
                "service %s: target %s is up: its check succeeds",
                *(service, target),
                extra=about(RuntimeEvent.TARGET_UP, service=service, target=target),
            )


async def look(check: ServiceCheck, pool: UpstreamPool) -> str | None:
    """Return what is wrong with a target; "": nothing; None: it couldn't be checked."""
    host = pool.authority if check.host is None else check.host.encode()
    head = (
        b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: supertokens-gateway/%b\r\n"
        b"Accept: */*\r\nConnection: close\r\n\r\n"
    ) % (check.path.encode(), host, __version__.encode())
    most_s = check.timeout_s
    timeouts = Timeouts(connect=most_s, response=most_s, idle=most_s, total=most_s)
    try:
        reply = await pool.exchange(head, "GET", timeouts, replay=False)
        try:
            if not is_good(reply.status):
                return f"status {reply.status}"
            await _read(reply)
        finally:
            reply.close()
    except OutOfDescriptors:
        return None
    except UpstreamError as error:
        return error.detail or error.code
    return ""


async def _read(reply: Reply) -> None:
    """Read a body to its end, or `_BODY_BYTES` of it.

    Raises:
        UpstreamError: it breaks off, or doesn't arrive in time.
    """
    left = _BODY_BYTES
    while left > 0 and (piece := await reply.read()):
        left -= len(piece)
