"""How the cost of something grows, in processor time of this thread."""

from __future__ import annotations

import time
from collections.abc import Callable

FLOOR_S = 1e-4
"""Below this, a measurement is mostly noise."""


def cost_s(make: Callable[[], Callable[[], object]], rounds: int = 5) -> float:
    """Return the least time that what *make* returns takes, in seconds.

    *make* is called anew for each round, so that nothing is remembered. Other threads
    and processes don't count: what they take is no time of this thread.
    """
    return min(_one(make()) for _ in range(rounds))


def _one(act: Callable[[], object]) -> float:
    began = time.thread_time()
    act()
    return time.thread_time() - began


def grows_linearly(of: Callable[[int], Callable[[], object]], size: int) -> bool:
    """Return whether *size* costs at most ten times what a quarter of it does.

    Four times is linear, sixteen times is quadratic. *of* returns what is measured for
    a size.
    """
    small, large = cost_s(lambda: of(size // 4)), cost_s(lambda: of(size))
    return large <= 10 * max(small, FLOOR_S)
