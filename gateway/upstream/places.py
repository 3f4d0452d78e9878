"""PURE. Who gets a connection when few are left, and which exchange is cut.

A *place* is one of a target's `max_connections`. An exchange that waits for its client,
to send more or to take more, gives its place back for that time. The number of these
exchanges has a limit of its own, `max_waiting`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Final, NamedTuple

RESERVED: Final = 8
"""One of so many places is kept for clients that have less than their share."""

MIN_WAITED_S: Final = 1.0
"""A client's rate is judged once the exchange has waited this long for it."""

RANKED: Final = 16
"""One of so many waiting exchanges is ranked at once, for the cuts of the next second.

Ranking them costs a microsecond for each one that waits, which is too much for each
cut.
"""

RANKED_S: Final = 1.0
"""How long a ranking holds."""

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


def slowest(
    waits: Sequence[ClientWait], limits: PlaceLimits, most: int = 1
) -> list[int]:
    """Return the indices of the exchanges to cut, so that others may wait.

    These are *most* of them at most, the first to be cut first. Clients above their
    share of `max_waiting` come first, and then those with the lowest rates. Exchanges
    that haven't waited for `MIN_WAITED_S` come last, the longest wait first.
    """
    held = Counter(wait.client for wait in waits)
    over = {
        client
        for client, count in held.items()
        if client is not None and limits.is_over_share(count, limits.max_waiting)
    }

    def rank(index: int) -> tuple[bool, bool, float]:
        wait = waits[index]
        if wait.waited_s < MIN_WAITED_S:
            return wait.client not in over, True, -wait.waited_s
        return wait.client not in over, False, wait.size / wait.waited_s

    return heapq.nsmallest(most, range(len(waits)), key=rank)
