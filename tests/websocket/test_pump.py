"""One direction of a tunnel, between fake ends: bytes pass, and boundaries are kept."""

from __future__ import annotations

import asyncio

import pytest
from corpus.rig import until
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.websocket import FrameTracker, close_frame
from gateway.websocket.tunnel import FOLLOWED_PER_TURN, Pump

EMPTY = b"\x82\x00"
CLOSE = close_frame(4401, "over", mask=None)
PATIENCE_S = 10.0


class Source:
    """Sends what a test gives it."""

    def __init__(self, *reads: bytes) -> None:
        self._reads: asyncio.Queue[bytes] = asyncio.Queue()
        self.taken = 0
        for data in reads:
            self.give(data)

    def give(self, data: bytes) -> None:
        self._reads.put_nowait(data)

    async def read(self) -> bytes:
        data = await self._reads.get()
        self.taken += 1
        return data

    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def write_eof(self) -> None: ...


class Sink(Source):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.received = b""
        self.ended = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.received += data

    def write_eof(self) -> None:
        self.ended.set()


def pump(source: Source, sink: Sink) -> tuple[Pump, asyncio.Task[None]]:
    made = Pump(source, sink, masked=False, on_end=lambda: None)
    return made, asyncio.ensure_future(made.run())


async def test_frames_are_followed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes pass at once; their frames are followed a part in each turn of the loop.

    Between two parts others run, and nothing more is read before the last one.
    """
    happened: list[str] = []
    feed = FrameTracker.feed

    def note(tracker: FrameTracker, data: bytes) -> int:
        assert len(data) <= FOLLOWED_PER_TURN
        happened.append("part")
        return feed(tracker, data)

    monkeypatch.setattr(FrameTracker, "feed", note)
    data = EMPTY * (4 * FOLLOWED_PER_TURN // len(EMPTY))
    source, sink = Source(data, data), Sink()
    _, task = pump(source, sink)
    loop = asyncio.get_running_loop()

    def other() -> None:
        happened.append("other")
        loop.call_soon(other)

    other()
    await until(lambda: sink.received)
    assert sink.received == data
    assert source.taken == 1
    source.give(b"")
    async with asyncio.timeout(PATIENCE_S):
        await task
    assert happened.count("part") == 8
    # The last part of a read, and the first one of the next.
    assert "part part part" not in " ".join(happened)
    assert sink.received == data * 2


async def test_a_close_frame_waits_until_frames_are_followed() -> None:
    """While frames are followed, no boundary is known to be the last one."""
    whole = EMPTY * FOLLOWED_PER_TURN
    source, sink = Source(whole + b"\x82\x05he"), Sink()
    made, task = pump(source, sink)
    await until(lambda: sink.received)
    made.end(4401, "over")  # at the end of the first part, which is a boundary
    assert sink.received == whole + b"\x82\x05he"
    source.give(b"llo" + EMPTY)
    source.give(CLOSE)
    async with asyncio.timeout(PATIENCE_S):
        await task
    assert sink.received == whole + b"\x82\x05hello" + EMPTY + CLOSE


async def test_a_close_frame_follows_the_last_frame_at_once() -> None:
    """If the bytes that were passed on are whole frames, it needs no further ones."""
    whole = EMPTY * FOLLOWED_PER_TURN
    source, sink = Source(whole), Sink()
    made, task = pump(source, sink)
    await until(lambda: sink.received)
    made.end(4401, "over")
    assert sink.received == whole
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: len(sink.received) > len(whole))
    assert sink.received == whole + CLOSE
    source.give(EMPTY + CLOSE)
    async with asyncio.timeout(PATIENCE_S):
        await task
    assert sink.received == whole + CLOSE


async def test_a_large_read_is_written_up_to_a_boundary() -> None:
    """With a close frame waiting, what follows the boundary is not passed on."""
    source, sink = Source(b"\x82\x7f" + (100_000).to_bytes(8, "big")), Sink()
    made, task = pump(source, sink)
    await until(lambda: sink.received)
    made.end(4401, "over")
    source.give(bytes(100_000) + EMPTY * 100_000 + CLOSE)
    async with asyncio.timeout(PATIENCE_S):
        await task
    assert sink.received.endswith(CLOSE)
    received = sink.received.removesuffix(CLOSE)
    assert set(received[100_010:]) <= set(EMPTY)
    assert len(received) % 2 == 0


@given(
    st.lists(st.sampled_from([0, 1, 40, 130, 70_000]), min_size=1, max_size=6),
    st.lists(st.integers(1, 100_000), max_size=3),
    st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_a_close_frame_is_always_between_two_frames(
    sizes: list[int], cuts: list[int], turns: int
) -> None:
    """Whatever has arrived, and whenever the tunnel is to end."""

    async def play() -> bytes:
        source, sink = Source(), Sink()
        at = 0
        for cut in [*cuts, len(data)]:
            if data[at : at + cut]:
                source.give(data[at : at + cut])
            at += cut
        made, task = pump(source, sink)
        for _ in range(turns):
            await asyncio.sleep(0)
        made.end(4401, "over")
        source.give(b"")
        async with asyncio.timeout(PATIENCE_S):
            await task
        return sink.received

    frames = [b"\x82\x7f" + size.to_bytes(8, "big") + b"\x88" * size for size in sizes]
    data = b"".join(frames)
    received = asyncio.run(play())
    boundaries = [b"".join(frames[:count]) for count in range(len(frames) + 1)]
    assert received in [boundary + CLOSE for boundary in boundaries]
