"""PURE. Which failed requests are sent again, and how often.

A request of which no byte was sent goes to the service's next target, whatever its
method. A request that may have been sent is repeated only if that is harmless: its
method is safe, it has no body, and no byte of a reply was sent to the client. So a POST
is never sent twice. PUT and DELETE are idempotent by RFC 9110 §9.2.2, but a repetition
can undo the change that another client made in between.

`retry.on` and `per_try` may make more of these failures: a reply with a certain status,
or none in time.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import UpstreamClosed, UpstreamError, UpstreamTimeout
from gateway.timeouts import Retry

RESERVE: Final = 100.0
"""Retries allowed in a burst: a target that restarts fails about as many requests."""


class Budget:
    """The number of retries that a service may still get.

    Every request adds its share (`retry.budget`), up to `RESERVE` in all.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = RESERVE

    def earn(self, share: float) -> None:
        """Add the *share* of one request."""
        if self.left < RESERVE:
            self.left += share

    def spend(self) -> bool:
        """Return whether a retry is allowed now; if so, subtract it."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Attempts:
    """The further attempts of one request, after its first failure."""

    __slots__ = ("_budget", "_retry", "_targets", "left")

    def __init__(
        self, budget: Budget, retry: Retry, *, targets: int, is_safe: bool
    ) -> None:
        """Allow one failed connection for each of *targets*, their number.

        *is_safe*: the request may be repeated.
        """
        self._budget = budget
        self._retry = retry
        self._targets = targets
        self.left = retry.attempts if is_safe else 0
        """How often the request may still be repeated."""

    def again_from(self, targets: int) -> None:
        """Begin anew with *targets*, each of which may fail to connect once more."""
        self._targets = targets

    def again(self, error: UpstreamError) -> bool:
        """Return whether to try the next target after *error*.

        A timeout is not retried without `per_try`, because the client has already
        waited for all of it. An invalid reply is not retried, because the next one
        would be invalid too.
        """
        if error.unsent:
            self._targets -= 1
            return self._targets > 0 and "connect" in self._retry.on
        if isinstance(error, UpstreamClosed):
            return "reset" in self._retry.on and self._repeats()
        if isinstance(error, UpstreamTimeout):
            return self._retry.per_try is not None and self._repeats()
        return False

    def again_for(self, status: int) -> bool:
        """Return whether to try the next target in place of a reply with *status*."""
        return status in self._retry.statuses and self._repeats()

    def _repeats(self) -> bool:
        if self.left <= 0:
            return False
        self.left -= 1
        return self._budget.spend()
