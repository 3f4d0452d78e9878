"""edge. Failures of verification, as verdicts: no request passes, and one is logged."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Final

from gateway.errors import CoreUnavailable, CoreUnlicensed, CoreUnusable
from gateway.events import RuntimeEvent, about
from gateway.identity import Undecided

_MAX_LOGGED = 64
"""Kinds of failure that are logged, each once."""

_log = logging.getLogger("gateway.verify")


NOTES: Final[Mapping[str, str]] = {
    "keys_unavailable": "the core's signing keys can't be fetched, or are older than"
    " keys.max_stale",
    "core_busy": "no place for a call to the core was free in time"
    " (core.max_concurrent)",
    "core_timeout": "the core didn't answer in time",
    "core_unavailable": "the core can't be reached",
    "denials_unknown": "the store that gateways share is away (gateway.shared), so it"
    " isn't known which sessions have ended",
    "internal_error": "verification failed: standard error says where",
}
"""Reason → what the log says about it."""


def undecided(reason: str, note: str = "") -> Undecided:
    """Return the verdict, with *note* or else the usual one for *reason*."""
    return Undecided(reason=reason, note=note or NOTES.get(reason, ""))


class Failures:
    """Turns exceptions into `Undecided`, and logs the unexpected ones."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def undecided(self, error: Exception) -> Undecided:
        """Return the verdict where *error* kept verification from one."""
        match error:
            case CoreUnusable() | CoreUnlicensed():
                return undecided(error.code, error.detail)
            case CoreUnavailable():
                return undecided("core_unavailable", str(error))
            case TimeoutError():
                return undecided("core_timeout")
            case _:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{frame.filename}:{frame.lineno}"
                # Without its message, which may hold what a client sent.
                self.log_once(f"verification failed: {type(error).__name__} at {place}")
                return undecided("internal_error")

    def log_once(self, text: str) -> None:
        """Log *text*, unless it has been logged before."""
        if text not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(text)
            _log.error(text, extra=about(RuntimeEvent.VERIFICATION_FAILED))
