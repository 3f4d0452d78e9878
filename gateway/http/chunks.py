"""PURE. A decoder of chunked bodies: bytes in pieces of any size → the body's bytes.

It is strict, because a reader that takes a chunk's size for another number finds
another end of the message. Chunk extensions and trailers are read, bounded and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from gateway.errors import GatewayError
from gateway.http.fields import TOKEN, BoundedCache, field_of

LINE_MAX_BYTES: Final = 4096
"""The longest line with a chunk's size, its extensions included."""
EXTENSIONS_MAX_BYTES: Final = 65536
"""How many bytes lines with extensions may have more than the chunks they introduce.

Chunks of one byte with long extensions cost 4,000 bytes for each byte of body. Go
allows 16 KiB (CVE-2023-39326).
"""
TRAILERS_MAX_BYTES: Final = 16384
"""The size of all trailers together."""
TRAILERS_MAX: Final = 100

CHUNKS_PER_FEED: Final = 512
"""How many chunks one call of `feed` decodes: less than a millisecond of work, even
where each has to be found by itself. A read of 256 KiB can have 43,000 chunks."""
_SMALL_BYTES = 64
"""After a chunk of at most this size, the decoder expects more small ones."""
_FIRST_RUN = 16
"""How many chunks are decoded together at first. The number is doubled while chunks
are small, and none of them contains a CRLF."""

_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e]|\\[\t \x21-\x7e])*"'
_SIZE_LINE = rb"([0-9A-Fa-f]{1,16})(?: *; *%b+(?: *= *(?:%b+|%b))?)* *" % (
    *(TOKEN, TOKEN, _QUOTED),
)
_strict_line = re.compile(_SIZE_LINE.replace(b" *", b"")).fullmatch
_blank_line = re.compile(_SIZE_LINE.replace(b" *", rb"[\t ]*")).fullmatch

_PLAIN_MAX_BYTES = 16
"""Longer lines with a size have extensions. They aren't remembered."""


def _size_cache(match: Callable[[bytes], re.Match[bytes] | None]) -> BoundedCache[int]:
    """Return a cache: line → the size in it, or -1 if the line is malformed."""

    def size(line: bytes) -> int:
        parts = match(line) if len(line) <= LINE_MAX_BYTES else None
        return -1 if parts is None else int(parts[1], 16)

    return BoundedCache(size, max_size=_PLAIN_MAX_BYTES)


_Sizes = BoundedCache[int]

_strict_sizes = _size_cache(_strict_line)
_blank_sizes = _size_cache(_blank_line)

_NEVER_IN_TRAILERS = frozenset((b"content-length", b"transfer-encoding"))
"""Framing fields, which a trailer must not be (RFC 9110 §6.5.1)."""

# What the decoder expects next.
_SIZE, _DATA, _DATA_END, _TRAILER, _NOTHING = range(5)


class ChunkDecoder:
    """Decodes one chunked body.

    One line with a size separates two pieces of body, and trailers may follow the last
    one. So a peer that sends no body is refused within 21 KiB.

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
        "unread",
    )

    def __init__(
        self, error: Callable[[str], GatewayError], *, blanks: bool = False
    ) -> None:
        """*error* is raised for what is malformed.

        *blanks*: accept spaces and tabs after a size, because some services pad sizes
        (`1f4 `), and around the `;` and `=` of an extension (RFC 9112 §7.1.1). For
        replies only: clients don't need them. Before or within a size, where parsers
        differ, they are always refused.
        """
        self.rest = b""
        """The bytes received after the body's end."""
        self.unread = b""
        """Received bytes that aren't decoded yet (see CHUNKS_PER_FEED). If there are
        any, the caller calls `feed(b"")` until there are none. Meanwhile it should not
        read from the connection."""
        self._error = error
        self._sizes = _blank_sizes if blanks else _strict_sizes
        self._next = _SIZE
        self._left = 0
        """Bytes of the current chunk that haven't arrived yet."""
        self._line = b""
        """The beginning of an incomplete line, or the CR of a chunk's CRLF."""
        self._excess = 0
        """See EXTENSIONS_MAX_BYTES."""
        self._trailers = 0
        self._trailer_bytes = 0

    @property
    def ended(self) -> bool:
        """Whether the whole body has arrived."""
        return self._next == _NOTHING

    def feed(self, data: bytes) -> list[bytes]:
        """Return the pieces of body in *data*, the next bytes of the connection.

        At most CHUNKS_PER_FEED chunks are decoded; see `unread`.

        Raises:
            GatewayError: the constructor's, for a chunk size that isn't 1 to 16
                hexadecimal digits; an extension that isn't `;name`, `;name=token` or
                `;name="text"`; a line or a chunk that doesn't end in CRLF; a trailer
                that isn't a field, or is a framing field; more of these than the
                limits.
        """
        pieces: list[bytes] = []
        if self._line:
            data = self._line + data
            self._line = b""
        elif self.unread:
            data = self.unread + data
            self.unread = b""
        at, size = 0, len(data)
        coming, left = self._next, self._left
        allowed, run = CHUNKS_PER_FEED, _FIRST_RUN
        while at < size:
            if coming == _SIZE:
                if allowed <= 0:
                    self.unread = data[at:]
                    break
                allowed -= 1
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
                if left <= _SMALL_BYTES and run > 0 and size - at > _SMALL_BYTES:
                    joined, at, count = _join_small(data, at, run, self._sizes)
                    pieces.append(joined)
                    allowed -= count
                    # One less: the next chunk is decoded by itself, as at first.
                    run = min(2 * run, allowed - 1) if count == run else 0
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
        if len(pieces) > _FIRST_RUN:  # small ones: each takes 33 bytes more
            return [b"".join(pieces)]
        return pieces

    def _begin_line(self, line: bytes, limit: int) -> None:
        """Keep the beginning of a line; refuse at once one that can't become valid."""
        if b"\n" in line or b"\r" in line[:-1]:
            raise self._error("a line of the body ends in a bare CR or LF")
        if len(line) > limit + len("\r"):
            raise self._error("a line of the body is too long")
        self._line = line

    def _count_extensions(self, size: int, chunk: int) -> None:
        """Count a line of *size* bytes against the *chunk* bytes that follow it."""
        self._excess = max(0, self._excess + size - chunk)
        if self._excess > EXTENSIONS_MAX_BYTES:
            raise self._error("too many chunk extensions for the size of the body")

    def _on_trailer(self, line: bytes) -> None:
        self._trailers += 1
        self._trailer_bytes += len(line)
        if self._trailers > TRAILERS_MAX or self._trailer_bytes > TRAILERS_MAX_BYTES:
            raise self._error("too many trailers, or too long ones")
        field = field_of(line)
        if field is None:
            raise self._error("a trailer is not a field")
        if field[0].lower() in _NEVER_IN_TRAILERS:
            raise self._error("a trailer is a framing field")


def _join_small(
    data: bytes, at: int, most: int, sizes: _Sizes
) -> tuple[bytes, int, int]:
    """Decode up to *most* chunks together, from the index *at* on, where a size is due.

    Returns their bytes, the index behind them, and how many they are. The first chunk
    that isn't whole, contains a CRLF, has a size that *sizes* doesn't remember or is
    the last chunk ends the run. Such a chunk is for `feed`.

    To split at each CRLF and compare all lengths at once takes a tenth of the time of a
    loop over chunks.
    """
    texts = data[at : at + most * _SMALL_BYTES].split(b"\r\n", 2 * most)
    count = (len(texts) - 1) // 2  # of pairs with both CRLFs
    lines, bodies = texts[0 : 2 * count : 2], texts[1 : 2 * count : 2]
    # Not `sizes[…]`, which would judge and remember what may not be a size.
    told = list(map(sizes.get, lines))
    found = list(map(len, bodies))
    if told != found or 0 in found:
        count = 0
        for said, is_there in zip(told, found, strict=True):
            if said != is_there or not said:
                break
            count += 1
        del lines[count:], bodies[count:]
    joined = b"".join(bodies)
    return joined, at + len(joined) + sum(map(len, lines)) + 4 * count, count
