"""Resetting the SuperTokens SDK of this process, so that a test can start its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from gateway.config import SuperTokensConfig
from gateway.supertokens import Sdk, start
from gateway.supertokens.testing import reset

if TYPE_CHECKING:
    from gateway.supertokens.delivery import EmailSender

__all__ = ["reset", "running"]


@contextlib.asynccontextmanager
async def running(
    settings: SuperTokensConfig, *, email: EmailSender | None = None
) -> AsyncIterator[Sdk]:
    """Run the SDK with *settings* for the block; reset it before and afterwards."""
    reset()
    sdk = start(settings, email=email)
    try:
        yield sdk
    finally:
        await sdk.close()
        reset()
