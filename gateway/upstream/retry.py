"""PURE. Which failed requests are sent again, and how often.

A request of which no byte was sent goes to the service's next target, whatever its
method. A request that may have been sent is repeated only if that is harmless: its
method is safe, it has no body, and no byte of a reply was sent to the client. So a POST
is never sent twice. PUT and DELETE are idempotent by RFC 9110 §9.2.2, but a repetition
can undo the change that another client made in between.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import UpstreamClosed, UpstreamError

SHARE: Final = 0.2
"""Retries allowed per request in the long run. More of them would keep an overloaded
service from recovering; Envoy's and Finagle's budgets use the same value."""

RESERVE: Final = 100.0
"""Retries allowed in a burst: a target that restarts fails about as many requests."""


class Budget:
    """The number of retries that may still be made, shared by all routes.

    Every request adds `SHARE`, up to `RESERVE`.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = RESERVE

    def earn(self) -> None:
        """Add the share of one request."""
        if self.left < RESERVE:
            self.left += SHARE

    def spend(self) -> bool:
        """Return whether a retry is allowed now; if so, subtract it."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Attempts:
    """The further attempts of one request, after its first failure."""

    __slots__ = ("_attempts", "_budget", "_targets")

    def __init__(self, budget: Budget, *, targets: int, attempts: int) -> None:
        """Allow one failed connection for each target, and *attempts* repetitions.

        *targets* is their number. *attempts* is 0 for a request that mustn't be
        repeated.
        """
        self._budget = budget
        self._targets = targets
        self._attempts = attempts

    def again(self, error: UpstreamError) -> bool:
        """Return whether to try the next target after *error*.

        A timeout is not retried, because the client has already waited for all of it.
        An invalid reply is not retried, because the next one would be invalid too.
        """
        if error.unsent:
            self._targets -= 1
            return self._targets > 0
        if not isinstance(error, UpstreamClosed) or self._attempts <= 0:
            return False
        self._attempts -= 1
        return self._budget.spend()
