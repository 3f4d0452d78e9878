"""The delay of the event loop, as it is measured."""

from __future__ import annotations

import asyncio
import time

from faults import until

from gateway.observe import loop_lag

BLOCK_S = 0.15


async def test_a_timer_is_late_when_the_loop_is_blocked() -> None:
    measured = asyncio.create_task(loop_lag.lag(0.01))
    await asyncio.sleep(0)
    time.sleep(BLOCK_S)  # noqa: ASYNC251 - the block is what is measured
    assert await measured >= BLOCK_S / 2


async def test_a_loop_that_is_late_all_the_time_is_judged_so() -> None:
    """Work that takes all turns of the loop makes even the shortest delay long."""
    judged: list[float] = []
    watching = asyncio.create_task(loop_lag.watch(judged.append))
    is_over = False

    async def work() -> None:
        while not is_over:
            time.sleep(BLOCK_S)  # noqa: ASYNC251 - as requests do that arrive too fast
            await asyncio.sleep(0)

    busy = asyncio.create_task(work())
    await until(lambda: bool(judged))
    is_over = True
    await busy
    watching.cancel()
    await asyncio.wait((watching,))
    assert judged[0] >= BLOCK_S / 4


async def test_one_long_block_is_no_overload() -> None:
    """A second has three measurements at least, however long the loop is blocked."""
    judged: list[float] = []
    watching = asyncio.create_task(loop_lag.watch(judged.append))
    await asyncio.sleep(0)
    time.sleep(1.5)  # noqa: ASYNC251 - longer than a second
    await until(lambda: bool(judged))
    watching.cancel()
    await asyncio.wait((watching,))
    assert judged[0] < 1.0
