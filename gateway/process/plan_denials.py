"""PURE. The denials that the supervisor keeps, and who has acknowledged each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from gateway.process.messages import Deny, DenyDone, batches
from gateway.process.plan_events import Send
from gateway.process.plan_state import Child, ChildState
from gateway.session.deny_list import DenyList

MAX_UNCONFIRMED = 10_000
"""Denials that wait for acknowledgements, about 500 bytes each. Beyond that, a sender
isn't told, and its answer goes out after `Pace.confirm_s`."""


@dataclass(slots=True, eq=False)
class _Unconfirmed:
    """A denial that some workers, or another gateway, haven't acknowledged."""

    source: Child
    number: int
    """The source's own number of it."""
    missing: set[int]
    """The numbers of these workers."""


class Denials:
    """Keeps denials, and returns what is to be sent about them."""

    def __init__(self) -> None:
        self._denied = DenyList()
        self._unconfirmed: dict[int, _Unconfirmed] = {}
        """By the supervisor's own number of the denial."""
        self._last = 0

    def live(self, now: float) -> Iterator[Deny]:
        """Yield all denials in force, for a new worker."""
        return batches(self._denied.live(now), self._denied.live_users(now))

    def keep(self, denials: Iterable[Deny], now: float) -> None:
        """Keep *denials* of the gateway before; no child is there yet."""
        for denial in denials:
            self._denied.add(denial.ends, now)
            for user in denial.users:
                self._denied.add_user(user, now)

    def add(
        self, source: Child, denial: Deny, others: Sequence[Child], now: float
    ) -> Iterator[Send]:
        """Keep a denial; yield how it is relayed to all *others* than its *source*.

        The source is told when all of them that may have clients have acknowledged it
        or have exited. One that starts needs no acknowledgement: it reads the denial
        before `Accept`.
        """
        new = self._denied.add(denial.ends, now)
        for user in denial.users:
            self._denied.add_user(user, now)
        # A known one is on its way, perhaps: its acknowledgement is asked for again.
        ends = denial.ends if denial.number else new
        relayed = list(batches(ends.items(), denial.users))
        if denial.number and relayed:
            self._last += 1
            relayed[-1] = replace(relayed[-1], number=self._last)
        for part in relayed:
            for worker in others:
                yield Send(worker.number, part)
        if denial.number:
            missing = {
                worker.number
                for worker in others
                if relayed and worker.state is not ChildState.STARTING
            }
            if not missing:
                yield Send(source.number, DenyDone(denial.number))
            elif len(self._unconfirmed) < MAX_UNCONFIRMED:
                self._unconfirmed[self._last] = _Unconfirmed(
                    source, denial.number, missing
                )

    def acknowledge(self, number: int, worker: Child) -> Iterator[Send]:
        """Note that *worker* knows the denial; yield its confirmation if it was last.

        *number* is the supervisor's own. The denial waits for nobody then.
        """
        unconfirmed = self._unconfirmed.get(number)
        if unconfirmed is None:
            return
        unconfirmed.missing.discard(worker.number)
        if worker is unconfirmed.source:
            del self._unconfirmed[number]
        elif not unconfirmed.missing:
            del self._unconfirmed[number]
            yield Send(unconfirmed.source.number, DenyDone(unconfirmed.number))

    def gone(self, child: Child) -> Iterable[Send]:
        """Yield the confirmations that waited for *child* only, which has exited."""
        for number in tuple(self._unconfirmed):
            yield from self.acknowledge(number, child)
