"""edge. What is logged of the core's signing keys: outages, and keys too old to use."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from gateway.events import RuntimeEvent, about

_QUIET_S: Final = 60.0
"""The shortest time between two reports of outages, in seconds."""

_log = logging.getLogger("gateway.keys")


class KeyTrouble(NamedTuple):
    """What was wrong with a fetch of the keys."""

    text: str
    """In a few words, without any address."""
    is_core_lost: bool
    """Nothing answered; else the core has answered with something else than keys."""


class KeyReports:
    """Logs the beginning of an outage, its end, and that the keys are too old."""

    def __init__(self, left_s: Callable[[], float]) -> None:
        """*left_s* returns for how long tokens can be verified; 0 or less: no more."""
        self._left_s = left_s
        self._told: RuntimeEvent | None = None
        self._quiet_until = float("-inf")
        self._has_keys = False
        self._is_expiry_told = False

    def failed(self, troubles: str, *, is_core_lost: bool, now: float) -> None:
        """Report that a fetch has failed, if that is news.

        *troubles* is what was wrong at which host; *now* is monotonic.
        """
        if self._told is None and now >= self._quiet_until:
            event = RuntimeEvent.CORE_LOST if is_core_lost else RuntimeEvent.KEYS_STALE
            self._told = event
            self._quiet_until = now + _QUIET_S
            rest = (
                "Until they are, no token can be verified: protected routes answer 503"
            )
            keys_until = None
            if (left_s := self._left_s()) > 0:
                until = datetime.fromtimestamp(time.time() + left_s, UTC)
                keys_until = f"{until:%Y-%m-%dT%H:%M:%SZ}"
                rest = (
                    "Tokens are verified with the keys of before until"
                    f" {until:%Y-%m-%d %H:%M:%S} UTC"
                )
            extra = about(event, reason=troubles, keys_until=keys_until)
            text = "the signing keys can't be fetched: %s. %s"
            _log.warning(text, troubles, rest, extra=extra)
        self.check_expiry()

    def succeeded(self) -> None:
        """Report that a fetch has succeeded, if a failure was reported."""
        if self._told is not None:
            extra = about(RuntimeEvent.KEYS_FRESH)
            if self._told is RuntimeEvent.CORE_LOST:
                extra = about(RuntimeEvent.CORE_BACK)
            self._told = None
            _log.warning("the signing keys can be fetched again", extra=extra)
        if self._left_s() > 0:
            self.check_expiry()

    def check_expiry(self) -> None:
        """Report that there are no usable keys any more, once until there are some."""
        if self._left_s() > 0:
            self._has_keys = True
            self._is_expiry_told = False
        elif self._has_keys and not self._is_expiry_told:
            self._is_expiry_told = True
            _log.error(
                "the signing keys are older than keys.max_stale: no token can be"
                " verified, and protected routes answer 503",
                extra=about(RuntimeEvent.KEYS_EXPIRED),
            )
