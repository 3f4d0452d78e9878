"""PURE. The targets that are out of order: what is kept, and who is told.

Those that checks have found down are kept over reloads, and over the end of the hub
that found them. A worker is told only about services that its own configuration has
checked. Ejections are kept until they end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from gateway.process.plan_events import LoadedFile, Send
from gateway.process.plan_state import Child, WorkerChild
from gateway.process.target_messages import (
    CheckTargets,
    TargetEjected,
    TargetMessage,
    TargetsDown,
)
from gateway.upstream.checked import ServiceCheck

MAX_EJECTED: Final = 1000
"""Ejections that are kept for new workers. Workers could tell of any names."""


class TargetStates:
    """The last word of the hub about each service. It replaces the one before."""

    def __init__(self) -> None:
        self._down: dict[str, TargetsDown] = {}
        self._directed = 0, 0, False
        """The hub that was directed last, for which generation, and whether to check
        anything."""

    def known(self, config: LoadedFile) -> Iterator[TargetsDown]:
        """Yield what a child is told that begins with *config*."""
        for check in config.checks:
            if (known := self._down.get(check.service)) is not None:
                yield _within(known, check)

    def direct(self, hub: Child, config: LoadedFile) -> Iterator[TargetMessage]:
        """Yield what *hub* is to be told about *config*, once for each of the two.

        What other configurations had checked is forgotten.
        """
        names = {check.service for check in config.checks}
        before = self._directed
        self._directed = hub.number, config.generation, bool(names)
        if self._directed == before:
            return
        self._down = {name: one for name, one in self._down.items() if name in names}
        if not names and before != (hub.number, before[1], True):
            return
        yield CheckTargets(None)
        yield from self.known(config)
        for check in config.checks:
            yield CheckTargets(check)

    def found(
        self, found: TargetsDown, config: LoadedFile, workers: Iterable[WorkerChild]
    ) -> Iterator[Send]:
        """Keep what the hub has *found*, which serves *config*; yield who is told.

        A report on a service that isn't checked is from before a reload.
        """
        if found.service not in (check.service for check in config.checks):
            return
        self._down[found.service] = found
        for worker in workers:
            for check in worker.generation.config.checks:
                if check.service == found.service:
                    yield Send(worker.number, _within(found, check))


class SharedEjections:
    """The targets that workers have ejected. What was told last about each counts."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], TargetEjected] = {}

    def add(
        self,
        told: TargetEjected,
        source: WorkerChild,
        workers: Iterable[WorkerChild],
        now: float,
    ) -> Iterator[Send]:
        """Keep what a worker has *told*; yield how all others are told."""
        name = told.service, told.target
        self._last.pop(name, None)
        if len(self._last) >= MAX_EJECTED:
            self._last = {(one.service, one.target): one for one in self.live(now)}
        if told.until is not None and len(self._last) < MAX_EJECTED:
            self._last[name] = told
        for worker in workers:
            if worker is not source:
                yield Send(worker.number, told)

    def live(self, now: float) -> Iterator[TargetEjected]:
        """Yield the ejections that aren't over, for a new worker."""
        for told in self._last.values():
            if told.until is not None and told.until > now:
                yield told


def _within(found: TargetsDown, check: ServiceCheck) -> TargetsDown:
    """Return what *found* says of the targets of *check*.

    Of names that are looked up, whatever was found counts: nobody knows here which
    addresses they have.
    """
    if check.resolve_s is not None:
        return found
    down = tuple(target for target in found.targets if target in check.targets)
    return TargetsDown(found.service, down)
