"""PURE. Which failed requests are sent again, and how often.

What was certainly not sent goes on to the service's next target, whatever it is. What
may have been sent is sent again only if that changes nothing: a safe method without a
body, while the client has seen nothing of a reply. So no POST is ever sent twice. PUT
and DELETE are idempotent by the letter (RFC 9110 §9.2.2), but doing one twice can undo
what somebody did in between.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import UpstreamClosed, UpstreamError

SHARE: Final = 0.2
"""Retries per request in the long run. When a service fails altogether, more would
keep it down; Envoy's and Finagle's budgets have the same figure."""

RESERVE: Final = 100.0
"""Retries at once: a target that restarts takes as many requests with it."""


class Budget:
    """The retries that may still be made, of all routes together.

    Every request adds a fifth of one, up to the reserve.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = RESERVE

    def earn(self) -> None:
        """Count a request."""
        if self.left < RESERVE:
            self.left += SHARE

    def spend(self) -> bool:
        """Return whether a retry may be made now; if so, it is counted."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Attempts:
    """One request's way from target to target, after its first failure."""

    __slots__ = ("_attempts", "_budget", "_targets")

    def __init__(self, budget: Budget, *, targets: int, attempts: int) -> None:
        """Allow each of *targets* to be out of reach once, and *attempts* retries.

        *attempts* is 0 for a request that mustn't be repeated.
        """
        self._budget = budget
        self._targets = targets
        self._attempts = attempts

    def again(self, error: UpstreamError) -> bool:
        """Return whether to try the next target after *error*.

        Neither a timeout nor an invalid reply is: the first has cost its time
        already, the second would come again.
        """
        if error.unsent:
            self._targets -= 1
            return self._targets > 0
        if not isinstance(error, UpstreamClosed) or self._attempts <= 0:
            return False
        self._attempts -= 1
        return self._budget.spend()
