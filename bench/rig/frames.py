"""WebSocket frames of one piece and less than 126 bytes, as the messages here are.

Source: RFC 6455 §5.2 (base framing), §5.3 (client-to-server masking).
"""

from __future__ import annotations

TEXT = 0x81
"""A text message, whole."""
_MASKED = 0x80
SMALL = 125
"""The longest payload whose length fits into the second byte."""


def unmasked(payload: bytes) -> bytes:
    """Return a server's frame."""
    assert len(payload) <= SMALL
    return bytes((TEXT, len(payload))) + payload


def masked(payload: bytes, key: bytes) -> bytes:
    """Return a client's frame; *key* is four bytes."""
    assert len(payload) <= SMALL
    return bytes((TEXT, _MASKED | len(payload))) + key + mask(payload, key)


def mask(payload: bytes, key: bytes) -> bytes:
    """Mask a payload, or unmask it: the operation is its own inverse."""
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return number.to_bytes(size, "big")


def echoed(received: bytes) -> tuple[bytes, bytes]:
    """Return the replies to complete frames, and the start of the next frame.

    Raises:
        ValueError: not a masked text message of one small frame.
    """
    answers = []
    at = 0
    while len(received) - at >= 2:
        size = received[at + 1] & 0x7F
        if received[at] != TEXT or received[at + 1] < _MASKED or size > SMALL:
            raise ValueError(f"not a small masked text: {received[at:][:8]!r}")
        end = at + 6 + size
        if len(received) < end:
            break
        key = received[at + 2 : at + 6]
        answers.append(unmasked(mask(received[at + 6 : end], key)))
        at = end
    return b"".join(answers), received[at:]
