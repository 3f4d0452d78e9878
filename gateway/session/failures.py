"""edge. Failures of verification, as verdicts: no request passes, and one is logged."""

from __future__ import annotations

import logging
import traceback

from gateway.errors import CoreUnavailable, CoreUnlicensed, CoreUnusable
from gateway.identity import Undecided

_MAX_LOGGED = 64
"""Kinds of failure that are logged, each once."""

_log = logging.getLogger("gateway.verify")


class Failures:
    """Turns exceptions into `Undecided`, and logs the unexpected ones."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def undecided(self, error: Exception) -> Undecided:
        """Return the verdict where *error* kept verification from one."""
        match error:
            case CoreUnusable() | CoreUnlicensed():
                return Undecided(reason=error.code)
            case CoreUnavailable():
                return Undecided(reason="core_unavailable")
            case TimeoutError():
                return Undecided(reason="core_timeout")
            case _:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{frame.filename}:{frame.lineno}"
                # Without its message, which may hold what a client sent.
                self.log_once(f"verification failed: {type(error).__name__} at {place}")
                return Undecided(reason="internal_error")

    def log_once(self, text: str) -> None:
        """Log *text*, unless it has been logged before."""
        if text not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(text)
            _log.error(text)
