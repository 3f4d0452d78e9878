"""edge. Requests that wait while no target of their service takes connections.

The first one in the line tries again every `FIRST_S`, and the others rarely, so that a
service that starts isn't met by a flood of connections. As soon as one request is
answered, all go on.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.running import ensure_task

FIRST_S: Final = 0.1
"""How soon the first request in the line tries again."""
OTHERS_S: Final = 1.0
"""How soon the others do, should the first one's reply take long."""


class HoldPlace:
    """A request's place in the line."""

    __slots__ = ("_line", "_wake")

    def __init__(self, line: Hold) -> None:
        self._line = line
        self._wake: asyncio.Future[None] | None = None

    async def wait(self, most_s: float) -> None:
        """Return when the request shall be tried again, after *most_s* at the latest.

        At once if it is the first one now, or if the service has answered another.
        """
        await ensure_task()
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        pause_s = FIRST_S if self._line.is_first(self) else OTHERS_S
        timer = loop.call_later(min(pause_s, most_s), self.wake)
        try:
            await self._wake
        finally:
            timer.cancel()
            self._wake = None

    def wake(self) -> None:
        """Let `wait` return, if it is being awaited."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def leave(self) -> None:
        """Give the place up: the request was answered, has failed, or its client left.

        If it was the first one, the next one tries at once.
        """
        self._line.leave(self)


class Hold:
    """The line of one service's requests, in this worker."""

    __slots__ = ("_line", "_most", "seconds")

    def __init__(self, seconds: float, most: int) -> None:
        """Let each request wait for *seconds*, and *most* requests at a time."""
        self.seconds = seconds
        self._most = most
        self._line: dict[HoldPlace, None] = {}

    def __len__(self) -> int:
        """Return the number of requests in the line."""
        return len(self._line)

    def enter(self) -> HoldPlace | None:
        """Return a place in the line, or None if it is full."""
        if len(self._line) >= self._most:
            return None
        held = HoldPlace(self)
        self._line[held] = None
        return held

    def is_first(self, held: HoldPlace) -> bool:
        """Return whether *held* is the one that tries often."""
        return next(iter(self._line), None) is held

    def leave(self, held: HoldPlace) -> None:
        """Remove *held* from the line. Idempotent."""
        was_first = self.is_first(held)
        self._line.pop(held, None)
        if was_first and self._line:
            next(iter(self._line)).wake()

    def open(self) -> None:
        """Let all try now: the service has answered a request."""
        for held in self._line:
            held.wake()
