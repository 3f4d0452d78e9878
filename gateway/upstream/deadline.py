"""edge. One timer per connection, for all of its deadlines.

Postponing a deadline costs one comparison: the timer fires at its original time, finds
that the deadline has moved, and is set again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

_SLACK_S: Final = 0.002
"""Tolerance: uvloop rounds timers to milliseconds, so one may fire this early."""


class Deadline:
    """Calls *on_timeout* when the deadline has passed."""

    __slots__ = (
        "_at",
        "_loop",
        "_on_timeout",
        "_time",
        "_timer",
        "_timer_at",
        "total_at",
        "window_s",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_timeout: Callable[[], None]
    ) -> None:
        self.window_s = math.inf
        """The argument of the last call of `within`, in seconds."""
        self.total_at = math.inf
        """The end of the whole exchange, in loop time; no deadline is later."""
        self._loop = loop
        self._time = loop.time
        self._on_timeout = on_timeout
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    @property
    def is_total_over(self) -> bool:
        """True when `total_at` has passed."""
        return self.total_at <= self._loop.time() + _SLACK_S

    @property
    def left_s(self) -> float:
        """The time until the deadline, in seconds; infinite if there is none."""
        return self._at - self._loop.time()

    def within(self, seconds: float) -> None:
        """Set the deadline to *seconds* from now, or to `total_at` if that is earlier.

        Infinite *seconds* set it to `total_at`.
        """
        self.window_s = seconds
        at = self._time() + seconds
        if at > self.total_at:
            at = self.total_at
        self._at = at
        if at < self._timer_at:
            self._set_timer(at)

    def cancel(self) -> None:
        """Remove the deadline; `within` sets a new one."""
        self._at = self._timer_at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """Remove the deadline for good, and drop the reference to the callback."""
        self.cancel()
        self._on_timeout = _ignore

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        if self._loop.time() + _SLACK_S >= self._at:
            self._on_timeout()
        elif self._at < math.inf:
            self._set_timer(self._at)


def _ignore() -> None:
    """Do nothing: the deadline has ended."""
