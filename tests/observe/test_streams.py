"""Unbuffered streams: text is written to a pipe in whole lines."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from gateway.observe import Unbuffered


@pytest.mark.parametrize("length", [1, 60, 300, 4094], ids=str)
def test_pieces_end_where_lines_end(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """Each write is whole lines of up to PIPE_BUF bytes, which a pipe takes atomically.

    Several processes write to it.
    """
    written: list[bytes] = []

    def write(_descriptor: int, data: memoryview) -> int:
        written.append(bytes(data))
        return len(data)

    monkeypatch.setattr(os, "write", write)
    text = "".join(f"{number % 10}{'x' * length}\n" for number in range(200))
    reads, writes = os.pipe()
    try:
        Unbuffered(writes).write(text)
    finally:
        os.close(reads)
        os.close(writes)
    assert b"".join(written) == text.encode()
    assert all(piece.endswith(b"\n") for piece in written)
    assert max(map(len, written)) <= select.PIPE_BUF
    if length < 1000:  # several lines are one write
        assert len(written) <= 1 + len(text) / 3000


def test_a_file_gets_all_text(tmp_path: Path) -> None:
    """A long text is written whole to a file."""
    with (tmp_path / "log").open("wb") as file:
        Unbuffered(file.fileno()).write("a line\n" * 10_000)
    assert (tmp_path / "log").read_bytes() == b"a line\n" * 10_000
