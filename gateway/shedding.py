"""PURE. Which share of the requests a worker refuses while it can't keep up.

The measure is the delay of the event loop: how long a request waits before any code
sees it. A burst makes it long for an instant, so the shortest delay in a second counts:
if even that is long, more requests arrive than the worker can serve.
"""

from __future__ import annotations

from typing import Final

_STEP: Final = 0.1
"""How much the share grows in a second, for each time that the delay exceeds the bound.
"""
_MOST_STEPS: Final = 4.0
_BACK: Final = 0.05
"""How much it shrinks in a second: slower, or the overload would return at once."""
_CALM: Final = 0.5
"""It shrinks when the delay is below this part of the bound."""


class Shedding:
    """The share of the requests that are refused, from one second to the next."""

    __slots__ = ("_lag_s", "_most", "_owed", "share")

    def __init__(self, lag_s: float, most: float) -> None:
        """Refuse requests while the delay is above *lag_s*, *most* of them at most.

        The delay is in seconds, the share from 0 to 1.
        """
        self.share = 0.0
        self._lag_s = lag_s
        self._most = most
        self._owed = 0.0
        """The part of a refusal that is due."""

    def judge(self, least_s: float) -> None:
        """Set the share for the next second; *least_s* was the shortest delay."""
        times = least_s / self._lag_s
        if times > 1:
            step = _STEP * min(times, _MOST_STEPS)
            self.share = min(self._most, self.share + step)
        elif times < _CALM:
            self.share = max(0.0, self.share - _BACK)

    def refuses(self) -> bool:
        """Return whether the next request is refused: evenly, as the share says."""
        self._owed += self.share
        if self._owed < 1:
            return False
        self._owed -= 1
        return True
