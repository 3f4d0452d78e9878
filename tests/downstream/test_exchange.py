"""The client's side of an exchange, without a socket: bodies, deadlines, rates."""

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
    """A body whose pieces arrive with a delay before each, zero by default."""

    __slots__ = ("_delay_s", "_pieces")

    def __init__(self, pieces: Iterable[bytes], delay_s: float = 0) -> None:
        super().__init__(head(b"Transfer-Encoding: chunked"), lambda: None)
        self._pieces = list(pieces)
        self._delay_s = delay_s

    async def read(self) -> bytes:
        await asyncio.sleep(self._delay_s)
        return self._pieces.pop(0) if self._pieces else b""


def head(*lines: bytes) -> RequestHead:
    """Return the head of a request with these fields."""
    data = b"\r\n".join([b"POST / HTTP/1.1", b"Host: gw", *lines, b"", b""])
    return RequestReader(HeadLimits(100, 100, 1000, 10)).read(data)


def exchange_with(body: Body, **limits: Any) -> Exchange:
    """Return the exchange of a request with this body."""
    connection = SimpleNamespace(transport=None, writing_paused=False, pace=Pace())
    chunked_head = head(b"Transfer-Encoding: chunked")
    return Exchange(cast("Any", connection), chunked_head, body, LimitsConfig(**limits))


async def test_pieces_are_passed_on_as_they_arrive() -> None:
    """They are neither joined nor split, and their bytes are counted."""
    exchange = exchange_with(Pieces([b"a", b"bc"]))
    assert [piece async for piece in exchange.body(3)] == [b"a", b"bc"]
    assert exchange.bytes_in == 3


async def test_one_byte_too_many_is_413() -> None:
    """The piece that exceeds the caller's limit isn't passed on."""
    body = exchange_with(Pieces([b"ab", b"cd"])).body(3)
    assert await anext(body) == b"ab"
    with pytest.raises(ContentTooLarge):
        await anext(body)


@in_fake_time
async def test_a_gap_is_408() -> None:
    """`body_idle_timeout` limits each wait for the client."""
    exchange = exchange_with(Pieces([b"a"], 5), body_idle_timeout=4.9)
    with pytest.raises(RequestTimeout):
        async for _ in exchange.body(9):
            pass


@in_fake_time
async def test_a_rate_below_the_minimum_is_408() -> None:
    """`body_min_rate` holds after the first 10 s."""
    slow = exchange_with(Pieces([b"a"] * 100, 2.5), body_min_rate=1000)
    with pytest.raises(RequestTimeout):
        async for _ in slow.body(1000):
            pass
    assert slow.bytes_in == 5


@in_fake_time
async def test_a_slow_upstream_isnt_the_clients_fault() -> None:
    """Only the time spent waiting for the client counts towards its rate and gaps."""
    quick = exchange_with(
        Pieces([b"a"] * 3), body_min_rate=1_000_000, body_idle_timeout=25
    )
    async for _ in quick.body(9):
        await asyncio.sleep(30)
    assert quick.bytes_in == 3


def chunked() -> tuple[Body, list[int]]:
    """Return a chunked body, and a list of its size at each call for more bytes."""
    sizes: list[int] = []
    body = Body(head(b"Transfer-Encoding: chunked"), lambda: sizes.append(body.size))
    return body, sizes


async def test_broken_framing_is_400() -> None:
    """A reader of the body gets BadRequest; the body never counts as complete."""
    body, _ = chunked()
    body.feed(b"2\r\nab\r\n")
    pieces = exchange_with(body).body(9)
    assert await anext(pieces) == b"ab"
    waiting = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0)
    assert body.feed(b"what the client sent\r\n") == b""
    body.wake()
    with pytest.raises(BadRequest) as error:
        await waiting
    assert "what the client sent" not in str(error.value)
    assert not body.complete
    assert body.feed(b"0\r\n\r\nGET / HTTP/1.1\r\n") == b""
    assert not body.complete
    with pytest.raises(BadRequest):
        await body.read()


async def test_a_body_ends_where_its_framing_ends() -> None:
    """`feed` returns the bytes behind the body."""
    body, sizes = chunked()
    assert body.feed(b"2\r\nab\r\n1\r") == b""
    assert (body.size, body.complete) == (2, False)
    assert body.feed(b"\nc\r\n0\r\n\r\nGET") == b"GET"
    assert (body.size, body.complete) == (3, True)
    assert await body.read() == b"abc"
    assert sizes == [0]
    assert await body.read() == b""
    sized = Body(head(b"Content-Length: 3"), lambda: None)
    assert sized.feed(b"ab") == b""
    assert not sized.complete
    assert sized.feed(b"cGET") == b"GET"
    assert sized.complete
    assert await sized.read() == b"abc"
    assert Body(head(b"Content-Length: 0"), lambda: None).complete
    assert Body(head(), lambda: None).complete


async def test_small_chunks_are_held_as_one_piece() -> None:
    """An object for each chunk of two bytes would take 28 times its bytes."""
    body, _ = chunked()
    for _ in range(4):
        body.feed(b"4\r\nabcd\r\n" * 300)
    assert body.size == 4800
    assert [len(piece) for piece in body._pieces] == [1200] * 4
    assert await body.read() == b"abcd" * 1200


async def test_the_rest_of_a_body_is_not_awaited_after_a_reset() -> None:
    """asyncio's own transports raise OSError when they shut such a socket down."""

    class Reset:
        def is_closing(self) -> bool:
            return False

        def can_write_eof(self) -> bool:
            return True

        def write_eof(self) -> None:
            raise OSError(errno.ENOTCONN, "not connected")

    exchange = exchange_with(Pieces([b"rest"]))
    exchange.connection.transport = cast("Any", Reset())
    exchange.keep_alive = False
    await exchange.take_rest()
    assert exchange.has_rest
