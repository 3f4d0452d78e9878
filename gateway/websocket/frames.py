"""PURE. Frames of the WebSocket protocol: their boundaries, and close frames."""

from __future__ import annotations

from typing import Final

GOING_AWAY: Final = 1001
"""The gateway shuts down, or the socket has reached one of its limits.

Source: RFC 6455 §7.4.1.
"""
SESSION_ENDED: Final = 4401
"""The session of the socket has ended. A code for private use (RFC 6455 §7.4.2)."""


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
        """The last byte seen was the last byte of a frame."""
        return not self._head and not self._skip

    def feed(self, data: bytes) -> int:
        """Read *data*; return the index behind the last frame that ends in it.

        0: no frame ends in it.
        """
        position = 0
        boundary = 0
        size = len(data)
        while position < size:
            if self._skip:
                step = min(self._skip, size - position)
                self._skip -= step
                position += step
                if not self._skip:
                    boundary = position
                continue
            take = data[position : position + 14 - len(self._head)]
            head = self._head + take
            length = _frame_size(head)
            if length is None:
                self._head = head
                position += len(take)
                continue
            head_size, payload_size = length
            position += head_size - len(self._head)
            self._head = b""
            self._skip = payload_size
            self.closed = self.closed or head[0] & 0x0F == 8
            if not payload_size:
                boundary = position
        return boundary


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
