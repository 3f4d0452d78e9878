"""An event loop whose clock only moves by the waits of the test itself.

    @in_fake_time
    async def test_x() -> None:
        await asyncio.sleep(3600)  # takes no time

When nothing is ready to run, the clock jumps to the next timer. So a deadline is met
exactly, however busy the machine is. Use it only for code without sockets, threads and
processes: the clock doesn't wait for them.
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
