"""edge. Standard streams written without a buffer, in whole lines.

Several processes may write to one pipe. A line that a pipe takes in one piece can't be
mixed with another process's, so no client can forge a line of the log.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from typing import Final, Protocol, TextIO

WHOLE_BYTES: Final = 4096
"""A pipe takes up to this many bytes in one piece, or none. Source: pipe(7)."""


class LineWriter(Protocol):
    """A text stream; writing to it may block."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class Unbuffered:
    """A text stream over a file descriptor, without a buffer.

    The interpreter flushes `sys.stdout` when it exits. If the reader is stuck, that
    flush blocks forever; if the reader is gone, the process exits with an error.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # A regular file takes a write of any size in one piece.
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)

    def write(self, text: str, /) -> None:
        """Write all of *text*, in pieces of whole lines; blocks if the pipe is full."""
        data = text.encode()
        for piece in (data,) if self._is_file else _pieces(data):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def flush(self) -> None:
        """Do nothing: there is no buffer."""


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield *data* in pieces of whole lines, each small enough for one write."""
    begin = 0
    while begin < len(data):
        end = begin + WHOLE_BYTES
        if end < len(data):
            end = data.rfind(b"\n", begin, end) + 1 or end
        yield data[begin:end]
        begin = end


def unbuffered(stream: TextIO) -> LineWriter:
    """Return *stream* without its buffer, or as it is if it has no descriptor."""
    try:
        return Unbuffered(stream.fileno())
    except io.UnsupportedOperation:  # replaced, as tests do
        return stream
