"""edge. A coroutine for each request, resumed by the bytes that it waits for.

A `Runner` drives a coroutine from the event loop's callbacks. What the coroutine waits
for is a `Wait`: whoever ends it resumes the coroutine at once, where a future and a
task would take two turns of the loop.

Whatever else a coroutine awaits belongs to asyncio. It goes on as an asyncio task from
there, and a `Wait` is then a future like others. Code that must be in a task before it
waits (`asyncio.timeout`, `asyncio.current_task`, whatever uses anyio) calls `in_task`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_current: Runner | None = None
"""What drives the coroutine that runs now; None: asyncio does."""
_WAITS = object()


class Runner(ABC):
    """Drives coroutines until they end, one after the other. To be derived from."""

    __slots__ = ("_coroutine", "_loop", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    def on_end(self, error: BaseException | None) -> None:
        """Hear that the coroutine is over; *error* is what it raised."""

    @property
    def is_running(self) -> bool:
        """A coroutine runs, or waits."""
        return self._coroutine is not None

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Let *coroutine* run until it waits, or ends."""
        self._coroutine = coroutine
        self.step()

    def step(self, error: BaseException | None = None) -> None:
        """Let the coroutine run until it waits again, or ends.

        *error* is raised where it waits.
        """
        global _current  # noqa: PLW0603 - who runs is a fact of the whole thread
        running: Any = self._coroutine
        if running is None:
            return
        before = _current
        _current = self
        outcome: Any = _WAITS
        waits_for: Any = None
        try:
            waits_for = running.send(None) if error is None else running.throw(error)
        except StopIteration:
            outcome = None
        except BaseException as exc:  # noqa: BLE001 - handed over, whatever it is
            outcome = exc
        _current = before
        if outcome is not _WAITS:
            self._coroutine = None
            try:
                self.on_end(outcome)
            finally:
                del error, outcome  # they hold this frame: no ring is left
        elif type(waits_for) is not Wait:
            rest = _continued(running, waits_for)
            self._task = task = self._loop.create_task(_rest(rest))
            task.add_done_callback(self._on_task_end)

    def cancel(self) -> None:
        """Raise CancelledError where the coroutine waits, or will wait next."""
        running: Any = self._coroutine
        if running is None:
            return
        if self._task is not None:
            # Not now: a task that is cancelled before its first step never takes it,
            # and the coroutine would hear nothing.
            self._loop.call_soon(self._task.cancel)
        elif running.cr_running:
            self._loop.call_soon(self._cancel_later, running)
        else:
            self.step(asyncio.CancelledError())

    def _cancel_later(self, running: Coroutine[Any, Any, None]) -> None:
        if self._coroutine is running:
            self.cancel()

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        error: BaseException | None
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._coroutine = self._task = None
        self.on_end(error)


class Wait(Generic[T]):
    """What one coroutine waits for, and somebody else ends with a value or an error."""

    __slots__ = ("_error", "_waiter", "is_over", "value")

    def __init__(self) -> None:
        self.is_over = False
        self.value: T | None = None
        """What it ended with."""
        self._waiter: Runner | _ByFuture | None = None
        self._error: BaseException | None = None

    def __await__(self) -> Generator[Any, None, T]:
        if not self.is_over:
            if _current is None:
                self._waiter = waiter = _ByFuture()
                yield from waiter.future
            else:
                self._waiter = _current
                try:
                    yield self
                finally:
                    self._waiter = None  # nobody else resumes it from here on
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # it holds this frame: no ring is left
        return self.value  # type: ignore[return-value]

    @property
    def is_prompt(self) -> bool:
        """Somebody waits, and runs before `end` returns; a task runs later."""
        return self._waiter is not None and not isinstance(self._waiter, _ByFuture)

    def end(self, value: T) -> None:
        """Resume whoever waits. Once only, and last: it runs before this returns."""
        self.value = value
        self.is_over = True
        if self._waiter is not None:
            self._waiter.step()

    def fail(self, error: BaseException) -> None:
        """Raise *error* where somebody waits.

        Its traceback holds the frames of the coroutine, and they, all that have called
        it. Whoever calls this lets go of *error* before it returns: no ring is left.
        """
        self._error = error
        del error
        self.is_over = True
        if self._waiter is not None:
            self._waiter.step()


class _ByFuture:
    """What waits is an asyncio task."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[None]
        self.future = asyncio.get_running_loop().create_future()

    def step(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


@coroutine
def in_task() -> Generator[None, None, None]:
    """Go on as an asyncio task, unless the coroutine is one already."""
    if _current is not None:
        yield


async def _rest(continued: Awaitable[None]) -> None:
    await continued


@coroutine
def _continued(
    waiting: Coroutine[Any, Any, None], waits_for: Any
) -> Generator[Any, Any, None]:
    """Drive *waiting*, which has begun, by whoever drives this generator."""
    while True:
        try:
            value = yield waits_for
        except BaseException as error:  # noqa: BLE001 - raised where it belongs
            step: Callable[[Any], Any] = waiting.throw
            value = error
        else:
            step = waiting.send
        waits_for = None  # it may hold what is raised, as `value` does: no ring is left
        try:
            waits_for = step(value)
        except StopIteration:
            return
        finally:
            del value
