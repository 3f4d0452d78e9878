"""The client's side of an exchange, without a socket: time and pieces by hand."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from multidict import CIMultiDict

from gateway import client
from gateway.client import Client
from gateway.config import Limits
from gateway.errors import BadRequest, ContentTooLarge, RequestTimeout


class Pieces:
    """A body whose pieces are there at once, or after a while each."""

    def __init__(self, pieces: Iterable[bytes], after_s: float = 0) -> None:
        self._pieces = list(pieces)
        self._after_s = after_s

    async def readany(self) -> bytes:
        await asyncio.sleep(self._after_s)
        return self._pieces.pop(0) if self._pieces else b""

    def is_eof(self) -> bool:
        return not self._pieces


def having(content: Any, **limits: Any) -> Client:
    """Return the client of a request with this body."""
    message = SimpleNamespace(
        method="POST",
        path="/",
        raw_headers=((b"Host", b"gw"),),
        headers=CIMultiDict({"Host": "gw"}),
        version=(1, 1),
        should_close=False,
        chunked=False,
        upgrade=False,
    )
    nobody = SimpleNamespace(transport=None, writing_paused=False)
    return Client(cast("Any", nobody), cast("Any", message), content, Limits(**limits))


async def test_pieces_come_as_they_are() -> None:
    """Each at once, and counted."""
    body = having(Pieces([b"a", b"bc"]))
    assert [piece async for piece in body.body(3)] == [b"a", b"bc"]
    assert body.bytes_in == 3


async def test_one_byte_too_many_is_413() -> None:
    """The limit is the route's; the piece that exceeds it isn't passed on."""
    body = having(Pieces([b"ab", b"cd"])).body(3)
    assert await anext(body) == b"ab"
    with pytest.raises(ContentTooLarge):
        await anext(body)


async def test_a_gap_is_408() -> None:
    """`body_idle_timeout` bounds each wait for the client."""
    with pytest.raises(RequestTimeout):
        async for _ in having(Pieces([b"a"], 5), body_idle_timeout=0.02).body(9):
            pass


async def test_a_rate_below_the_least_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    """`body_min_rate`, after a grace in which it isn't judged."""
    monkeypatch.setattr(client, "_RATE_GRACE_S", 0.05)
    slow = having(Pieces([b"a"] * 100, 0.02), body_min_rate=1000)
    with pytest.raises(RequestTimeout):
        async for _ in slow.body(1000):
            pass
    assert 2 <= slow.bytes_in < 100


async def test_a_slow_upstream_isnt_the_clients_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the time that the client is waited for counts."""
    monkeypatch.setattr(client, "_RATE_GRACE_S", 0.2)
    quick = having(Pieces([b"a"] * 3), body_min_rate=1_000_000, body_idle_timeout=0.25)
    async for _ in quick.body(9):
        await asyncio.sleep(0.3)
    assert quick.bytes_in == 3


async def test_broken_framing_is_400() -> None:
    """aiohttp's error, without its text."""

    class Broken(Pieces):
        async def readany(self) -> bytes:
            raise web.RequestPayloadError("what the client sent")

    with pytest.raises(BadRequest) as refused:
        async for _ in having(Broken([])).body(9):
            pass
    assert "what the client sent" not in str(refused.value)


async def test_a_rest_of_a_client_that_has_reset_isnt_waited_for() -> None:
    """asyncio's own transports raise what the system says of it."""

    class Reset:
        def is_closing(self) -> bool:
            return False

        def can_write_eof(self) -> bool:
            return True

        def write_eof(self) -> None:
            raise OSError(errno.ENOTCONN, "not connected")

    mine = having(Pieces([b"rest"]))
    mine.connection.transport = cast("Any", Reset())
    mine.keep_alive = False
    await mine.take_rest()
    assert mine.has_rest
