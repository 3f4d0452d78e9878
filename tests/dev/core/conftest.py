"""Cores to test: one for the protocol tests, new ones for the embedded-only tests.

The protocol tests (`test_core_*`) take the core at SUPERTOKENS_CONNECTION_URI when
that's set, so they can be run against a real one (`make test-core`); they share it, and
so never count on a clean database. The embedded-only ones (`test_embedded_*`) start
their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import aiohttp
import any_core
import pytest
from dev.core.core_client import Clock, CoreClient


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the protocol tests."""
    if item.path.name.startswith("test_core_"):
        item.add_marker("any_core")


@pytest.fixture(scope="session")
def core_url() -> Iterator[str]:
    """Return the address of the core that protocol tests share."""
    with any_core.core_url() as url:
        yield url


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Return an HTTP session that ends with the test."""
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
    """Return a clock that stands until it's pushed."""
    return Clock()
