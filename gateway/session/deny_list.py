"""PURE. The sessions that ended, until their last access token has expired."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

MAX_SESSIONS = 100_000
"""About 200 bytes each."""


class DenyList:
    """Sessions to refuse, by handle. A worker has one, and so has the supervisor."""

    def __init__(self, max_sessions: int = MAX_SESSIONS) -> None:
        self._max_sessions = max_sessions
        self._ends: OrderedDict[str, float] = OrderedDict()
        self.ends: Mapping[str, float] = self._ends
        """Session handle → when its denial ends, in seconds since the epoch. Denials
        that are over may still be in it. It is empty nearly always, and can be tested
        for that without a call."""
        self.overflows = 0
        """Denials that were forgotten before their end, for want of room."""

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, ends: Mapping[str, float], now: float) -> dict[str, float]:
        """Deny the sessions in *ends*; return those for which this is new.

        An end that isn't later than the known one is no news: no denial is shortened.
        For each new denial, up to two of the oldest go if they are over. Beyond the
        greatest number, the oldest goes.
        """
        known = self._ends
        news = {
            handle: until
            for handle, until in ends.items()
            if until > max(now, known.get(handle, now))
        }
        for handle, until in news.items():
            known[handle] = until
            known.move_to_end(handle)
            # Ends are nearly in order: two looks for each new one keep pace.
            for _ in range(2):
                oldest = next(iter(known))
                if known[oldest] <= now:
                    del known[oldest]
            if len(known) > self._max_sessions:
                known.popitem(last=False)
                self.overflows += 1
        return news

    def denies(self, handle: str, now: float) -> bool:
        """Return whether the session is denied; forget it if its denial is over."""
        until = self._ends.get(handle)
        if until is None:
            return False
        if until > now:
            return True
        del self._ends[handle]
        return False

    def live(self, now: float) -> Iterator[tuple[str, float]]:
        """Yield the denials that aren't over, with their ends, the oldest first."""
        return ((handle, until) for handle, until in self._ends.items() if until > now)
