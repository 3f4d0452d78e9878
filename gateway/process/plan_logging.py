"""PURE. What is logged: what the file says, or what an operator has asked for since.

An operator's word holds in all processes, those that start later too, until a reload
takes over. It isn't kept over a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from gateway.admin.bodies import CONFIGURED
from gateway.events import Severity
from gateway.process.admin_messages import LogAs, LogChangeWanted
from gateway.process.plan_events import LoadedFile, Send, WriteFrom
from gateway.process.plan_state import Child


class LoggingPlan:
    """What holds now, and who is told."""

    def __init__(self, config: LoadedFile) -> None:
        """Workers begin with `log.level` of their own file, as does the supervisor."""
        self._configured = config.log_level
        self._now = LogAs(self._configured)
        self._hub_knows: tuple[int, LogAs] | None = None
        """The last word to a hub, and its number. A new one begins with `LogAs()`."""

    def begin(self) -> Iterator[LogAs]:
        """Yield what a new worker is told before it accepts."""
        if self._now != LogAs(self._configured):
            yield self._now

    def direct(self, hub: Child) -> Iterator[LogAs]:
        """Yield what *hub* is to be told, if it doesn't know it."""
        number, knows = self._hub_knows or (hub.number, LogAs())
        if number != hub.number:
            knows = LogAs()
        self._hub_knows = hub.number, self._now
        if knows != self._now:
            yield self._now

    def change(
        self, wanted: LogChangeWanted, hub: Child, workers: Iterable[Child]
    ) -> Iterator[Send | WriteFrom]:
        """Yield how everyone is told what an operator wants; *hub* is told last."""
        change, now = wanted.change, self._now
        match change.level:
            case None:
                pass
            case "configured":
                now = replace(now, least=self._configured, is_least_set=False)
            case level:
                now = replace(now, least=Severity(level), is_least_set=True)
        if change.requests is not None:
            now = replace(now, all_requests=change.requests != CONFIGURED)
        yield from self._tell(now, workers)
        self._hub_knows = hub.number, now
        yield Send(hub.number, replace(now, number=wanted.number))

    def reloaded(
        self, config: LoadedFile, hub: Child | None, workers: Iterable[Child]
    ) -> Iterator[Send | WriteFrom]:
        """Yield how everyone is told that *config* holds, and no operator's word."""
        self._configured = config.log_level
        yield from self._tell(LogAs(self._configured), workers)
        if hub is not None:
            for message in self.direct(hub):
                yield Send(hub.number, message)

    def _tell(self, now: LogAs, workers: Iterable[Child]) -> Iterator[Send | WriteFrom]:
        before, self._now = self._now, now
        if before.least is not now.least:
            yield WriteFrom(now.least)
        if before != now:
            for worker in workers:
                yield Send(worker.number, now)
