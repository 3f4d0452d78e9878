"""Pieces take little more memory than their bytes, however small they come."""

from __future__ import annotations

import sys
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.http.pieces import SMALL_BYTES, append


@given(st.lists(st.integers(1, 3000), max_size=200))
def test_no_byte_is_lost_and_few_pieces_are_small(sizes: list[int]) -> None:
    """All bytes stay in order; of two neighbours the first isn't small."""
    pieces: list[bytes] = []
    coming = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    for piece in coming:
        append(pieces, piece)
    assert b"".join(pieces) == b"".join(coming)
    assert all(len(first) >= SMALL_BYTES for first, _ in pairwise(pieces))


def test_tiny_pieces_cost_little() -> None:
    """32 KiB that come two bytes at a time take at most a tenth more."""
    pieces: list[bytes] = []
    for _ in range(16 * 1024):
        append(pieces, b"ab")
    assert sum(map(sys.getsizeof, [pieces, *pieces])) < 36 * 1024
