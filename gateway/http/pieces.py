"""PURE. The pieces of a body that wait to be read."""

from __future__ import annotations

from typing import Final

SMALL_BYTES: Final = 1024
"""A piece is joined to one that is smaller than this. An object of two bytes takes 56,
so a client that sends two at a time could make us hold 28 times what it sends."""


def append(pieces: list[bytes], piece: bytes) -> None:
    """Add a *piece* that isn't empty to *pieces*, so that few of them are small."""
    if pieces and len(pieces[-1]) < SMALL_BYTES:
        pieces[-1] += piece
    else:
        pieces.append(piece)
