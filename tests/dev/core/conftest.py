"""Fixtures: one shared core for the protocol tests, a new core per embedded test.

The protocol tests (`test_core_*`) use the core at SUPERTOKENS_CONNECTION_URI if that
is set, so they also run against a real core (`make test-core`). They share one core, so
no test may assume an empty database. Those marked `embedded` hold what only the
embedded core does. The embedded tests (`test_embedded_*`) each start their own core.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import aiohttp
import any_core
import pytest
from dev.core.core_client import Clock, CoreClient


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the protocol tests, except those of the embedded core's strictness."""
    is_protocol = item.path.name.startswith("test_core_")
    if is_protocol and item.get_closest_marker("embedded") is None:
        item.add_marker("any_core")


@pytest.fixture(scope="session")
def core_url() -> Iterator[str]:
    """Return the URL of the core that the protocol tests share."""
    with any_core.core_url() as url:
        yield url


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Return an HTTP client session that is closed after the test."""
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=10)
    ) as session:
        yield session


@pytest.fixture
def core(core_url: str, http: aiohttp.ClientSession) -> CoreClient:
    """Return a client of the shared core."""
    return CoreClient(http, core_url)


@pytest.fixture
def clock() -> Clock:
    """Return a clock that only `advance` moves."""
    return Clock()
