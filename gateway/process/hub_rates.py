"""edge. The hub's answers to draws of rate limits: its own, and those of the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from gateway.process.hub_leases import LeaseBook
from gateway.process.lease_messages import DrawLeases, LeasesDrawn
from gateway.rate_limits.leases import DrawAnswer, DrawAsked
from gateway.rate_limits.shared_book import SharedBook
from gateway.shared.place import StorePlace
from gateway.shared.rate_script import StoreTaken
from gateway.shared.rates import RateStoreCounts, SharedRates

_CLOSE_S: Final = 1.0


class HubRates:
    """Answers draws by this gateway's buckets, or by those of the shared store."""

    def __init__(
        self,
        send: Callable[[LeasesDrawn], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._send = send
        self._clock = clock
        self._own = LeaseBook()
        self._book = SharedBook()
        self._rates: SharedRates | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def counts(self) -> RateStoreCounts | None:
        """What is counted; None: no store is used."""
        return None if self._rates is None else self._rates.counts

    @property
    def trouble(self) -> str | None:
        """Why limits can't be shared; None: they can, or needn't."""
        return None if self._rates is None else self._rates.trouble

    def use(self, place: StorePlace | None) -> None:
        """Share limits over this store from now on, and over no other."""
        self._end()
        if place is not None:
            self._rates = SharedRates(place)

    def draw(self, wanted: DrawLeases) -> None:
        """Answer a worker's wishes, in one message or two."""
        shared = tuple(one for one in wanted.draws if one.sharing)
        if not shared:
            self._send(self._own.draw(wanted, self._clock()))
            return
        own = DrawLeases(
            tuple(one for one in wanted.draws if not one.sharing), wanted.child
        )
        if own.draws:
            self._send(self._own.draw(own, self._clock()))
        self._draw_shared(shared, wanted.child)

    def _draw_shared(self, wishes: Sequence[DrawAsked], child: int) -> None:
        now = self._clock()
        asked: list[DrawAsked] = []
        alone: list[DrawAsked] = []
        for one in wishes:
            # With too many keys, this gateway limits the others by itself.
            (asked if self._book.has_room(one.key, now) else alone).append(one)
        if alone:
            answers = [(one, self._book.take_alone(one, now)) for one in alone]
            self._answer([DrawAnswer.of(*one) for one in answers], child)
        if not asked:
            return
        rates = self._rates
        if rates is None:  # a reload has removed it just now
            self._without_store(asked, child)
            return
        for part in rates.parts(asked):
            rates.ask(part, partial(self._on, part, child))

    def _on(
        self,
        wishes: Sequence[DrawAsked],
        child: int,
        taken: Sequence[StoreTaken] | None,
    ) -> None:
        """Pass on what the store has answered to *wishes*, or decide without it."""
        if taken is None:
            self._without_store(wishes, child)
            return
        now = self._clock()
        answers = []
        for one, (granted, wait_ns, full_ns) in zip(wishes, taken, strict=True):
            self._book.note(one, full_ns, now)
            answers.append(DrawAnswer(one.number, granted, wait_ns))
        self._answer(answers, child)

    def _without_store(self, wishes: Sequence[DrawAsked], child: int) -> None:
        now = self._clock()
        self._answer(
            [DrawAnswer.of(one, self._book.without_store(one, now)) for one in wishes],
            child,
        )

    def _answer(self, answers: Sequence[DrawAnswer], child: int) -> None:
        self._send(LeasesDrawn(tuple(answers), child))

    def _end(self) -> None:
        if self._rates is not None:
            ending = asyncio.create_task(self._rates.close())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        self._rates = None

    async def close(self) -> None:
        """Close the connection, within a bounded time."""
        self._end()
        if self._ending:
            await asyncio.wait(self._ending, timeout=_CLOSE_S)
