"""edge. Shares this gateway's denials, and gets those of others, as long as it runs.

1 connect → 2 read the stream from its start → 3 send what it lacks and was made here →
4 wait for entries and for new denials; check that nothing was lost. Whatever fails in
between, it begins again with 1.

A stream that has lost entries is filled again: each gateway sends its own denials at
once, and those of others that are still missing after a second. Which gateway does so
first is left to chance; the others read its entries and send nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from gateway.events import RuntimeEvent, about
from gateway.pace import backoff_s
from gateway.shared import entries, store
from gateway.shared.entries import NotAnEntry, SharedDenials, SharedEntry
from gateway.shared.ledger import DenialLedger, EntryEnds
from gateway.shared.place import StorePlace
from gateway.shared.store import FIRST, DenialStore, RawEntry, StoreFailed

_log = logging.getLogger("gateway.shared")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingPace:
    """The times of sharing, in seconds."""

    check_s: float = 1.0
    """How often the stream is checked for losses, and trimmed."""
    first_delay_s: float = 0.1
    """Before a connection is tried again, doubled each time."""
    max_delay_s: float = 2.0
    """The longest such delay. It is drawn between half of it and all of it."""
    others_s: tuple[float, float] = (0.2, 1.2)
    """Between these, denials of other gateways that the stream lacks are sent."""


PACE: Final = SharingPace()


@dataclass(slots=True)
class SharingCounts:
    """What is counted, for metrics."""

    is_connected: bool = False
    sent: int = 0
    """Denials."""
    received: int = 0
    """Denials of other gateways, those that were known included."""
    skipped: int = 0
    """Entries that aren't of this format."""
    waiting: int = 0
    """New denials that the stream doesn't have yet."""
    lag_s: float | None = None
    """From a new denial of this gateway until it was read in the stream, the last
    time; None: not yet."""


class Sharing:
    """The way of denials to a stream, and from it."""

    def __init__(
        self,
        place: StorePlace,
        *,
        on_denials: Callable[[SharedDenials], None],
        on_state: Callable[[bool], None],
        pace: SharingPace = PACE,
    ) -> None:
        """*on_denials* gets what is news here. *on_state* is called with True at least
        each 3 s while everything in the stream is known, and with False when not."""
        self.counts = SharingCounts()
        self.trouble: str | None = None
        """Why the store can't be used; None: it can, or it isn't known yet."""
        self._place = place
        self._pace = pace
        self._on_denials = on_denials
        self._on_state = on_state
        self._id = secrets.token_hex(8)
        self._ledger = DenialLedger()
        self._ends = EntryEnds()
        self._last = FIRST
        """The id of the last entry that was read."""
        self._own: tuple[str, float] | None = None
        """The id of the last entry that was sent, and when its denials are over."""
        self._was_used = False
        """It has been logged that the store is used."""
        self._sent_at: dict[str, float] = {}
        """Own entries that haven't been read yet → when they were made here."""
        self._denied_at: float | None = None
        """When the oldest new denial that isn't sent was made."""
        self._wanted = asyncio.Event()
        """There are new denials."""
        self._idle = asyncio.Event()
        """There are none that aren't sent."""
        self._idle.set()
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def know(self, denials: SharedDenials) -> None:
        """Note denials that are in force in this gateway already."""
        self._ledger.know(denials, time.time())

    def deny(self, denials: SharedDenials) -> None:
        """Share new denials of this gateway."""
        self._ledger.deny(denials, time.time())
        self.counts.waiting = self._ledger.waiting
        if self._denied_at is None:
            self._denied_at = time.monotonic()
        self._idle.clear()
        self._wanted.set()

    async def flush(self, timeout_s: float) -> None:
        """Wait until all new denials are sent, at most so long."""
        if self.counts.is_connected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()

    def start(self) -> None:
        """Share from now on, until `close`."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Close the connections. A store that doesn't answer delays that a while."""
        self._over.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_CLOSE_S)
            await cancelled(self._task, _CLOSE_S)

    async def _run(self) -> None:
        failures = 0
        while not self._over.is_set():
            try:
                async with store.connected(self._place) as stream:
                    await self._catch_up(stream)
                    self._note_connected()
                    failures = 0
                    await self._share(stream)
            except StoreFailed as error:
                failures += 1
                self._note_lost(str(error))
            except _Incomplete:
                continue
            except Exception as error:  # noqa: BLE001 - the boundary: try again
                failures += 1
                self._note_lost(f"unexpected {type(error).__name__}")
            delay_s = backoff_s(
                self._pace.first_delay_s, failures, self._pace.max_delay_s
            )
            wait_s = random.uniform(delay_s / 2, delay_s)  # noqa: S311 - no secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._over.wait()

    async def _catch_up(self, stream: DenialStore) -> None:
        """Read the stream from its start, and send what it lacks of this gateway."""
        self._ledger.begin()
        self._ledger.take()  # `missing` has them
        self._wanted.clear()
        self._ends = EntryEnds()
        self._last, self._own = FIRST, None
        self._sent_at.clear()
        while found := await stream.read(self._last, is_waiting=False):
            self._take(found)
        missing = self._ledger.missing(time.time(), own_only=True)
        await self._send(stream, missing)

    async def _share(self, stream: DenialStore) -> None:
        """Wait for both sides, until `close`.

        Raises:
            StoreFailed: the store is away.
            _Incomplete: the stream has lost entries.
        """
        tasks = {
            asyncio.create_task(self._receive(stream)),
            asyncio.create_task(self._write(stream)),
            asyncio.create_task(self._over.wait()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                await cancelled(task, _CANCEL_S)

    async def _receive(self, stream: DenialStore) -> NoReturn:
        while True:
            found = await stream.read(self._last, is_waiting=True)
            self._take(found)
            self._on_state(True)

    async def _write(self, stream: DenialStore) -> NoReturn:
        """Send new denials, and now and then check the stream."""
        ahead_s = time.time() - await stream.clock()
        wait_s = random.uniform(*self._pace.others_s)  # noqa: S311 - no secret
        others_at: float | None = time.monotonic() + wait_s
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.check_s):
                    await self._wanted.wait()
            self._wanted.clear()
            if self._ledger.waiting:
                await self._send(stream, self._ledger.take())
                continue
            if others_at is not None and time.monotonic() >= others_at:
                others_at = None
                await self._send(stream, self._ledger.missing(time.time()))
            await self._check(stream, ahead_s)

    async def _check(self, stream: DenialStore, ahead_s: float) -> None:
        """Trim the stream.

        Raises:
            _Incomplete: it has lost entries, or it is another one.
        """
        now = time.time()
        if self._own is not None and self._own[1] <= now:
            self._own = None  # others may trim it
        # Before the server is asked: others' entries are read in the meantime.
        seen, own = self._last, self._own
        last, has_own = await stream.ends(own and own[0])
        if _rank(last) < _rank(seen) or not has_own:
            raise _Incomplete
        # The earlier of both clocks: what a fast one takes for over is kept.
        needed = self._ends.needed_from(min(now, now - ahead_s))
        if needed is not None:
            await stream.trim(needed)

    def _take(self, found: list[RawEntry]) -> None:
        """Note entries of the stream, and report what is news."""
        now = time.time()
        for entry_id, raw in found:
            self._last = entry_id
            try:
                entry = entries.read(raw, now)
            except NotAnEntry:
                self.counts.skipped += 1
                continue
            self._ends.add(entry_id, entry.denials)
            news = self._ledger.read(entry.denials, now)
            if entry.gateway == self._id:
                if (made_at := self._sent_at.pop(entry_id, None)) is not None:
                    self.counts.lag_s = time.monotonic() - made_at
            else:
                ends, users = entry.denials.ends, entry.denials.users
                self.counts.received += len(ends) + len(users)
            if news:
                self._on_denials(news)

    async def _send(self, stream: DenialStore, denials: SharedDenials) -> None:
        """Append *denials*. If that fails, they wait again."""
        made_at, self._denied_at = self._denied_at, None
        parts = [SharedEntry(self._id, part) for part in entries.batches(denials)]
        try:
            for start in range(0, len(parts), _PIPELINED):
                some = parts[start : start + _PIPELINED]
                ids = await stream.append(some)
                for entry_id, one in zip(ids, some, strict=True):
                    self._note_sent(entry_id, one.denials, made_at)
        except StoreFailed:
            self._denied_at = made_at
            self._ledger.deny(denials, time.time())
            raise
        finally:
            self.counts.waiting = self._ledger.waiting
        if not self._ledger.waiting:
            self._idle.set()

    def _note_sent(
        self, entry_id: str, denials: SharedDenials, made_at: float | None
    ) -> None:
        self._ledger.sent(denials, time.time())
        self._own = entry_id, entries.end_of(denials)
        self.counts.sent += len(denials.ends) + len(denials.users)
        if made_at is not None:
            self._note_lag(entry_id, made_at)

    def _note_lag(self, entry_id: str, made_at: float) -> None:
        if _rank(entry_id) <= _rank(self._last):  # it was read before the answer came
            self.counts.lag_s = time.monotonic() - made_at
        elif len(self._sent_at) < _PIPELINED:
            self._sent_at[entry_id] = made_at

    def _note_connected(self) -> None:
        is_news = self.trouble is not None or not self._was_used
        self.counts.is_connected = self._was_used = True
        self.trouble = None
        self._on_state(True)
        if is_news:
            _log.warning(  # with the severity of its event
                "the shared store at %s is used: stream %s",
                self._place.address,
                self._place.key,
                extra=about(
                    RuntimeEvent.SHARED_STORE_CONNECTED,
                    store=str(self._place.address),
                    key=self._place.key,
                ),
            )

    def _note_lost(self, reason: str) -> None:
        self.counts.is_connected = False
        is_news = self.trouble is None
        self.trouble = reason
        self._on_state(False)
        if is_news:
            grace_s = self._place.grace_s
            result = (
                "sessions that end at other gateways are accepted here until it is back"
                if grace_s is None
                else f"requests with a session are refused after {grace_s:g} s"
            )
            _log.warning(
                "the shared store at %s can't be used: %s; %s",
                self._place.address,
                reason,
                result,
                extra=about(
                    RuntimeEvent.SHARED_STORE_LOST,
                    store=str(self._place.address),
                    reason=reason,
                ),
            )


_CANCEL_S: Final = 0.05
_CLOSE_S: Final = 1.0
"""For the connections to be closed. The supervisor gives the hub 2 s."""
_PIPELINED: Final = 16
"""Entries that are sent without waiting for the answer to the first."""


async def cancelled(task: asyncio.Task[Any], every_s: float) -> None:
    """Cancel *task* again and again until it has ended, whatever with.

    Once isn't enough: the library waits with `asyncio.wait_for`, which before Python
    3.12 ignores a cancellation that comes together with the result.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=every_s)
    if not task.cancelled():
        task.exception()  # or asyncio would report that nobody has looked at it


class _Incomplete(Exception):
    """The stream has lost entries, and is to be read from its start."""


def _rank(entry_id: str) -> tuple[int, int]:
    """Return what orders an id among others."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)
