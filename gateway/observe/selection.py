"""PURE. Which requests have a line in the access log: `exclude` and `sample`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

from gateway.config import LogConfig, LogExclusionConfig
from gateway.observe.record import Record
from gateway.routes.tree import Tree

_REFUSED = frozenset(("denied", "undecided"))
_BUCKETS = 2**32


class Selection:
    """The requests that have a line. All others are counted for metrics, too."""

    def __init__(self, config: LogConfig) -> None:
        self._exclusions = tuple(map(_exclusion, config.exclude))
        self.sample = config.sample
        """The share of the requests that may be left out which have a line."""
        self._threshold = config.sample * _BUCKETS
        self._slow_ms = config.slow * 1000

    @property
    def is_all(self) -> bool:
        """Whether every request has a line."""
        return not self._exclusions and self.sample >= 1

    def share(self, record: Record) -> float:
        """Return how many of the requests like this one have a line; 0: it has none.

        The request id decides, by the CRC-32 of its bytes. So other services, too, can
        log the same requests.
        """
        if self._exclusions and any(matches(record) for matches in self._exclusions):
            return 0.0
        if (
            self.sample >= 1
            or record.status >= 500
            or record.side is not None
            or record.decision in _REFUSED
            or record.duration_ms >= self._slow_ms
        ):
            return 1.0
        kept = zlib.crc32(record.request_id.encode()) < self._threshold
        return self.sample if kept else 0.0


def _exclusion(config: LogExclusionConfig) -> Callable[[Record], bool]:
    """Return a function that says whether a record matches all keys that are set."""
    paths: Tree[bool] | None = None
    if config.path is not None:
        paths = Tree()
        for path in config.path:
            paths.place(*path.matched, lambda: True)
    statuses = None
    if config.status is not None:
        statuses = _statuses(config.status)

    def matches(record: Record) -> bool:
        return (
            (config.route is None or record.route == config.route)
            and (statuses is None or record.status in statuses)
            and (paths is None or any(paths.find_all(record.path)))
        )

    return matches


def _statuses(written: Sequence[str]) -> frozenset[int]:
    """Return the statuses that words such as `204` and `2xx` stand for."""
    return frozenset(
        status
        for word in written
        for status in (
            range(int(word[0]) * 100, int(word[0]) * 100 + 100)
            if word.endswith("xx")
            else (int(word),)
        )
    )
