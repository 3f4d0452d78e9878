"""edge. Has a worker refuse some requests while its event loop is late."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from gateway.config import OverloadConfig
from gateway.decide import Decider
from gateway.events import RuntimeEvent, about
from gateway.observe import loop_lag
from gateway.shedding import Shedding

_log = logging.getLogger("gateway")


@contextlib.asynccontextmanager
async def watching(
    settings: OverloadConfig | None, decider: Decider
) -> AsyncIterator[None]:
    """Have *decider* refuse requests as *settings* say, while the block runs.

    None: it refuses none.
    """
    if settings is None:
        yield
        return
    judge = Judge(Shedding(settings.lag, settings.max_share), decider)
    task = asyncio.create_task(loop_lag.watch(judge), name="overload")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


class Judge:
    """Sets the share of the requests that a decider refuses, and reports changes."""

    def __init__(self, shedding: Shedding, decider: Decider) -> None:
        self._shedding = shedding
        self._decider = decider

    def __call__(self, least_s: float) -> None:
        """Judge a second whose shortest delay of the event loop was *least_s*."""
        shedding, decider = self._shedding, self._decider
        was_calm = decider.shedding is None
        shedding.judge(least_s)
        is_calm = not shedding.share
        decider.shedding = None if is_calm else shedding
        if was_calm and not is_calm:
            _log.warning(
                "overloaded: requests wait for %.0f ms before this worker sees them, so"
                " it refuses some (gateway.overload)",
                least_s * 1000,
                extra=about(RuntimeEvent.OVERLOADED, lag_s=round(least_s, 3)),
            )
        elif is_calm and not was_calm:
            _log.warning(
                "no longer overloaded: this worker refuses no requests",
                extra=about(RuntimeEvent.OVERLOAD_OVER),
            )
