"""How far a long step is, and how long it still takes: lines on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

EVERY_S = 10.0
"""Between two lines."""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Of one step, with so many parts that each take about the same time."""

    def __init__(
        self,
        parts: int,
        what: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = _say,
    ) -> None:
        """*what* names the parts. The step begins now."""
        self._parts = parts
        self._what = what
        self._clock = clock
        self._say = say
        self._began = self._said = clock()

    def note(self, done: int) -> None:
        """Take how many parts are done; print a line if the last one was long ago."""
        now = self._clock()
        if now - self._said < EVERY_S or not done:
            return
        self._said = now
        left_s = (now - self._began) / done * (self._parts - done)
        self._say(
            f"  {done:,} of {self._parts:,} {self._what}, about {left_s:.0f} s left"
        )
