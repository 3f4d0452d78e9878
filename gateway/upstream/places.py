"""PURE. Who gets a connection when few are left, and which exchange is cut.

A *place* is one of a target's `max_connections`. An exchange that waits for its client,
to send more or to take more, gives its place back for that time. The number of these
exchanges has a limit of its own, `max_waiting`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Final, NamedTuple

RESERVED: Final = 8
"""One of so many places is kept for clients that have less than their share."""

MIN_WAITED_S: Final = 1.0
"""A client's rate is judged once the exchange has waited this long for it."""

WAITING_PER_CONNECTION: Final = 4
"""The default of `max_waiting` is so many times `max_connections`."""


class WaitsFor(IntFlag):
    """What an exchange waits for its client to do."""

    NOTHING = 0
    SEND = 1
    """To send more of the request's body."""
    TAKE = 2
    """To take more of the reply's body."""


@dataclass(frozen=True, slots=True)
class PlaceLimits:
    """The limits of one target, in one worker."""

    max_connections: int
    """Most exchanges in progress, idle connections included."""
    max_waiting: int
    """Most exchanges that wait for their clients."""
    share: float = 1.0
    """The part of both, up to 1, that one client is sure of."""

    @property
    def scarce_at(self) -> int:
        """The number of exchanges in progress from which shares take effect."""
        return self.max_connections - self.max_connections // RESERVED

    def is_over_share(self, held: int, limit: int) -> bool:
        """Return whether a client that holds *held* of *limit* has its share."""
        return held >= limit * self.share


class ClientWait(NamedTuple):
    """An exchange that waits for its client."""

    client: str | None
    """The client's key (`clients`); None: it has no share of its own."""
    size: int
    """Bytes that it has sent and taken in this exchange."""
    waited_s: float
    """Seconds for which the exchange has waited for it, in total."""


def slowest(waits: Sequence[ClientWait], limits: PlaceLimits) -> int:
    """Return the index of the exchange to cut, so that another one may wait.

    Clients above their share of `max_waiting` are cut first. Among these, or else among
    all, it is the one with the lowest rate. An exchange that hasn't waited for
    `MIN_WAITED_S` is cut only if no other has: then the one that has waited longest.

    Raises:
        ValueError: *waits* is empty.
    """
    held = Counter(wait.client for wait in waits)
    over = {
        client
        for client, count in held.items()
        if client is not None and limits.is_over_share(count, limits.max_waiting)
    }
    candidates = [n for n, wait in enumerate(waits) if not over or wait.client in over]
    return min(candidates, key=lambda n: _rank(waits[n]))


def _rank(wait: ClientWait) -> tuple[bool, float]:
    if wait.waited_s < MIN_WAITED_S:
        return True, -wait.waited_s
    return False, wait.size / wait.waited_s
