"""edge. One timer per connection, however many deadlines it has.

Moving a deadline away costs a comparison: the timer fires when it was set to, sees
that it is too early, and sets itself again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

_SLACK_S: Final = 0.002
"""uvloop's timers have whole milliseconds; a timer this early is on time."""


class Deadline:
    """Calls *on_late* when what was awaited hasn't happened in time."""

    __slots__ = (
        "_at",
        "_loop",
        "_on_late",
        "_time",
        "_timer",
        "_timer_at",
        "total_at",
        "window_s",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_late: Callable[[], None]
    ) -> None:
        self.window_s = math.inf
        """What `within` was called with last, in seconds."""
        self.total_at = math.inf
        """The end of the whole exchange, in loop time: no window reaches beyond."""
        self._loop = loop
        self._time = loop.time
        self._on_late = on_late
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    @property
    def is_total_over(self) -> bool:
        return self.total_at <= self._loop.time() + _SLACK_S

    @property
    def left_s(self) -> float:
        """The time until it is late, in seconds; infinite when it never is."""
        return self._at - self._loop.time()

    def within(self, seconds: float) -> None:
        """Be late in *seconds* from now; infinite: when `total_at` is over, if ever."""
        self.window_s = seconds
        at = self._time() + seconds
        if at > self.total_at:
            at = self.total_at
        self._at = at
        if at < self._timer_at:
            self._set_timer(at)

    def cancel(self) -> None:
        """Never be late."""
        self._at = self._timer_at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """Never be late again, and let go of whoever would be told."""
        self.cancel()
        self._on_late = _nobody

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        if self._loop.time() + _SLACK_S >= self._at:
            self._on_late()
        elif self._at < math.inf:
            self._set_timer(self._at)


def _nobody() -> None:
    """Hear that something is late."""
