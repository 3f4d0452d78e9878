"""PURE. The buckets of many keys, in bounded memory.

A bucket that is full again says nothing and needs no room. If there is no room, the
one goes that would be full first. A flood of new keys therefore frees no key that has
used up its burst: its bucket is among the last to be full.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final

from gateway.rate_limits.gcra import Gcra, Taken

MAX_KEYS: Final = 50_000
"""Keys in one process, of about 400 bytes each: 20 MB."""


class Buckets:
    """When the bucket of each key will be full."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._full_at: dict[str, int] = {}
        self._queue: list[tuple[int, str]] = []
        """A heap with one item for each key: a time not after its bucket is full."""

    def __len__(self) -> int:
        """Return the number of keys in memory."""
        return len(self._full_at)

    def take(
        self, key: str, gcra: Gcra, now: int, cost: int = 1, extra: int = 0
    ) -> Taken:
        """Return what *key* gets, as `Gcra.take`, and note it."""
        known = self._full_at.get(key)
        taken = gcra.take(now if known is None else known, now, cost, extra)
        if taken.granted:
            if known is None:
                self._make_room(now)
                heappush(self._queue, (taken.full_at, key))
            self._full_at[key] = taken.full_at
        return taken

    def charge(self, key: str, gcra: Gcra, now: int, cost: int) -> None:
        """Note what *key* has got elsewhere: at most, its bucket is empty."""
        if not self.take(key, gcra, now, cost).granted:
            self._full_at[key] = now + gcra.burst * gcra.interval_ns

    def note(self, key: str, full_at: int, now: int) -> None:
        """Note that the bucket of *key* isn't full before *full_at*."""
        known = self._full_at.get(key)
        if known is None:
            self._make_room(now)
            heappush(self._queue, (full_at, key))
        self._full_at[key] = full_at if known is None else max(known, full_at)

    def has_room(self, key: str, now: int) -> bool:
        """Return whether *key* can be noted without forgetting one that isn't full."""
        queue, full_at = self._queue, self._full_at
        if key in full_at or len(full_at) < self._max_keys:
            return True
        while queue[0][0] <= now:
            _, first = heappop(queue)
            if full_at[first] <= now:
                del full_at[first]
                return True
            heappush(queue, (full_at[first], first))
        return False

    def _make_room(self, now: int) -> None:
        """Forget the keys that are full by *now*, at most two, or else the first one.

        Two for each new key, so that what is kept shrinks while no flood goes on.
        """
        queue, full_at = self._queue, self._full_at
        for _ in range(2):
            while queue:
                noted, key = queue[0]
                if noted > now and len(full_at) < self._max_keys:
                    return
                heappop(queue)
                actual = full_at[key]
                if actual > noted:  # it was used again since
                    heappush(queue, (actual, key))
                    continue
                del full_at[key]
                break
