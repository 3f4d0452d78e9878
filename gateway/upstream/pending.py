"""PURE. The requests that wait for a place at their service: whose turn it is.

Critical requests come before all others. Among equals, the clients take turns, so that
one with many requests doesn't delay those of others. When the queue is full, the place
of a new request is taken from the client that has the most.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_CRITICAL: Final = 0
_OTHERS: Final = 1


class PendingQueue(Generic[T]):
    """A bounded queue of items, each with its client's key.

    Each operation takes the same time, whatever the number of items.
    """

    def __init__(self, most: int) -> None:
        """Let *most* items wait at a time."""
        self._most = most
        self._tiers: tuple[_Tier[T], _Tier[T]] = (_Tier(), _Tier())
        """The critical ones, and all others."""
        self._places: dict[T, tuple[int, Hashable]] = {}
        """The tier and the client of each item."""

    def __len__(self) -> int:
        """Return the number of items that wait."""
        return len(self._places)

    def add(
        self, item: T, client: str | None, *, is_critical: bool = False
    ) -> T | None:
        """Add *item*; return the one that there is no room for, None if there is.

        *client* None: it is a client of its own. The returned item is no longer in the
        queue. It is *item* itself, unless another client has more items, or *item* is
        critical and others aren't.
        """
        tier = _CRITICAL if is_critical else _OTHERS
        key: Hashable = item if client is None else client
        refused: T | None = None
        if len(self._places) >= self._most:
            refused = self._without(tier, key)
            if refused is None:
                return item
            self.remove(refused)
        self._places[item] = tier, key
        self._tiers[tier].add(key, item)
        return refused

    def _without(self, tier: int, key: Hashable) -> T | None:
        """Return the item whose place one more of *key* takes, None if there is none.

        It is the last one of the client that has the most.
        """
        if tier == _CRITICAL and (others := self._tiers[_OTHERS]).largest:
            return others.last_of_largest()
        own = self._tiers[tier]
        if own.largest <= own.size(key) + 1:
            return None
        return own.last_of_largest()

    def next(self) -> T | None:
        """Remove and return the item whose turn it is, None if the queue is empty."""
        for tier in self._tiers:
            if tier.largest:
                item = tier.pop()
                del self._places[item]
                return item
        return None

    def remove(self, item: T) -> None:
        """Remove *item*, if it is in the queue."""
        place = self._places.pop(item, None)
        if place is not None:
            tier, key = place
            self._tiers[tier].remove(key, item)


class _Tier(Generic[T]):
    """Items of equal rank, by client."""

    __slots__ = ("_by_size", "_items", "largest")

    def __init__(self) -> None:
        self._items: dict[Hashable, dict[T, None]] = {}
        """The items of each client in their order; the first client is next."""
        self._by_size: dict[int, dict[Hashable, None]] = {}
        """The clients with each number of items."""
        self.largest = 0
        """The most items of a client; 0: there are none."""

    def size(self, key: Hashable) -> int:
        """Return the number of a client's items."""
        return len(self._items.get(key, ()))

    def add(self, key: Hashable, item: T) -> None:
        """Add an item at the end of its client's."""
        items = self._items.setdefault(key, {})
        items[item] = None
        self._resized(key, len(items) - 1, len(items))

    def pop(self) -> T:
        """Remove and return the first item of the client whose turn it is."""
        key = next(iter(self._items))
        item = next(iter(self._items[key]))
        self.remove(key, item)
        if key in self._items:  # the client's next turn is after all others
            self._items[key] = self._items.pop(key)
        return item

    def remove(self, key: Hashable, item: T) -> None:
        """Remove an item of a client."""
        items = self._items[key]
        del items[item]
        self._resized(key, len(items) + 1, len(items))
        if not items:
            del self._items[key]

    def last_of_largest(self) -> T:
        """Return the last item of a client that has the most."""
        key = next(iter(self._by_size[self.largest]))
        return next(reversed(self._items[key]))

    def _resized(self, key: Hashable, before: int, now: int) -> None:
        """Note a client's number of items, which has changed by one."""
        if before:
            keys = self._by_size[before]
            del keys[key]
            if not keys:
                del self._by_size[before]
        if now:
            self._by_size.setdefault(now, {})[key] = None
        if now > self.largest or self.largest not in self._by_size:
            self.largest = now
