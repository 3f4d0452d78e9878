"""PURE. How the workers of one gateway share a limit.

One process, the hub, has the buckets. A worker draws units of a key from it and spends
them by itself. It draws one unit for each request, and more in advance only for a key
that it drew for a moment ago, if the limit is large and fast enough (`in_advance`).
Units that aren't spent within `LEASE_NS` are void.

So all workers together admit at most, in any window of t nanoseconds,
`burst + t / interval_ns` units and those that were drawn in advance before the window:
`in_advance` units in each worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.rate_limits.gcra import Gcra, Taken
from gateway.rate_limits.store import Draw, Sharing

LEASE_NS: Final = 1_000_000_000
"""How long units that were drawn in advance can be spent."""
_SHARE: Final = 10
"""The part of a burst that is drawn in advance: a tenth."""
MAX_LEASES: Final = 10_000
"""Keys with units or a refusal in one worker, of about 400 bytes each: 4 MB."""


def in_advance(gcra: Gcra) -> int:
    """Return how many units a worker draws in advance.

    At most a tenth of the burst, so that another worker rarely lacks them, and at most
    what comes back while they can be spent.
    """
    return min(gcra.burst // _SHARE, LEASE_NS // gcra.interval_ns)


class _Lease:
    __slots__ = ("closed_cost", "closed_until", "drawn_at", "units")

    def __init__(self) -> None:
        self.units = 0
        self.drawn_at = -LEASE_NS
        """When the units were drawn."""
        self.closed_until = 0
        """Until when requests are refused that cost `closed_cost` or more."""
        self.closed_cost = 0


class Leases:
    """What a worker has drawn, by key, and what the hub has refused."""

    def __init__(self, clock: Callable[[], int], max_leases: int = MAX_LEASES) -> None:
        """*clock* returns nanoseconds, and never runs back."""
        self._clock = clock
        self._max_leases = max_leases
        self._leases: dict[str, _Lease] = {}

    def __len__(self) -> int:
        """Return the number of keys in memory."""
        return len(self._leases)

    def spend(self, draw: Draw) -> int | None:
        """Return 0 if a lease covers the request, else how long it has to wait.

        None: the hub has to be asked.
        """
        lease = self._leases.get(draw.key)
        if lease is None:
            return None
        now = self._clock()
        if lease.units >= draw.cost and lease.drawn_at + LEASE_NS > now:
            lease.units -= draw.cost
            return 0
        if lease.closed_until > now and draw.cost >= lease.closed_cost:
            return lease.closed_until - now
        return None

    def in_advance(self, draw: Draw) -> int:
        """Return how many units are drawn in advance with *draw*."""
        lease = self._leases.get(draw.key)
        if lease is None or lease.drawn_at + LEASE_NS <= self._clock():
            return 0
        return in_advance(draw.gcra)

    def add(self, draw: Draw, units: int, wait_ns: int) -> None:
        """Note the hub's answer to *draw*: units, or how long to wait."""
        lease = self._leases.get(draw.key)
        if lease is None:
            if len(self._leases) >= self._max_leases:
                del self._leases[next(iter(self._leases))]  # the oldest
            lease = self._leases[draw.key] = _Lease()
        now = self._clock()
        if wait_ns:
            lease.closed_until, lease.closed_cost = now + wait_ns, draw.cost
            return
        if lease.drawn_at + LEASE_NS <= now:
            lease.units = 0
        lease.units += units
        lease.drawn_at = now


class DrawAsked(NamedTuple):
    """A worker's wish for units, as it goes to the hub."""

    number: int
    """The worker's own number of it."""
    key: str
    interval_ns: int
    burst: int
    cost: int
    extra: int
    sharing: Sharing = ""


class DrawAnswer(NamedTuple):
    """The hub's answer to a wish."""

    number: int
    units: int
    wait_ns: int

    @classmethod
    def of(cls, asked: DrawAsked, taken: Taken) -> DrawAnswer:
        """Return the answer to *asked*."""
        return cls(asked.number, taken.granted, taken.wait_ns)
