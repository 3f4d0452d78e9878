"""edge. The further tries of one request, after its first failure.

`retry` decides what may be sent again, `targets` where to, and `hold` when, while no
target takes connections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from time import perf_counter

from gateway.errors import ConnectFailed, UpstreamError
from gateway.timeouts import Retry, Timeouts
from gateway.upstream.hold import HoldPlace
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.reply import Reply
from gateway.upstream.retry import Attempts
from gateway.upstream.targets import ServiceTargets


class Tries:
    """What follows a request's first failure. `close` must be called at its end."""

    def __init__(
        self,
        service: ServiceTargets,
        pools: Sequence[UpstreamPool],
        key: bytes | None,
        attempts: Attempts,
        retry: Retry,
        timeouts: Timeouts,
        sent_at: float,
    ) -> None:
        """The first of *pools* has failed; *key* is what they were chosen by.

        `timeouts.total` limits the time of all tries together, which began at
        *sent_at*.
        """
        self._timeouts = timeouts
        self._per_try_s = retry.per_try
        self._service = service
        self._key = key
        self._attempts = attempts
        self._pools: Iterator[UpstreamPool] = cycle((*pools[1:], pools[0]))
        self._end_at = None if timeouts.total is None else sent_at + timeouts.total
        self._held: HoldPlace | None = None
        self._held_until = 0.0

    def replaces(self, reply: Reply) -> bool:
        """Return whether another try takes the place of *reply*, which is closed then.

        `next` must follow.
        """
        if self._is_late() or not self._attempts.again_for(reply.head.status):
            return False
        reply.close()
        return True

    async def next(self, failure: UpstreamError | Reply) -> UpstreamPool:
        """Return the target to send the request to, now that *failure* has happened.

        That is an error, or a reply that is replaced.

        Raises:
            UpstreamError: the *failure*, if the request isn't sent again.
        """
        try:
            if isinstance(failure, UpstreamError):
                if not self._attempts.again(failure):
                    if not isinstance(failure, ConnectFailed) or not await self._hold():
                        raise failure
                    pools = self._service.in_turn(self._key)
                    self._attempts.again_from(len(pools))
                    self._pools = cycle(pools)
                if self._is_late():
                    raise failure
            return next(self._pools)
        finally:
            del failure  # an error references this frame: avoid a cycle

    def _is_late(self) -> bool:
        return self._end_at is not None and perf_counter() >= self._end_at

    def timeouts(self) -> Timeouts:
        """Return the timeouts of the next try."""
        timeouts = self._timeouts
        if self._end_at is not None:
            left_s = max(0.0, self._end_at - perf_counter())
            timeouts = replace(timeouts, total=left_s)
        if self._per_try_s is not None and self._attempts.left:
            timeouts = timeouts.of_a_try(self._per_try_s)
        return timeouts

    async def _hold(self) -> bool:
        """Wait until all targets may be tried again; return False if that is over."""
        hold = self._service.hold
        if hold is None:
            return False
        now = perf_counter()
        if self._held is None:
            self._held = hold.enter()
            self._service.is_watched = True
            self._held_until = now + hold.seconds
            if self._end_at is not None:
                self._held_until = min(self._held_until, self._end_at)
        left_s = self._held_until - now
        if self._held is None or left_s <= 0:
            return False
        await self._held.wait(left_s)
        return True

    def close(self) -> None:
        """Leave the line, if the request was in it."""
        if self._held is not None:
            self._held.leave()
