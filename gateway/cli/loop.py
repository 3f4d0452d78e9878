"""edge. The event loop that commands run on."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run *work* on uvloop if it is installed; return the result."""
    try:
        import uvloop
    except ImportError:  # pragma: no cover - Windows only
        import asyncio

        return asyncio.run(work)
    return uvloop.run(work)
