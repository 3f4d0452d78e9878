"""What is noted of a recorded request: its tries and its calls to the core."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.errors import UpstreamError
from gateway.observe.recording import Recording, Try, current, recorded

MOST = 64


def try_to(target: str = "http://up:80") -> Try:
    return Try("span", target, "/path", 1.0)


async def replies(status: int) -> Any:
    return SimpleNamespace(head=SimpleNamespace(status=status))


async def fails(error: BaseException) -> Any:
    raise error


async def test_a_try_has_the_status_of_its_reply() -> None:
    """The reply is returned, and the try has ended by the given clock."""
    recording, a_try = Recording("server", ""), try_to()
    reply = await recorded(replies(503), recording, a_try, lambda: 4.0)
    assert reply.head.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert recording.tries == [a_try]
    assert (a_try.status, a_try.error, a_try.ended) == (503, "", 4.0)


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (UpstreamError("refused"), UpstreamError().code),
        (asyncio.CancelledError(), "cancelled"),
        (RuntimeError("a fault of ours"), "cancelled"),
    ],
)
async def test_a_try_that_fails_is_noted_and_raised(
    error: BaseException, noted: str
) -> None:
    recording, a_try = Recording("server", ""), try_to()
    with pytest.raises(type(error)):
        await recorded(fails(error), recording, a_try, lambda: 4.0)
    assert recording.tries == [a_try]
    assert (a_try.status, a_try.error, a_try.ended) == (None, noted, 4.0)


async def test_notes_of_one_request_are_bounded() -> None:
    """What comes later is served as before, and isn't noted."""
    recording = Recording("server", "parent")
    for number in range(MOST + 9):
        reply = await recorded(replies(200), recording, try_to(), lambda: 1.0)
        assert reply.head.status == HTTPStatus.OK
        recording.core_called("/recipe/x", "200", 0.5, float(number))
    assert (len(recording.tries), len(recording.core_calls)) == (MOST, MOST)
    assert recording.core_calls[0] == ("/recipe/x", "200", -0.5, 0.0)


async def test_each_request_has_its_own_recording() -> None:
    """The calls to the core of one request never appear in another one's trace."""

    async def request(name: str) -> str:
        current.set(Recording(name, ""))
        await asyncio.sleep(0)
        found = current.get()
        assert found is not None
        return found.server_id

    assert [*await asyncio.gather(request("a"), request("b"))] == ["a", "b"]
    assert current.get() is None
