"""The frame tracker: boundaries of WebSocket frames (RFC 6455), and close frames."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.websocket import FrameTracker, close_frame


def frame(payload: bytes, *, opcode: int = 2, masked: bool = False) -> bytes:
    """Return a frame in the format of RFC 6455 §5.2."""
    size = len(payload)
    mark = 0x80 if masked else 0
    if size < 126:
        head = bytes((0x80 | opcode, mark | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, mark | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, mark | 127)) + size.to_bytes(8, "big")
    return head + (b"mask" if masked else b"") + payload


frames = st.builds(
    lambda size, opcode, masked: frame(bytes(size), opcode=opcode, masked=masked),
    st.sampled_from([0, 1, 125, 126, 127, 300, 65535, 65536, 70000]),
    st.sampled_from([0, 1, 2, 9, 10]),
    st.booleans(),
)


def fed_in_pieces(data: bytes, ends: set[int], cuts: Sequence[int]) -> FrameTracker:
    """Feed *data* in pieces of these sizes; each border found must be one of *ends*."""
    tracker = FrameTracker()
    position = 0
    for cut in [*cuts, len(data)]:
        piece = data[position : position + cut]
        boundary = tracker.feed(piece)
        reached = [end for end in ends if position < end <= position + len(piece)]
        assert boundary == (max(reached) - position if reached else 0)
        position += len(piece)
        assert tracker.at_boundary is (position in ends)
    return tracker


@given(st.lists(frames, max_size=5), st.lists(st.integers(1, 200), max_size=40))
def test_boundaries_are_found_however_the_bytes_arrive(
    sent: list[bytes], cuts: list[int]
) -> None:
    """`at_boundary` and `feed`'s index are the ends of frames, wherever data is cut."""
    data = b"".join(sent)
    ends = {0}
    for piece in sent:
        ends.add(max(ends) + len(piece))
    tracker = fed_in_pieces(data, ends, cuts)
    assert not tracker.closed


def long_form(payload: bytes, *, size: int, masked: bool) -> bytes:
    """Write a frame whose length takes *size* bytes though it needs fewer."""
    mark = (0x80 if masked else 0) | (126 if size == 2 else 127)
    head = bytes((0x82, mark)) + len(payload).to_bytes(size, "big")
    return head + (b"mask" if masked else b"") + payload


small_frames = st.one_of(
    st.builds(
        lambda size, opcode, masked: frame(
            b"\x88" * size, opcode=opcode, masked=masked
        ),
        st.integers(0, 33),
        st.sampled_from([0, 1, 2, 9, 10]),
        st.booleans(),
    ),
    st.builds(
        lambda size, form, masked: long_form(b"\x88" * size, size=form, masked=masked),
        st.integers(0, 33),
        st.sampled_from([2, 8]),
        st.booleans(),
    ),
)


@given(
    st.lists(small_frames, max_size=40),
    st.lists(st.integers(1, 300), max_size=10),
    st.booleans(),
)
def test_small_frames_are_followed_together(
    sent: list[bytes], cuts: list[int], closes: bool
) -> None:
    """In any form, of any size, and up to a close frame: as if they came one by one."""
    close = frame(b"\x03\xe8bye", opcode=8) if closes else b""
    data = b"".join(sent) + close
    ends = {0}
    for piece in filter(None, [*sent, close]):
        ends.add(max(ends) + len(piece))
    tracker = fed_in_pieces(data, ends, cuts)
    assert tracker.closed is closes


def test_what_follows_a_close_frame_is_not_followed() -> None:
    """It is no frame (RFC 6455 §5.5.1), whatever it looks like."""
    tracker = FrameTracker()
    closing = frame(b"\x03\xe8", opcode=8)
    assert tracker.feed(frame(b"x") + closing + b"\x82\x7f") == 3 + len(closing)
    assert tracker.at_boundary
    assert tracker.feed(b"\xff") == 0
    assert tracker.at_boundary
    assert tracker.closed


def test_a_close_frame_is_detected() -> None:
    """After a close frame, `closed` is true: no frame may follow (RFC 6455 §5.5.1)."""
    tracker = FrameTracker()
    tracker.feed(frame(b"x") + frame(b"\x03\xe8bye", opcode=8))
    assert tracker.closed


@pytest.mark.parametrize("masked", [True, False])
def test_a_close_frame_carries_code_and_reason(masked: bool) -> None:
    """A close frame is masked with *mask*, as servers require (RFC 6455 §5.1)."""
    closing = close_frame(4401, "session ended", mask=b"mask" if masked else None)
    assert closing[0] == 0x88
    assert bool(closing[1] & 0x80) is masked
    payload = closing[2:]
    if masked:
        mask, payload = payload[:4], payload[4:]
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    assert payload == (4401).to_bytes(2, "big") + b"session ended"
