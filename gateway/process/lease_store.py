"""edge. A worker's rate limits, which all workers share through the hub.

A request waits for the hub only if no lease covers it, and at most `ANSWER_S`. If the
hub doesn't answer, or too many draws wait for it, the worker keeps to its own part of
each limit, from which all that it has admitted is taken. Every `ALONE_S` one request
asks the hub again, and waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.process.lease_messages import MAX_DRAWS, DrawLeases, LeasesDrawn
from gateway.rate_limits import Draw
from gateway.rate_limits.buckets import Buckets
from gateway.rate_limits.leases import MAX_LEASES, DrawAsked, Leases

ANSWER_S: Final = 0.25
"""How long a request waits for the hub, at most."""
ALONE_S: Final = 1.0
"""How long a worker goes on by itself before it asks the hub again."""
_MAX_WAITING: Final = 1000
"""Keys that the hub is being asked about. Beyond that, a worker goes on by itself."""

Send = Callable[[DrawLeases], None]


class _Wait:
    """A key that the hub is asked about, and the requests that wait for the answer."""

    __slots__ = ("draw", "requests", "timer")

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        """The one that was sent, or will be."""
        self.requests: deque[tuple[Draw, asyncio.Future[int]]] = deque()
        self.timer: asyncio.TimerHandle | None = None


class LeaseStore:
    """Spends leases, and draws them from the hub."""

    def __init__(
        self,
        send: Send,
        *,
        workers: int,
        answer_s: float = ANSWER_S,
        alone_s: float = ALONE_S,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """*send* sends to the hub. *workers* share the limits if it doesn't answer."""
        self._send = send
        self._workers = workers
        self._answer_s = answer_s
        self._alone_ns = round(alone_s * 1_000_000_000)
        self._clock = clock
        self._leases = Leases(clock)
        self._own = Buckets(MAX_LEASES)
        """What this worker has admitted, under its part of each limit."""
        self._alone_until = 0
        """Until when it goes on by itself; 0: the hub has answered last."""
        self._number = 0
        self._waits: dict[str, _Wait] = {}
        """By key."""
        self._asked: dict[int, str] = {}
        """The number of each draw that was sent → its key."""
        self._unsent: list[DrawAsked] = []

    def take(self, draw: Draw) -> int | None:
        """Return 0 if a request is admitted, else the nanoseconds until it can be.

        None: the hub has to be asked.
        """
        if draw.key in self._waits:
            return None  # in order of arrival
        result = self._spend(draw)
        if result is None and self._is_alone():
            return self._take_alone(draw)
        return result

    def _spend(self, draw: Draw) -> int | None:
        result = self._leases.spend(draw)
        if result == 0:
            part = draw.gcra.share(self._workers)
            self._own.charge(draw.key, part, self._clock(), draw.cost)
        return result

    async def ask(self, draw: Draw) -> int:
        """Return the same as `take`, when the hub has answered; wait a bounded time."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        wait = self._waits.get(draw.key)
        if wait is None:
            wait = self._waits[draw.key] = _Wait(draw)
            self._ask_soon(wait)
        wait.requests.append((draw, future))
        return await future

    def receive(self, drawn: LeasesDrawn) -> None:
        """Take the hub's answers. Those that come too late are void."""
        self._alone_until = 0
        for number, units, wait_ns in drawn.answers:
            key = self._asked.pop(number, None)
            if key is None:
                continue
            wait = self._waits[key]
            if wait.timer is not None:
                wait.timer.cancel()
            self._leases.add(wait.draw, units, wait_ns)
            self._admit(wait)

    def _admit(self, wait: _Wait) -> None:
        """Answer the requests that can be answered; ask again for the others."""
        while wait.requests:
            draw, future = wait.requests[0]
            if future.done():  # the client is gone
                wait.requests.popleft()
                continue
            result = self._spend(draw)
            if result is None:
                wait.draw = draw
                self._ask_soon(wait)
                return
            wait.requests.popleft()
            future.set_result(result)
        del self._waits[wait.draw.key]

    def _ask_soon(self, wait: _Wait) -> None:
        """Ask the hub in this turn of the loop, with all others that are to be asked.

        By then it is known how many requests wait for the key.
        """
        loop = asyncio.get_running_loop()
        self._number += 1
        number = self._number
        self._asked[number] = wait.draw.key
        wait.timer = loop.call_later(self._answer_s, self._on_silence, number)
        if not self._unsent:
            loop.call_soon(self._flush)
        key, gcra, cost, sharing = wait.draw
        self._unsent.append(
            DrawAsked(number, key, gcra.interval_ns, gcra.burst, cost, 0, sharing)
        )

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        asked = []
        for one in unsent:
            wait = self._waits.get(one.key)
            if wait is None or self._asked.get(one.number) != one.key:
                continue
            others = sum(draw.cost for draw, _ in wait.requests) - one.cost
            extra = self._leases.in_advance(wait.draw) + max(0, others)
            asked.append(one._replace(extra=min(extra, one.burst)))
        for start in range(0, len(asked), MAX_DRAWS):
            self._send(DrawLeases(tuple(asked[start : start + MAX_DRAWS])))

    def _on_silence(self, number: int) -> None:
        """Go on alone: the hub hasn't answered in time."""
        key = self._asked.pop(number)
        self._alone_until = self._clock() + self._alone_ns
        for draw, future in self._waits.pop(key).requests:
            if not future.done():
                future.set_result(self._take_alone(draw))

    def _is_alone(self) -> bool:
        """Return whether the hub isn't to be asked. If it is, one request asks."""
        if len(self._waits) >= _MAX_WAITING:
            return True
        if not self._alone_until:
            return False
        now = self._clock()
        if now < self._alone_until:
            return True
        self._alone_until = now + self._alone_ns
        return False

    def _take_alone(self, draw: Draw) -> int:
        part = draw.gcra.share(self._workers)
        return self._own.take(draw.key, part, self._clock(), draw.cost).wait_ns
