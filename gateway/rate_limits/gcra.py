"""PURE. The generic cell rate algorithm, on whole nanoseconds.

All that is known of a key is one time: when its bucket will be full again. Each unit
moves it on by the interval of the rate. A unit is admitted if the bucket will be full
within the time that `burst` units take.

So in any window of t nanoseconds, at most `burst + t / interval_ns` units are admitted.

Source: ITU-T I.371 §A.1 (virtual scheduling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Taken(NamedTuple):
    """What a key was given."""

    full_at: int
    """When its bucket will be full."""
    granted: int
    """The units that were admitted; 0: none."""
    wait_ns: int
    """How long until the units that were asked for can be admitted; 0: they are."""


@dataclass(frozen=True, slots=True)
class Gcra:
    """A rate and a burst."""

    interval_ns: int
    """The time in which one unit comes back."""
    burst: int
    """The units of a full bucket."""

    def take(self, full_at: int, now: int, cost: int = 1, extra: int = 0) -> Taken:
        """Return what a key gets that asks for *cost* units, or for none.

        Times are in nanoseconds, of one clock that never runs back. With *extra*, up to
        so many further units are admitted, if the bucket has them. A cost above the
        burst counts as the burst.
        """
        cost = min(cost, self.burst)
        start = max(full_at, now)
        left_ns = now + self.burst * self.interval_ns - start
        wait_ns = cost * self.interval_ns - left_ns
        if wait_ns > 0:
            return Taken(full_at, 0, wait_ns)
        granted = min(cost + extra, left_ns // self.interval_ns)
        return Taken(start + granted * self.interval_ns, granted, 0)

    def share(self, parts: int) -> Gcra:
        """Return the part of this limit that each of *parts* keeps by itself.

        Together they have the same rate and, unless it is less than *parts*, at most
        the same burst.
        """
        return Gcra(self.interval_ns * parts, max(1, self.burst // parts))
