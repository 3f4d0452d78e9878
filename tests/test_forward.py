"""Steps 6 to 9 with a downstream that buffers what it should write until `drain`.

tests/proxy tests what clients of the listener get.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import pytest
from faults import CHUNKED_HEAD, OK, FaultUpstream, Peer, answer
from gateway_under_test import gateway

from gateway.decisions import Forward
from gateway.http.request_head import HeadLimits, RequestReader
from gateway.observe import Record

HEAD = RequestReader(HeadLimits(target=8192, field=16384, head=65536, fields=100)).read(
    b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n"
)


@dataclass
class BufferingDownstream:
    """Buffers all data until it is drained, as aiohttp's responses require."""

    buffered: deque[bytes] = field(default_factory=deque)
    written: list[bytes] = field(default_factory=list)
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    names: list[tuple[str, bytes]] = field(default_factory=list)
    """Local names in `gateway.forward` that held a piece of the body in `drain`."""
    keep_alive: bool = True
    bytes_in: int = 0
    bytes_out: int = 0
    has_body: bool = False
    connection: Any = None

    def body_now(self, max_size: int) -> bytes | None:
        raise AssertionError("the request has no body")

    def body(self, max_size: int) -> AsyncIterator[bytes]:
        raise AssertionError("the request has no body")

    def start(
        self, head: bytes, status: int, size: int | None, first: bytes, complete: bool
    ) -> bool:
        self.buffered += [b"head", first] if first else [b"head"]
        return False

    def write(self, chunk: bytes) -> bool:
        self.buffered.append(chunk)
        return False

    async def drain(self) -> None:
        while self.buffered:
            self.written.append(self.buffered.popleft())
        self.progress.set()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_globals["__name__"] == "gateway.forward":
                self.names += [
                    (name, value)
                    for name, value in frame.f_locals.items()
                    if isinstance(value, bytes) and b"piece" in value
                ]
            frame = frame.f_back
        await asyncio.sleep(0)

    def finish(self) -> None:
        self.buffered.append(b"end")

    def upgrade(self, head: bytes) -> None:
        raise AssertionError("nothing is upgraded")

    async def until(self, count: int) -> None:
        """Return once *count* pieces have been written."""
        async with asyncio.timeout(5):
            while len(self.written) < count:
                self.progress.clear()
                await self.progress.wait()


async def forward_get(gw: Any, downstream: BufferingDownstream) -> None:
    record = Record.begin(time.perf_counter(), "127.0.0.1", "GET")
    decision = await gw.proxy.decider.decide(HEAD, "127.0.0.1", record, secure=False)
    assert isinstance(decision, Forward)
    assert await gw.proxy.forwarder.forward(decision, downstream, record) is None


async def test_the_downstream_is_drained_before_the_next_piece_is_awaited() -> None:
    """Head and events are written at once.

    The service sends each event only once the one before has been written.
    """
    downstream = BufferingDownstream()

    async def events(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD)
        await downstream.until(1)
        for number in range(3):
            await peer.send(b"1\r\n%d\r\n" % number)
            await downstream.until(2 + number)
        await peer.send(b"0\r\n\r\n")

    async with FaultUpstream(events) as upstream, gateway(upstream.url) as gw:
        await forward_get(gw, downstream)
    assert downstream.written == [b"head", b"0", b"1", b"2"]
    assert list(downstream.buffered) == [b"end"]


@pytest.mark.parametrize("pieces", [1, 5])
async def test_no_local_holds_a_piece_during_a_drain(pieces: int) -> None:
    """A piece may be large, and every slow client would hold one in memory."""

    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD)
        for number in range(pieces):
            await peer.send(b"7\r\npiece-%d\r\n" % number)
            await downstream.until(2 + number)
        await peer.send(b"0\r\n\r\n")

    downstream = BufferingDownstream()
    async with FaultUpstream(endless) as upstream, gateway(upstream.url) as gw:
        await forward_get(gw, downstream)
    assert len(downstream.written) == 1 + pieces
    assert not downstream.names


async def test_the_end_of_a_whole_reply_is_drained_with_it() -> None:
    """A reply that arrived in one piece is written with one drain, its end included."""
    downstream = BufferingDownstream()
    async with FaultUpstream(answer(OK)) as upstream, gateway(upstream.url) as gw:
        await forward_get(gw, downstream)
    assert downstream.written == [b"head", b"ok", b"end"]
