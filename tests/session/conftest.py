"""Fixtures of the tests of `gateway.session`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sessions_under_test import World, world


@pytest.fixture
async def here() -> AsyncIterator[World]:
    """Return a session authenticator with the default configuration."""
    found = world()
    yield found
    await found.sessions.close()
