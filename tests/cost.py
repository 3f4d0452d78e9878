"""How the cost of a call grows with its size, in CPU time of this thread."""

from __future__ import annotations

import time
from collections.abc import Callable

FLOOR_S = 1e-4
"""Below this, a measurement is mostly noise."""


def cost_s(make: Callable[[], Callable[[], object]], rounds: int = 5) -> float:
    """Return the least CPU time of a call of what *make* returns, in seconds.

    *make* is called before each round, so that nothing is cached. The time of other
    threads and processes doesn't count.
    """
    return min(_one(make()) for _ in range(rounds))


def _one(act: Callable[[], object]) -> float:
    began = time.thread_time()
    act()
    return time.thread_time() - began


def grows_linearly(of: Callable[[int], Callable[[], object]], size: int) -> bool:
    """Return whether *size* costs at most ten times as much as a quarter of it.

    Four times would be linear, and sixteen times quadratic. *of* returns the function
    to measure for a size.
    """
    small, large = cost_s(lambda: of(size // 4)), cost_s(lambda: of(size))
    return large <= 10 * max(small, FLOOR_S)
