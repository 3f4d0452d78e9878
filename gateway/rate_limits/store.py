"""PURE. Where the state of limits is kept: the protocol, and a store of one process.

A store either answers at once or has to ask. Another one, which all processes of a
gateway or several gateways share, needs no more than these two methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from gateway.rate_limits.buckets import Buckets
from gateway.rate_limits.gcra import Gcra

Sharing = Literal["", "local", "allow", "deny"]
"""Whether gateways share a limit, and what happens while their store is away. Empty:
they don't."""


class Draw(NamedTuple):
    """One request's wish, under one limit."""

    key: str
    """Whose bucket it is. Short, and without the client's own words."""
    gcra: Gcra
    cost: int
    sharing: Sharing = ""


class RateStore(Protocol):
    """Keeps the buckets of all keys."""

    def take(self, draw: Draw) -> int | None:
        """Return 0 if the request is admitted, else the nanoseconds until it can be.

        None: call `ask`, since this store has to wait for the answer.
        """

    async def ask(self, draw: Draw) -> int:
        """Return the same as `take`, never None, within a bounded time."""


class LocalStore:
    """Keeps the buckets in this process. It always answers at once."""

    def __init__(
        self, clock: Callable[[], int], buckets: Buckets | None = None
    ) -> None:
        """*clock* returns nanoseconds, and never runs back."""
        self._clock = clock
        self._buckets = Buckets() if buckets is None else buckets

    def take(self, draw: Draw) -> int:
        """Return 0 if the request is admitted, else the nanoseconds until it can be."""
        key, gcra, cost, _ = draw
        return self._buckets.take(key, gcra, self._clock(), cost).wait_ns

    async def ask(self, draw: Draw) -> int:
        """Return the same as `take`."""
        return self.take(draw)
