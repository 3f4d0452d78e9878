"""An event loop whose clock only moves by the waits of the test itself.

    @in_fake_time
    async def test_x() -> None:
        await asyncio.sleep(3600)  # takes no time

When nothing is ready to run, the clock jumps to the next timer. So a deadline is met
exactly, however busy the machine is. Use it only for code without sockets, threads and
processes: the clock doesn't wait for them.

Tests with sockets take the `clock` fixture instead: a `MovableClock`, which runs in
real time and can be moved forward. Their timeouts are so long that a busy machine
doesn't reach them, and the test moves the clock past them.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """Starts at 1000 s, so that no code mistakes its time for an unset one."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward, as if the loop had been blocked."""
        self._now += seconds


class MovableClock:
    """The clock of the running loop, which `advance` moves forward.

    Make it before anything reads the clock. The loop must be asyncio's own: uvloop's
    timers don't read the clock.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, asyncio.SelectorEventLoop)
        self._real = loop.time
        self._ahead_s = 0.0
        loop.time = self.time  # type: ignore[method-assign] # that's the purpose

    def time(self) -> float:
        return self._real() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Move the clock forward; timers that are now due fire in the next turn."""
        self._ahead_s += seconds

    async def pass_time(self, seconds: float) -> None:
        """Move the clock forward, and return when timers that are due have fired.

        What they start has had some turns of the loop, too.
        """
        self.advance(seconds)
        for _ in range(TURNS):
            await asyncio.sleep(0)


TURNS = 10
"""Turns of the loop in which data crosses the gateway's own tasks, with a margin."""


class _Jumping(selectors.DefaultSelector):
    """Moves the clock forward by the time that the loop would wait."""

    def __init__(self, loop: FakeTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "no timer is set: the test would wait for ever"
        ready = super().select(0)
        if not ready:
            self._loop.advance(max(0.0, timeout))
        return ready


def in_fake_time(
    test: Callable[P, Coroutine[Any, Any, None]],
) -> Callable[P, None]:
    """Run an asynchronous test on a loop of its own with a clock of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
