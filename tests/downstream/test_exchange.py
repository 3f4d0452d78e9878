"""The client's side of an exchange, without a socket: time and pieces by hand."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fake_time import in_fake_time

from gateway.config import LimitsConfig
from gateway.downstream.exchange import Body, Exchange
from gateway.errors import BadRequest, ContentTooLarge, RequestTimeout
from gateway.http.request_head import HeadLimits, RequestHead, RequestReader
from gateway.pace import Pace


class Pieces(Body):
    """A body whose pieces are there at once, or after a while each."""

    __slots__ = ("_after_s", "_coming")

    def __init__(self, pieces: Iterable[bytes], after_s: float = 0) -> None:
        super().__init__(head(b"Transfer-Encoding: chunked"), lambda: None)
        self._coming = list(pieces)
        self._after_s = after_s

    async def read(self) -> bytes:
        await asyncio.sleep(self._after_s)
        return self._coming.pop(0) if self._coming else b""


def head(*lines: bytes) -> RequestHead:
    """Return the head of a request with these fields."""
    whole = b"\r\n".join([b"POST / HTTP/1.1", b"Host: gw", *lines, b"", b""])
    return RequestReader(HeadLimits(100, 100, 1000, 10)).read(whole)


def having(body: Body, **limits: Any) -> Exchange:
    """Return the client of a request with this body."""
    nobody = SimpleNamespace(transport=None, writing_paused=False, pace=Pace())
    of_chunks = head(b"Transfer-Encoding: chunked")
    return Exchange(cast("Any", nobody), of_chunks, body, LimitsConfig(**limits))


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


@in_fake_time
async def test_a_gap_is_408() -> None:
    """`body_idle_timeout` bounds each wait for the client."""
    with pytest.raises(RequestTimeout):
        async for _ in having(Pieces([b"a"], 5), body_idle_timeout=4.9).body(9):
            pass


@in_fake_time
async def test_a_rate_below_the_least_is_408() -> None:
    """`body_min_rate`, after a grace of 10 s in which it isn't judged."""
    slow = having(Pieces([b"a"] * 100, 2.5), body_min_rate=1000)
    with pytest.raises(RequestTimeout):
        async for _ in slow.body(1000):
            pass
    assert slow.bytes_in == 5


@in_fake_time
async def test_a_slow_upstream_isnt_the_clients_fault() -> None:
    """Only the time that the client is waited for counts."""
    quick = having(Pieces([b"a"] * 3), body_min_rate=1_000_000, body_idle_timeout=25)
    async for _ in quick.body(9):
        await asyncio.sleep(30)
    assert quick.bytes_in == 3


def chunked() -> tuple[Body, list[int]]:
    """Return a chunked body, and the size that was unread whenever there was room."""
    room: list[int] = []
    body = Body(head(b"Transfer-Encoding: chunked"), lambda: room.append(body.size))
    return body, room


async def test_broken_framing_is_400() -> None:
    """Whoever waits for the body is told, and never gets it as a whole one."""
    body, _ = chunked()
    body.feed(b"2\r\nab\r\n")
    pieces = having(body).body(9)
    assert await anext(pieces) == b"ab"
    waiting = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0)
    assert body.feed(b"what the client sent\r\n") == b""
    body.wake()
    with pytest.raises(BadRequest) as refused:
        await waiting
    assert "what the client sent" not in str(refused.value)
    assert not body.complete
    assert body.feed(b"0\r\n\r\nGET / HTTP/1.1\r\n") == b""
    assert not body.complete
    with pytest.raises(BadRequest):
        await body.read()


async def test_a_body_ends_where_its_framing_says() -> None:
    """What stands behind it is given back."""
    body, room = chunked()
    assert body.feed(b"2\r\nab\r\n1\r") == b""
    assert (body.size, body.complete) == (2, False)
    assert body.feed(b"\nc\r\n0\r\n\r\nGET") == b"GET"
    assert (body.size, body.complete) == (3, True)
    assert await body.read() == b"abc"
    assert room == [0]
    assert await body.read() == b""
    sized = Body(head(b"Content-Length: 3"), lambda: None)
    assert sized.feed(b"ab") == b""
    assert not sized.complete
    assert sized.feed(b"cGET") == b"GET"
    assert sized.complete
    assert await sized.read() == b"abc"
    assert Body(head(b"Content-Length: 0"), lambda: None).complete
    assert Body(head(), lambda: None).complete


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
