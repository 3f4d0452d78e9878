"""edge. A coroutine for each request, resumed by the bytes that it waits for.

A `Runner` drives a coroutine from the event loop's callbacks. The coroutine awaits a
`Wait`. Ending the `Wait` resumes the coroutine before the call returns, where a future
and a task would take two iterations of the event loop.

If a coroutine awaits anything else, it continues as an asyncio task from there, and a
later `Wait` works like a future. Code that needs a task before it awaits calls
`ensure_task`: `asyncio.timeout`, `asyncio.current_task`, everything that uses anyio.

`Turns` has what a connection puts off to a later turn of the event loop, so that other
connections are served in between.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import coroutine
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

_current: Runner | None = None
"""The runner of the coroutine that runs now; None if asyncio runs it."""
_WAITING = object()


class Runner(ABC):
    """Base class that drives coroutines until they end, one after the other."""

    __slots__ = ("_coroutine", "_loop", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    def on_coroutine_end(self, error: BaseException | None) -> None:
        """Called when the coroutine has ended; *error* is the exception it raised."""

    @property
    def is_running(self) -> bool:
        """Whether a coroutine runs or waits."""
        return self._coroutine is not None

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start *coroutine*; return when it waits or has ended."""
        self._coroutine = coroutine
        self.step()

    def step(self, error: BaseException | None = None) -> None:
        """Resume the coroutine; return when it waits again or has ended.

        *error* is raised in the coroutine where it waits.
        """
        global _current  # noqa: PLW0603 - one runner is current in the thread
        running: Any = self._coroutine
        if running is None:
            return
        before = _current
        _current = self
        outcome: Any = _WAITING
        waits_for: Any = None
        try:
            waits_for = running.send(None) if error is None else running.throw(error)
        except StopIteration:
            outcome = None
        except BaseException as exc:  # noqa: BLE001 - passed to `on_coroutine_end`
            outcome = exc
        _current = before
        if outcome is not _WAITING:
            self._coroutine = None
            try:
                self.on_coroutine_end(outcome)
            finally:
                del error, outcome  # they reference this frame: avoid a cycle
        elif type(waits_for) is not Wait:
            remaining = _drive_started(running, waits_for)
            self._task = task = self._loop.create_task(_as_coroutine(remaining))
            task.add_done_callback(self._on_task_end)

    def cancel(self) -> None:
        """Raise CancelledError in the coroutine where it waits, or will wait next."""
        running: Any = self._coroutine
        if running is None:
            return
        if self._task is not None:
            # Not now: a task that is cancelled before its first step never runs, so
            # the coroutine wouldn't receive the CancelledError.
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
        self.on_coroutine_end(error)


class Wait(Generic[T]):
    """What one coroutine awaits; other code ends it with a value or an error."""

    __slots__ = ("_error", "_waiter", "is_over", "value")

    def __init__(self) -> None:
        self.is_over = False
        self.value: T | None = None
        """The value it was ended with; None before, and after an error."""
        self._waiter: Runner | _FutureWaiter | None = None
        self._error: BaseException | None = None

    def __await__(self) -> Generator[Any, None, T]:
        if not self.is_over:
            if _current is None:
                self._waiter = waiter = _FutureWaiter()
                yield from waiter.future
            else:
                self._waiter = _current
                try:
                    yield self
                finally:
                    self._waiter = None  # `end` and `fail` no longer resume it
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # it references this frame: avoid a cycle
        return self.value  # type: ignore[return-value]

    @property
    def is_prompt(self) -> bool:
        """A coroutine waits that runs before `end` returns; a task runs later."""
        return self._waiter is not None and not isinstance(self._waiter, _FutureWaiter)

    def end(self, value: T) -> None:
        """Resume the waiting coroutine with *value*.

        Called once only. The coroutine runs before this returns (a task: later), so
        callers do nothing after it.
        """
        self.value = value
        self.is_over = True
        if self._waiter is not None:
            self._waiter.step()

    def fail(self, error: BaseException) -> None:
        """Raise *error* in the waiting coroutine.

        The traceback of *error* references the coroutine's frames, and through them
        the frames of its callers. To avoid a cycle, the caller of this method drops its
        own reference to *error* before it returns.
        """
        self._error = error
        del error
        self.is_over = True
        if self._waiter is not None:
            self._waiter.step()


class _FutureWaiter:
    """Resumes an asyncio task that waits."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[None]
        self.future = asyncio.get_running_loop().create_future()

    def step(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Turns:
    """Steps of work that were put off, of all connections of one event loop.

    A peer can send in one read what takes many milliseconds to handle: pipelined
    requests, tiny chunks or frames. Its connection handles a bounded part of that at
    once, and puts the rest off in steps that are bounded, too. One step runs in each
    turn of the loop, whatever the number of connections. So what a client waits for the
    others' steps doesn't grow with their number.
    """

    __slots__ = ("_loop", "_steps")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._steps: deque[Callable[[], None]] = deque()

    def put_off(self, step: Callable[[], None]) -> None:
        """Call *step* in a later turn, after the steps that were put off before it.

        A connection that puts off a step bounds what it reads until then, and has one
        step here at most.
        """
        if not self._steps:
            self._loop.call_soon(self._run)
        self._steps.append(step)

    async def next(self) -> None:
        """Return in a later turn, after the steps that were put off before."""
        turn = _FutureWaiter()
        self.put_off(turn.step)
        await turn.future

    def _run(self) -> None:
        step = self._steps.popleft()
        if self._steps:
            self._loop.call_soon(self._run)
        step()


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns_of(loop: asyncio.AbstractEventLoop) -> Turns:
    """Return the one `Turns` of *loop*."""
    turns = _turns.get(loop)
    if turns is None:
        turns = _turns[loop] = Turns(loop)
    return turns


@coroutine
def ensure_task() -> Generator[None, None, None]:
    """Continue the awaiting coroutine as an asyncio task, unless it is in one."""
    if _current is not None:
        yield


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


@coroutine
def _drive_started(
    waiting: Coroutine[Any, Any, None], waits_for: Any
) -> Generator[Any, Any, None]:
    """Drive *waiting*, a coroutine that has started and now awaits *waits_for*.

    What drives this generator, an asyncio task, drives *waiting* through it.
    """
    while True:
        try:
            value = yield waits_for
        except BaseException as error:  # noqa: BLE001 - raised in *waiting*
            step: Callable[[Any], Any] = waiting.throw
            value = error
        else:
            step = waiting.send
        waits_for = None  # like `value`, it may reference the error: avoid a cycle
        try:
            waits_for = step(value)
        except StopIteration:
            return
        finally:
            del value
