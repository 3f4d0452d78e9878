"""PURE. A chunked body, taken apart: bytes in pieces of any size → the body's bytes.

Strict, because whoever reads a chunk's size in another way finds another end of the
request. Chunk extensions and trailers are read, bounded and dropped.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import BadRequest
from gateway.fields import field_of

LINE_MAX_BYTES: Final = 4096
"""The longest line of a chunk's size, its extensions included."""
TRAILERS_MAX_BYTES: Final = 16384
"""What all trailers may take together."""
TRAILERS_MAX: Final = 100

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e]|\\[\t \x21-\x7e])*"'
_size_line = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:;%b(?:=(?:%b|%b))?)*" % (_TOKEN, _TOKEN, _QUOTED)
).fullmatch

_NEVER_IN_TRAILERS = frozenset((b"content-length", b"transfer-encoding"))
"""Framing, which a trailer must not have (RFC 9110 §6.5.1)."""

# What is to come next.
_SIZE, _DATA, _DATA_END, _TRAILER, _NOTHING = range(5)


class ChunkDecoder:
    """Takes one chunked body apart.

    Source: RFC 9112 §7.1 (chunks), §7.1.1 (extensions), §7.1.2 (trailers).
    """

    __slots__ = ("_left", "_line", "_next", "_trailer_bytes", "_trailers", "rest")

    def __init__(self) -> None:
        self.rest = b""
        """What came behind the body's end."""
        self._next = _SIZE
        self._left = 0
        """Bytes to come of the chunk that has begun."""
        self._line = b""
        """The beginning of a line that isn't whole, or of a chunk's CRLF."""
        self._trailers = 0
        self._trailer_bytes = 0

    @property
    def ended(self) -> bool:
        """All of the body has come."""
        return self._next == _NOTHING

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the connection; return the pieces of body in them.

        Raises:
            BadRequest: a chunk size that isn't 1 to 16 hexadecimal digits; an
                extension that isn't `;name`, `;name=token` or `;name="text"`; a line or
                a chunk that doesn't end in CRLF; a trailer that is no field, or frames
                the body; more of these than the limits.
        """
        pieces: list[bytes] = []
        if self._line:
            data = self._line + data
            self._line = b""
        at, size = 0, len(data)
        while at < size:
            if self._next == _DATA:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._next = _DATA_END
            elif self._next == _DATA_END:
                end = data[at : at + 2]
                if end == b"\r\n":
                    self._next = _SIZE
                elif end == b"\r":
                    self._line = end
                else:
                    raise BadRequest("a chunk doesn't end in CRLF")
                at += len(end)
            elif self._next == _NOTHING:
                self.rest += data[at:]
                break
            else:
                end_of_line = data.find(b"\r\n", at)
                if end_of_line < 0:
                    self._line = data[at:]
                    self._check_begun(self._line)
                    break
                line = data[at:end_of_line]
                at = end_of_line + 2
                if self._next == _SIZE:
                    self._on_size(line)
                else:
                    self._on_trailer(line)
        return pieces

    def _on_size(self, line: bytes) -> None:
        found = _size_line(line)
        if found is None or len(line) > LINE_MAX_BYTES:
            raise BadRequest("malformed chunk size")
        self._left = int(found[1], 16)
        self._next = _DATA if self._left else _TRAILER

    def _on_trailer(self, line: bytes) -> None:
        if not line:
            self._next = _NOTHING
            return
        self._trailers += 1
        self._trailer_bytes += len(line)
        if self._trailers > TRAILERS_MAX or self._trailer_bytes > TRAILERS_MAX_BYTES:
            raise BadRequest("too many trailers, or too long ones")
        field = field_of(line)
        if field is None:
            raise BadRequest("a trailer is no field")
        if field[0].lower() in _NEVER_IN_TRAILERS:
            raise BadRequest("a trailer frames the body")

    def _check_begun(self, line: bytes) -> None:
        """Refuse at once what can't become a line."""
        if b"\n" in line or b"\r" in line[:-1]:
            raise BadRequest("a line of the body ends in a bare CR or LF")
        limit = LINE_MAX_BYTES if self._next == _SIZE else TRAILERS_MAX_BYTES
        if len(line) > limit + 1:
            raise BadRequest("a line of the body is too long")
