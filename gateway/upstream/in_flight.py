"""edge. A service's requests in progress, and those that wait for one of them to end.

A request has its place from before it is sent until its reply has arrived as a whole.
One that waits for its client, to send more or to take more, doesn't count meanwhile: so
slow clients take no places from others. `pending` says whose turn it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import Enum, auto

from gateway.clients import Clients
from gateway.errors import ServiceOverloaded
from gateway.timeouts import Timeouts
from gateway.upstream.pending import PendingQueue


class _State(Enum):
    COUNTED = auto()
    ON_CLIENT = auto()
    """The request waits for its client."""
    LEFT = auto()


class InFlightPlace:
    """A request's place among those in progress. `leave` must be called at its end."""

    __slots__ = ("_of", "_state", "waited_s")

    def __init__(self, of: InFlight, waited_s: float = 0.0) -> None:
        self._of = of
        self._state = _State.COUNTED
        self.waited_s = waited_s
        """For how many seconds the request has waited for its place."""

    def begin_wait(self) -> None:
        """Say that the request waits for its client, until `end_wait`."""
        if self._state is _State.COUNTED:
            self._state = _State.ON_CLIENT
            self._of.free_soon()

    def end_wait(self) -> None:
        """Count the request again, even above the limit."""
        if self._state is _State.ON_CLIENT:
            self._state = _State.COUNTED
            self._of.count += 1

    def leave(self) -> None:
        """Give the place up. Idempotent."""
        if self._state is _State.COUNTED:
            self._of.free()
        self._state = _State.LEFT

    def while_sent(
        self, body: bytes | AsyncIterator[bytes] | None
    ) -> bytes | AsyncIterator[bytes] | None:
        """Return *body*; if it arrives in pieces, to wait for one is `begin_wait`."""
        if body is None or isinstance(body, bytes):
            return body
        return _Pieces(self, body)


class _Pieces(AsyncIterator[bytes]):
    """A request's body, whose client holds no place while it sends nothing."""

    __slots__ = ("_body", "_place")

    def __init__(self, place: InFlightPlace, body: AsyncIterator[bytes]) -> None:
        self._place = place
        self._body = body

    async def __anext__(self) -> bytes:
        self._place.begin_wait()
        try:
            return await anext(self._body)
        finally:
            self._place.end_wait()


class InFlight:
    """The requests of one service in this worker, at most so many in progress."""

    def __init__(
        self,
        service: str,
        in_flight: int,
        pending: int,
        *,
        hold_s: float = 0.0,
        clients: Clients | None = None,
    ) -> None:
        """Let *in_flight* requests be in progress and *pending* wait, at a time.

        *service* is its name. Those in progress may wait for it to restart, so others
        wait for *hold_s* at least. *clients* tells apart whose they are.
        """
        self.count = 0
        """The requests in progress, without those that wait for their clients."""
        self._service = service
        self._most = in_flight
        self._hold_s = hold_s
        self._clients = clients or Clients()
        self._queue: PendingQueue[asyncio.Future[None]] = PendingQueue(pending)
        self._is_serving_soon = False

    @property
    def pending(self) -> int:
        """The number of requests that wait for a place."""
        return len(self._queue)

    def take(self) -> InFlightPlace | None:
        """Return a place, None if none is free or others wait for one."""
        if self.count >= self._most or self._queue:
            return None
        self.count += 1
        return InFlightPlace(self)

    async def wait(
        self, client: str, timeouts: Timeouts, *, is_critical: bool = False
    ) -> InFlightPlace:
        """Return a place when it is this request's turn, within `timeouts.connect`.

        *client* is its client's address. *is_critical*: it comes before others.

        Raises:
            ServiceOverloaded: too many requests wait already, or none has ended in
                time.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        refused = self._queue.add(
            waiter, self._clients.key(client), is_critical=is_critical
        )
        if refused is waiter:
            raise self._full()
        if refused is not None and not refused.done():
            refused.set_exception(self._full())
        del refused
        began = loop.time()
        most_s = max(timeouts.connect, self._hold_s)
        if timeouts.total is not None:
            most_s = min(most_s, timeouts.total)
        timer = loop.call_later(most_s, self._on_late, waiter, most_s)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                self.free()  # the place was given before the cancellation
            raise
        finally:
            timer.cancel()
            self._queue.remove(waiter)
            del waiter  # its error references this frame: avoid a cycle
        return InFlightPlace(self, loop.time() - began)

    def _full(self) -> ServiceOverloaded:
        return ServiceOverloaded(
            f"{self._service}: {self.count} requests are in progress, and others wait"
            f" already (services.{self._service}.limits)"
        )

    def _on_late(self, waiter: asyncio.Future[None], waited_s: float) -> None:
        if not waiter.done():
            self._queue.remove(waiter)
            waiter.set_exception(
                ServiceOverloaded(
                    f"{self._service}: none of the requests in progress has ended in"
                    f" {waited_s:g} s (services.{self._service}.limits)"
                )
            )

    def free(self) -> None:
        """Give a place back, to the request whose turn it is."""
        self.count -= 1
        if self._queue:
            self._serve()

    def free_soon(self) -> None:
        """Give a place back, perhaps for an instant.

        Others get it in the next turn of the event loop, if it is free by then: a fast
        client may not keep its request waiting.
        """
        self.count -= 1
        if self._queue and not self._is_serving_soon:
            self._is_serving_soon = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        self._is_serving_soon = False
        while self.count < self._most and (waiter := self._queue.next()) is not None:
            if not waiter.done():  # it may be cancelled
                self.count += 1
                waiter.set_result(None)
