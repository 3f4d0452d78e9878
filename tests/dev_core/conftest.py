"""Cores to test: one for the protocol tests, new ones for the embedded-only tests.

The protocol tests (`test_core_*`) take the core at `CORE_UNDER_TEST` when that's set,
so they can be run against a real one; they share it, and so never count on a clean
database. The embedded-only ones (`test_embedded_*`) start their own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from core_client import Clock, CoreClient

from gateway.dev.core import serve_in_thread


@pytest.fixture(scope="session")
def core_url() -> Iterator[str]:
    """Return the address of the core that protocol tests share."""
    given = os.environ.get("CORE_UNDER_TEST")
    if given is not None:
        yield given.rstrip("/")
        return
    # In a thread, because the SDK's key fetch blocks the loop of its caller.
    with serve_in_thread() as running:
        yield running.url


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
