"""Fixtures of the upstream tests, which run on asyncio's loop and on uvloop.

Those that move the `clock` run on asyncio's loop only, whose timers follow it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop
from compiled import timeouts_of

from gateway.timeouts import Timeouts
from gateway.upstream import Upstreams


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    if "clock" in getattr(item, "fixturenames", ()):
        del loops["uvloop"]
    return loops


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    """Return the pools of the test; afterwards no connection and no task is left."""
    upstreams = Upstreams()
    yield upstreams
    await upstreams.close()
    assert [pool.open for pool in upstreams.pools] == [0] * len(upstreams.pools)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
def timeouts() -> Timeouts:
    """Return timeouts so long that none ends during a test that isn't about time."""
    return timeouts_of(connect=60, response=60, idle=60)
