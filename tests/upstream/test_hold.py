"""Requests that wait while no target takes connections: the line, and who tries."""

from __future__ import annotations

import asyncio

from gateway.upstream.hold import FIRST_S, OTHERS_S, Hold

LONG_S = 60.0


async def test_the_first_in_the_line_tries_often() -> None:
    """The others wait for it, and for a second at most."""
    hold = Hold(LONG_S, most=10)
    first, second = hold.enter(), hold.enter()
    assert first is not None
    assert second is not None
    waits = asyncio.create_task(second.wait(LONG_S))
    await first.wait(LONG_S)
    assert not waits.done()
    assert FIRST_S < OTHERS_S
    await waits


async def test_the_next_one_tries_at_once_when_the_first_leaves() -> None:
    hold = Hold(LONG_S, most=10)
    first, second = hold.enter(), hold.enter()
    assert first is not None
    assert second is not None
    waits = asyncio.create_task(second.wait(LONG_S))
    await asyncio.sleep(0)
    first.leave()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waits.done()
    assert hold.is_first(second)


async def test_all_try_when_the_service_has_answered() -> None:
    hold = Hold(LONG_S, most=10)
    line = [hold.enter() for _ in range(5)]
    waits = [asyncio.create_task(held.wait(LONG_S)) for held in line if held]
    await asyncio.sleep(0)
    hold.open()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [task.done() for task in waits] == [True] * 5


async def test_the_line_has_a_limit() -> None:
    """A place that was left is free for another request; leaving twice is harmless."""
    hold = Hold(LONG_S, most=2)
    first, second = hold.enter(), hold.enter()
    assert first is not None
    assert second is not None
    assert hold.enter() is None
    first.leave()
    first.leave()
    assert len(hold) == 1
    assert hold.enter() is not None


async def test_a_wait_ends_with_its_own_time() -> None:
    """*most_s* counts if it is less than the pause; a cancelled wait is no harm."""
    hold = Hold(LONG_S, most=2)
    first, second = hold.enter(), hold.enter()
    assert first is not None
    assert second is not None
    waits = asyncio.create_task(first.wait(LONG_S))
    await second.wait(FIRST_S / 10)
    assert not waits.done()
    await waits
    waits = asyncio.create_task(second.wait(LONG_S))
    await asyncio.sleep(0)
    waits.cancel()
    await asyncio.wait((waits,))
    second.wake()
    assert waits.cancelled()
