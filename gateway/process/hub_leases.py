"""PURE. The hub's part in rate limits: it has the buckets that workers draw from."""

from __future__ import annotations

from gateway.process.lease_messages import DrawLeases, LeasesDrawn
from gateway.rate_limits import Gcra
from gateway.rate_limits.buckets import Buckets
from gateway.rate_limits.leases import DrawAnswer


class LeaseBook:
    """The buckets of all keys of this gateway."""

    def __init__(self, buckets: Buckets | None = None) -> None:
        self._buckets = Buckets() if buckets is None else buckets

    def draw(self, wanted: DrawLeases, now: int) -> LeasesDrawn:
        """Return the answers to a worker's wishes, at *now* in nanoseconds."""
        return LeasesDrawn(
            tuple(
                DrawAnswer.of(
                    asked,
                    self._buckets.take(
                        asked.key,
                        Gcra(asked.interval_ns, asked.burst),
                        now,
                        asked.cost,
                        asked.extra,
                    ),
                )
                for asked in wanted.draws
            ),
            wanted.child,
        )
