"""PURE. What one gateway keeps of the limits that it shares with others over a store.

The store has the buckets. The gateway notes each bucket as the store has shown it
last, so that it knows who has used up a burst when the store is away. While it is, each
of n gateways has a bucket for each key. In any window of t nanoseconds, whatever the
store does in it, they admit at most `burst + t / interval_ns` units each, and as many
from the store's bucket: n + 1 times the limit, and once more the burst for each time
that the store loses its data.

A bucket of the store is asked for only while it can be noted here, so a gateway makes
at most so many keys there. The others are limited by this gateway alone.
"""

from __future__ import annotations

from typing import Final

from gateway.rate_limits.buckets import MAX_KEYS, Buckets
from gateway.rate_limits.gcra import Gcra, Taken
from gateway.rate_limits.leases import DrawAsked

DENIED_NS: Final = 1_000_000_000
"""How long clients are told to wait, with `deny`: nobody knows when the store is back.
Workers remember a refusal that long."""


class SharedBook:
    """The buckets of shared limits, as far as this gateway knows them."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._known = Buckets(max_keys)
        """Those that the store may have."""
        self._others = Buckets(max_keys)

    def has_room(self, key: str, now: int) -> bool:
        """Return whether the store may be asked for *key*."""
        return self._known.has_room(key, now)

    def note(self, asked: DrawAsked, full_ns: int, now: int) -> None:
        """Note what the store has said: so long until the bucket is full."""
        if self.has_room(asked.key, now):
            self._known.note(asked.key, now + full_ns, now)

    def take_alone(self, asked: DrawAsked, now: int) -> Taken:
        """Return what the key gets by this gateway's own count."""
        gcra = Gcra(asked.interval_ns, asked.burst)
        buckets = self._known if self.has_room(asked.key, now) else self._others
        return buckets.take(asked.key, gcra, now, asked.cost, asked.extra)

    def without_store(self, asked: DrawAsked, now: int) -> Taken:
        """Return what the key gets while the store is away."""
        match asked.sharing:
            case "allow":
                return Taken(now, asked.cost, 0)
            case "deny":
                return Taken(now, 0, DENIED_NS)
            case _:
                return self.take_alone(asked, now)
