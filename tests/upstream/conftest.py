"""The upstream leg's tests run on both event loops, and leave nothing behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from gateway.config import TimeoutsConfig
from gateway.upstream import Upstreams


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    """All pools of the test; when it is over, no place is taken and no task is left."""
    mine = Upstreams()
    yield mine
    await mine.close()
    assert [pool.open for pool in mine.pools] == [0] * len(mine.pools)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
def timeouts() -> TimeoutsConfig:
    """Long enough to be no matter in a test that isn't about time."""
    return TimeoutsConfig(connect=60, response=60, idle=60)
