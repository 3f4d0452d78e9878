"""Forgetting the SuperTokens SDK of this process, so that a test can start its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from gateway.config import SuperTokens
from gateway.sdk import Sdk, start
from gateway.sdk.testing import reset

__all__ = ["reset", "running"]


@contextlib.asynccontextmanager
async def running(
    settings: SuperTokens, *, email: object | None = None
) -> AsyncIterator[Sdk]:
    """Run the SDK with *settings* inside, whatever ran before, and close it."""
    reset()
    sdk = start(settings, email=email)  # type: ignore[arg-type]
    try:
        yield sdk
    finally:
        await sdk.close()
        reset()
