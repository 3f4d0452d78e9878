"""What the tests of `gateway.session` share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sessions_under_test import World, world


@pytest.fixture
async def here() -> AsyncIterator[World]:
    """Return an authenticator of sessions with the default configuration."""
    found = world()
    yield found
    await found.sessions.close()
