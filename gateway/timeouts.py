"""PURE. How long a service may take, and when a request is sent again.

This is what the file says, in the form that the request path reads. An attribute of a
configuration's model takes ten times as long to read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway import config


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a service may take, in seconds. Every request reads it."""

    connect: float
    """For a new connection, TLS included."""
    response: float
    """From the end of the request to the reply's head."""
    idle: float
    """Between two pieces of the reply's body."""
    total: float | None
    """The whole exchange. None: no limit."""

    @classmethod
    def of(cls, timeouts: config.TimeoutsConfig) -> Timeouts:
        """Return what the file says."""
        return cls(
            connect=timeouts.connect,
            response=timeouts.response,
            idle=timeouts.idle,
            total=timeouts.total,
        )

    def of_a_try(self, per_try_s: float) -> Timeouts:
        """Return the timeouts of a try that can be repeated."""
        return replace(self, response=min(self.response, per_try_s))

    def after(self, waited_s: float) -> Timeouts:
        """Return what is left of them for a request that has waited to be sent."""
        if self.total is None or not waited_s:
            return self
        return replace(self, total=max(0.0, self.total - waited_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When a request is sent again. Every request reads it."""

    attempts: int
    """How often, if that is harmless."""
    on: frozenset[str]
    """What for: `connect`, `reset`, and statuses."""
    statuses: frozenset[int]
    """The statuses in `on`."""
    per_try: float | None
    """How many seconds each try may take to the reply's head. None: `response`."""
    budget: float
    """How many retries each request allows its service, in the long run: 0 to 1."""

    @classmethod
    def of(cls, retry: config.RetryConfig) -> Retry:
        """Return what the file says."""
        return cls(
            attempts=retry.attempts,
            on=frozenset(retry.on),
            statuses=frozenset(int(one) for one in retry.on if one.isdigit()),
            per_try=retry.per_try,
            budget=retry.budget,
        )
