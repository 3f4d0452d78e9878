"""PURE. Frames of the WebSocket protocol: their boundaries, and close frames."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

GOING_AWAY: Final = 1001
"""The gateway shuts down, or the socket has reached one of its limits.

Source: RFC 6455 §7.4.1.
"""
SESSION_ENDED: Final = 4401
"""The session of the socket has ended. A code for private use (RFC 6455 §7.4.2)."""

_SMALL_BYTES = 32
"""Frames with smaller payloads are skipped together, if several arrive together."""

_LENGTHS = (
    (b"", 0, 0),
    (b"", 0x80, 4),
    (rb"\x7e\x00", 0, 0),
    (rb"\xfe\x00", 0, 4),
    (rb"\x7f\x00{7}", 0, 0),
    (rb"\xff\x00{7}", 0, 4),
)
"""The forms of a small frame's length: what precedes its last byte, what is added to
that byte, and the bytes of the mask. The long forms are forbidden for small frames
(RFC 6455 §5.2), but the other end judges that.
"""


class FrameTracker:
    """Finds the boundaries of frames in one direction of a tunnel.

    Source: RFC 6455 §5.2.
    """

    __slots__ = ("_head", "_skip", "closed")

    def __init__(self) -> None:
        self._head = b""
        self._skip = 0
        self.closed = False
        """A close frame was seen: no frame may follow it."""

    @property
    def at_boundary(self) -> bool:
        """The last byte seen was the last byte of a frame, or came after a close frame.

        Bytes after a close frame aren't frames: RFC 6455 §5.5.1 forbids them.
        """
        return not self._head and not self._skip

    def feed(self, data: bytes) -> int:
        """Read *data*; return the index behind the last frame that ends in it.

        0: no frame ends in it, or a close frame ended earlier.
        """
        position = 0
        boundary = 0
        size = len(data)
        if self._skip:
            if self._skip > size:
                self._skip -= size
                return 0
            position = boundary = self._skip
            self._skip = 0
        while position < size and not self.closed:
            take = data[position : position + 14 - len(self._head)]
            head = self._head + take
            sizes = _frame_size(head)
            if sizes is None:
                self._head = head
                break
            head_size, payload_size = sizes
            position += head_size - len(self._head) + payload_size
            self._head = b""
            self.closed = head[0] & 0x0F == 8
            if position > size:
                self._skip = position - size
                break
            boundary = position
            if payload_size < _SMALL_BYTES and position < size and not self.closed:
                boundary = position = _end_of_small(data, position)
        return boundary


def _end_of_small(data: bytes, position: int) -> int:
    """Return the index behind the small frames that follow *position* in *data*.

    Close frames aren't among them.
    """
    found = _small_frames().match(data, position)
    assert found is not None, "it matches no frame, too"
    return found.end()


@cache
def _small_frames() -> re.Pattern[bytes]:
    """Return a pattern of any number of whole small frames.

    A peer can send 131,072 empty frames in one read, and their boundaries are needed
    only for a close frame of ours. The pattern finds them in a twentieth of the time
    that a loop takes. It is compiled for the first small frames.

    Source: RFC 6455 §5.2.
    """
    opcode = b"[%b]" % b"".join(b"\\x%02x" % n for n in range(256) if n & 0x0F != 8)
    frames = b"|".join(
        # In groups of eight, because alternatives are tried in order.
        b"%b(?=[\\x%02x-\\x%02x])(?:%b)"
        % (
            before,
            first + added,
            first + added + 7,
            b"|".join(
                b"\\x%02x.{%d}" % (n + added, n + mask) for n in range(first, first + 8)
            ),
        )
        for before, added, mask in _LENGTHS
        for first in range(0, _SMALL_BYTES, 8)
    )
    # Possessive: no frame that was matched is tried in another way.
    return re.compile(b"(?s:%b(?:%b))*+" % (opcode, frames))


def _frame_size(head: bytes) -> tuple[int, int] | None:
    """Return the sizes of a frame's head and payload, None if *head* is too short."""
    if len(head) < 2:
        return None
    size = head[1] & 0x7F
    extended = 2 if size == 126 else 8 if size == 127 else 0
    masked = 4 if head[1] & 0x80 else 0
    head_size = 2 + extended + masked
    if len(head) < head_size:
        return None
    if extended:
        size = int.from_bytes(head[2 : 2 + extended], "big")
    return head_size, size


def close_frame(code: int, reason: str, *, mask: bytes | None) -> bytes:
    """Return a close frame.

    *mask* is four random bytes for a frame to a server, None for one to a client.

    Source: RFC 6455 §5.5.1, §5.3.
    """
    payload = code.to_bytes(2, "big") + reason.encode()
    if mask is None:
        return bytes((0x88, len(payload))) + payload
    hidden = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes((0x88, 0x80 | len(payload))) + mask + hidden
