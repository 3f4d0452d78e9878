"""PURE. The store over which gateways share denials: who is told what of it.

A gateway that starts doesn't accept before its hub has read the store or has found it
away. Afterwards, the hub says every second that it has all of the store's denials. If
it doesn't for `shared.grace`, and `shared.on_failure` is `refuse`, workers are told to
refuse requests with a session. So a hub that hangs counts like a store that is away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from gateway.process.messages import Deny
from gateway.process.plan_events import LoadedFile, Send
from gateway.process.plan_state import Child, WorkerChild
from gateway.process.shared_messages import (
    RefuseSessions,
    ShareDenials,
    SharedMessage,
    ShareWith,
)
from gateway.shared.entries import SharedDenials
from gateway.shared.place import StorePlace

FIRST_WORD_S: Final = 8.0
"""For the hub to start and to try the store once, which takes at most 5 s."""


class StorePlan:
    """What is known of the store, and what follows."""

    def __init__(self, config: LoadedFile, *, is_upgrade: bool) -> None:
        """With *is_upgrade*, the gateway before has handed its denials over."""
        self._place: StorePlace | None = config.shared
        self.is_awaited = config.shared is not None and not is_upgrade
        """No worker may accept yet: the hub hasn't said a word about the store."""
        self._awaited_until: float | None = None
        self._is_inherited = is_upgrade
        self._directed: tuple[int, StorePlace | None] | None = None
        """The hub that was directed last, and what it shares denials over."""
        self._known_at: float | None = None
        """When all denials in the store were known last; None: never yet."""
        self._is_refusing = False
        """The last word to all workers."""

    # --- the hub --------------------------------------------------------------

    def direct(
        self, hub: Child, config: LoadedFile, denied: Iterable[Deny], now: float
    ) -> Iterator[SharedMessage]:
        """Yield what *hub* is told if it or the store is new: all that is *denied*."""
        self._place, before = config.shared, self._directed
        if before == (hub.number, self._place):
            return
        self._directed = hub.number, self._place
        if before is None and self._place is None:
            return
        is_moved = before is not None and before[1] != self._place
        if is_moved or self._is_inherited:
            self._known_at, self._is_inherited = now, False
        if self._place is None and before is not None and before[0] != hub.number:
            return
        yield ShareWith(self._place)
        if self._place is not None:
            for one in denied:
                yield _shared(one, is_new=False)

    def share(self, denial: Deny, hub: Child | None) -> Iterator[Send]:
        """Yield how *hub* is told of a denial that was made in this gateway.

        A hub that starts later is told by `direct`.
        """
        if hub is None or self._place is None:
            return
        if self._directed == (hub.number, self._place):
            yield Send(hub.number, _shared(denial, is_new=True))

    def heard(self, *, is_known: bool, now: float) -> None:
        """Note the hub's word."""
        self.is_awaited = False
        if is_known:
            self._known_at = now

    def start_waiting(self, now: float) -> None:
        """The hub is about to start; its word is awaited no longer than its bound."""
        if self._awaited_until is None:
            self._awaited_until = now + FIRST_WORD_S

    def give_up_waiting(self, now: float) -> bool:
        """Return whether the hub's first word is overdue; it is awaited no more."""
        until = self._awaited_until
        if not self.is_awaited or until is None or now < until:
            return False
        self.is_awaited = False
        return True

    # --- workers --------------------------------------------------------------

    def _must_refuse(self, now: float) -> bool:
        if self._place is None or self._place.grace_s is None:
            return False
        if self.is_awaited or self._is_inherited:
            return False  # no worker accepts yet
        return self._known_at is None or now > self._known_at + self._place.grace_s

    def update(self, workers: Iterable[WorkerChild], now: float) -> Iterator[Send]:
        """Yield what *workers* are told, if it has changed."""
        is_on = self._must_refuse(now)
        if is_on != self._is_refusing:
            self._is_refusing = is_on
            for worker in workers:
                yield Send(worker.number, RefuseSessions(is_on))

    def begin(self) -> Iterator[RefuseSessions]:
        """Yield what a new worker is told before it accepts."""
        if self._is_refusing:
            yield RefuseSessions(True)


def _shared(denial: Deny, *, is_new: bool) -> ShareDenials:
    return ShareDenials(SharedDenials(denial.ends, denial.users), is_new)
