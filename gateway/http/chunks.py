"""PURE. A chunked body, taken apart: bytes in pieces of any size → the body's bytes.

Strict, because whoever reads a chunk's size in another way finds another end of the
message. Chunk extensions and trailers are read, bounded and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from gateway.errors import GatewayError
from gateway.http.fields import TOKEN, BoundedCache, field_of

LINE_MAX_BYTES: Final = 4096
"""The longest line of a chunk's size, its extensions included."""
EXTENSIONS_MAX_BYTES: Final = 65536
"""How much larger all lines with extensions may be than the chunks that they begin.

Chunks of one byte with long extensions cost 4,000 bytes for each byte of body. Go
allows 16 KiB (CVE-2023-39326).
"""
TRAILERS_MAX_BYTES: Final = 16384
"""What all trailers may take together."""
TRAILERS_MAX: Final = 100

_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e]|\\[\t \x21-\x7e])*"'
_SIZE_LINE = rb"([0-9A-Fa-f]{1,16})(?: *; *%b+(?: *= *(?:%b+|%b))?)* *" % (
    *(TOKEN, TOKEN, _QUOTED),
)
_strict_line = re.compile(_SIZE_LINE.replace(b" *", b"")).fullmatch
_blank_line = re.compile(_SIZE_LINE.replace(b" *", rb"[\t ]*")).fullmatch

_PLAIN_MAX_BYTES = 16
"""Longer lines of a size have extensions. They aren't remembered."""


def _reads(match: Callable[[bytes], re.Match[bytes] | None]) -> BoundedCache[int]:
    """Return what finds the size that a line gives, or -1 if it is malformed."""

    def size(line: bytes) -> int:
        found = match(line) if len(line) <= LINE_MAX_BYTES else None
        return -1 if found is None else int(found[1], 16)

    return BoundedCache(size, max_size=_PLAIN_MAX_BYTES)


_strict_sizes = _reads(_strict_line)
_blank_sizes = _reads(_blank_line)

_NEVER_IN_TRAILERS = frozenset((b"content-length", b"transfer-encoding"))
"""Framing, which a trailer must not have (RFC 9110 §6.5.1)."""

# What is to come next.
_SIZE, _DATA, _DATA_END, _TRAILER, _NOTHING = range(5)


class ChunkDecoder:
    """Takes one chunked body apart.

    Between two pieces of body stands one line of a size, and behind the last one also
    the trailers: a peer that sends no body is refused within 21 KiB.

    Source: RFC 9112 §7.1 (chunks), §7.1.1 (extensions), §7.1.2 (trailers).
    """

    __slots__ = (
        "_error",
        "_excess",
        "_left",
        "_line",
        "_next",
        "_sizes",
        "_trailer_bytes",
        "_trailers",
        "rest",
    )

    def __init__(
        self, error: Callable[[str], GatewayError], *, blanks: bool = False
    ) -> None:
        """*error* is raised for what is malformed.

        *blanks*: accept spaces and tabs behind a size, because some services pad
        sizes (`1f4 `), and round the `;` and `=` of an extension (RFC 9112 §7.1.1).
        For replies; clients have no need of them. Before or within a size, where
        parsers differ, they are always refused.
        """
        self.rest = b""
        """What came behind the body's end."""
        self._error = error
        self._sizes = _blank_sizes if blanks else _strict_sizes
        self._next = _SIZE
        self._left = 0
        """Bytes to come of the chunk that has begun."""
        self._line = b""
        """The beginning of a line that isn't whole, or of a chunk's CRLF."""
        self._excess = 0
        """See EXTENSIONS_MAX_BYTES."""
        self._trailers = 0
        self._trailer_bytes = 0

    @property
    def ended(self) -> bool:
        """All of the body has come."""
        return self._next == _NOTHING

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the connection; return the pieces of body in them.

        Raises:
            GatewayError: the constructor's, for a chunk size that isn't 1 to 16
                hexadecimal digits; an extension that isn't `;name`, `;name=token` or
                `;name="text"`; a line or a chunk that doesn't end in CRLF; a trailer
                that is no field, or frames the body; more of these than the limits.
        """
        pieces: list[bytes] = []
        if self._line:
            data = self._line + data
            self._line = b""
        at, size = 0, len(data)
        coming, left = self._next, self._left
        while at < size:
            if coming == _SIZE:
                end = data.find(b"\r\n", at)
                if end < 0:
                    self._begin_line(data[at:], LINE_MAX_BYTES)
                    break
                left = self._sizes[data[at:end]]
                if left < 0:
                    raise self._error("malformed chunk size")
                if end - at > _PLAIN_MAX_BYTES:
                    self._count_extensions(end - at, left)
                at = end + 2
                coming = _DATA if left else _TRAILER
            if coming == _DATA:
                end = at + left
                if end > size:
                    left = end - size
                    if at < size:
                        pieces.append(data[at:])  # no copy if that is all of *data*
                    break
                pieces.append(data[at:end])
                at = end
                if not data.startswith(b"\r\n", at):
                    coming = _DATA_END
                    continue
                at += 2
                coming = _SIZE
                if size - at == 5 and data.endswith(b"0\r\n\r\n"):
                    coming = _NOTHING  # the usual end, in one step
                    break
            elif coming == _TRAILER:
                end = data.find(b"\r\n", at)
                if end < 0:
                    self._begin_line(data[at:], TRAILERS_MAX_BYTES)
                    break
                if end > at:
                    self._on_trailer(data[at:end])
                else:
                    coming = _NOTHING
                at = end + 2
            elif coming == _NOTHING:
                self.rest += data[at:]
                break
            elif data.startswith(b"\r\n", at):
                at += 2
                coming = _SIZE
            elif data[at:] == b"\r":
                self._line = b"\r"
                break
            else:
                raise self._error("a chunk doesn't end in CRLF")
        self._next, self._left = coming, left
        return pieces

    def _begin_line(self, line: bytes, limit: int) -> None:
        """Keep the beginning of a line; refuse at once what can't become one."""
        if b"\n" in line or b"\r" in line[:-1]:
            raise self._error("a line of the body ends in a bare CR or LF")
        if len(line) > limit + len("\r"):
            raise self._error("a line of the body is too long")
        self._line = line

    def _count_extensions(self, size: int, chunk: int) -> None:
        """Count a line of *size* bytes against the chunk that it begins."""
        self._excess = max(0, self._excess + size - chunk)
        if self._excess > EXTENSIONS_MAX_BYTES:
            raise self._error("too many chunk extensions for so little of a body")

    def _on_trailer(self, line: bytes) -> None:
        self._trailers += 1
        self._trailer_bytes += len(line)
        if self._trailers > TRAILERS_MAX or self._trailer_bytes > TRAILERS_MAX_BYTES:
            raise self._error("too many trailers, or too long ones")
        field = field_of(line)
        if field is None:
            raise self._error("a trailer is no field")
        if field[0].lower() in _NEVER_IN_TRAILERS:
            raise self._error("a trailer frames the body")
