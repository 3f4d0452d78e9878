"""PURE. The memory that clients make a worker hold, and who is cut when it is too much.

The budget is `gateway.limits.memory`. It covers unfinished heads, bodies that their
service hasn't taken, replies that their client hasn't read, and a fixed size for each
connection. New connections are closed first: above `FULL` of the budget. Then
connections are cut, in this order, until less than `ENOUGH` of it is used:

1. those of clients that hold more than their share (`per_client.share` of the budget),
2. those without a verified session,
3. those whose session was verified for an earlier request.

Of equals, the newest goes first. A request with a verified session that is being served
is never cut, nor is a connection that holds less than `SPARED_BYTES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

CONNECTION_BYTES: Final = 2048
"""What a connection takes that holds nothing; 1.6 KiB were measured."""
SPARED_BYTES: Final = 8192
"""Cutting a connection that holds less would free next to nothing."""
FULL: Final = 0.9
ENOUGH: Final = 0.8


class Standing(IntEnum):
    """Who is cut first; `SERVED` never."""

    OVER_SHARE = 0
    UNVERIFIED = 1
    VERIFIED = 2
    SERVED = 3


class Held(NamedTuple):
    """A connection, as far as it counts here."""

    size: int
    """The bytes that it makes the worker hold."""
    standing: Standing
    """OVER_SHARE isn't given but found."""
    client: str | None
    """The key of its client, which has a share; None: without one (`Clients.key`)."""


class Ledger:
    """The bytes that all clients of a worker make it hold, and the budget for them."""

    def __init__(self, budget: int, share: float) -> None:
        """*share* is the part of *budget* that one client may take undisturbed."""
        self.used = 0
        self._full = int(budget * FULL)
        self._enough = int(budget * ENOUGH)
        self._share = int(budget * share)

    @property
    def admits(self) -> bool:
        """Whether there is room for a new connection."""
        return self.used + CONNECTION_BYTES <= self._full

    @property
    def is_full(self) -> bool:
        """Whether connections must be cut."""
        return self.used > self._full

    def to_cut(self, newest_first: Sequence[Held]) -> list[int]:
        """Return the indexes of the connections to cut, in order.

        Not all of them together may free enough.
        """
        excess = self.used - self._enough
        by_client: dict[str, int] = {}
        for held in newest_first:
            if held.client is not None:
                by_client[held.client] = by_client.get(held.client, 0) + held.size
        over = {client for client, size in by_client.items() if size > self._share}
        candidates = [
            (Standing.OVER_SHARE if held.client in over else held.standing, index)
            for index, held in enumerate(newest_first)
            if held.size >= SPARED_BYTES and held.standing is not Standing.SERVED
        ]
        chosen = []
        for _, index in sorted(candidates):
            if excess <= 0:
                break
            excess -= newest_first[index].size
            chosen.append(index)
        return chosen
