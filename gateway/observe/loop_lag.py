"""edge. The delay of the event loop: how late it runs what is due."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

_LOOK_S: Final = 0.05
_JUDGED_S: Final = 1.0
_LEAST_LOOKS: Final = 3
"""One call that blocks the loop for a second is one long delay, and no overload."""


async def lag(pause_s: float) -> float:
    """Return by how many seconds a timer is late that is due in *pause_s* seconds."""
    loop = asyncio.get_running_loop()
    due = loop.time() + pause_s
    await asyncio.sleep(pause_s)
    return max(0.0, loop.time() - due)


async def watch(judge: Callable[[float], None]) -> None:
    """Call *judge* with the shortest delay of each second, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        since, looks, least_s = loop.time(), 0, math.inf
        while looks < _LEAST_LOOKS or loop.time() < since + _JUDGED_S:
            least_s = min(least_s, await lag(_LOOK_S))
            looks += 1
        judge(least_s)
