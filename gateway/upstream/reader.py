"""PURE. One reply after another, out of bytes in pieces of any size.

Heads are read whole (`framing`). Bodies with a length, and those that end with the
connection, are counted and never copied; llhttp takes chunked ones apart.
"""

from __future__ import annotations

from typing import Final

import httptools

from gateway.errors import BadReply
from gateway.fields import Fields
from gateway.upstream.framing import (
    CHUNKED,
    MAX_HEAD_BYTES,
    UNTIL_CLOSE,
    Framing,
    StatusLine,
    check_begun,
    head_of,
)

MAX_INTERIM_REPLIES: Final = 16
"""1xx replies that may precede the final one; each is swallowed. Go takes 5."""
MAX_BARREN_BYTES: Final = 65536
"""Chunk extensions and trailers in a row without a byte of body between them."""

_NO_LINE: Final = StatusLine(b"", 0, b"")
_NO_FRAMING: Final = Framing(0, None, False, None)
_CHUNKED_HEAD: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
"""What tells llhttp to expect chunks."""


class ReplyReader:
    """Reads the reply to the request that `begin` told of.

    After `feed`: `has_head` says whether the final head is here (or the 101), and
    then `line`, `fields` and `framing` what it says; `pieces` holds what came of the
    body, `ended` says whether that was all, and `surplus` whether there was more.
    """

    __slots__ = (
        "_chunks",
        "_head_request",
        "_head_so_far",
        "_interim",
        "_left",
        "_parser",
        "_upgrade",
        "begun",
        "ended",
        "fields",
        "framing",
        "has_head",
        "line",
        "pieces",
        "surplus",
    )

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        """What came of the body; whoever reads it puts an empty list in its place."""
        self.line = _NO_LINE
        self.framing = _NO_FRAMING
        self.fields: Fields = ()
        self._parser: httptools.HttpResponseParser | None = None
        self._chunks: _Chunks | None = None
        self.begin(head_request=False, upgrade=False)

    def begin(self, *, head_request: bool, upgrade: bool) -> None:
        """Expect a new reply. *upgrade*: it may be a 101."""
        self.begun = False
        """True when a byte of the reply has arrived."""
        self.has_head = False
        self.ended = False
        self.surplus = False
        self._head_request = head_request
        self._upgrade = upgrade
        self._head_so_far = b""
        self._interim = 0
        self._left = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection.

        Raises:
            BadReply: malformed, too large, or to be read in more than one way.
        """
        self.begun = True
        if not self.has_head:
            self._on_head_bytes(data)
        elif self.ended:
            self.surplus = True
        else:
            self._on_body_bytes(data)

    def eof(self) -> bool:
        """The connection ended; return True when that is how this reply ends."""
        if self.has_head and not self.ended and self._left == UNTIL_CLOSE:
            self.ended = True
        return self.ended

    def _on_head_bytes(self, data: bytes) -> None:
        known = len(self._head_so_far)
        if known:
            data = self._head_so_far + data
        while True:
            end = data.find(b"\r\n\r\n", max(0, known - 3)) + 4
            whole = end >= 4
            if (end if whole else len(data)) > MAX_HEAD_BYTES:
                raise BadReply("the reply's head is too large")
            if not whole:
                check_begun(data, known)
                self._head_so_far = data
                return
            head = head_of(data[:end], head_request=self._head_request)
            data = data[end:]
            status = head.line.status
            if status >= 200 or status == 101:
                break
            self._interim += 1
            if self._interim > MAX_INTERIM_REPLIES:
                raise BadReply(f"more than {MAX_INTERIM_REPLIES} interim replies")
            known = 0
        self.line, self.fields, self.framing = head
        if status == 101:
            # RFC 9110 §7.8: a server mustn't switch to what wasn't asked for.
            if not self._upgrade:
                raise BadReply("101 without having been asked to upgrade")
            self.pieces.append(data)  # no HTTP any more
            data = b""
            left = 0
        else:
            left = self.framing.length
        self._left = left
        self.has_head = True
        if not left:
            self.ended = True
            self.surplus = bool(data)
            return
        if left == CHUNKED:
            self._chunks = _Chunks()
            self._parser = httptools.HttpResponseParser(self._chunks)
            self._parser.feed_data(_CHUNKED_HEAD)
        if data:
            self._on_body_bytes(data)

    def _on_body_bytes(self, data: bytes) -> None:
        left = self._left
        size = len(data)
        if left == CHUNKED:
            self._on_chunked_bytes(data)
        elif left == UNTIL_CLOSE:
            self.pieces.append(data)
        elif size < left:
            self._left = left - size
            self.pieces.append(data)
        else:
            self.ended = True
            self.surplus = size > left
            self.pieces.append(data[:left] if size > left else data)

    def _on_chunked_bytes(self, data: bytes) -> None:
        parser, chunks = self._parser, self._chunks
        assert parser is not None
        assert chunks is not None
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as exc:
            if not chunks.ended:
                raise BadReply(f"malformed chunk: {exc}") from exc
            chunks.surplus = True  # what is broken stands after the end
        if chunks.pieces:
            self.pieces += chunks.pieces
            chunks.pieces = []
            chunks.barren = 0
        else:
            chunks.barren += len(data)
            if chunks.barren > MAX_BARREN_BYTES:
                raise BadReply("too much between two pieces of the body")
        if chunks.ended:
            self.ended = True
            self.surplus = chunks.surplus
            self._parser = None


class _Chunks:
    """What llhttp tells of a chunked body. Trailers are dropped.

    It doesn't know its parser, so the two make no ring for the collector.
    """

    __slots__ = ("barren", "ended", "pieces", "surplus")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.barren = 0
        """Bytes since the last piece."""
        self.ended = False
        self.surplus = False

    def on_message_begin(self) -> None:
        if self.ended:
            self.surplus = True  # a second reply begins in the same bytes

    def on_body(self, piece: bytes) -> None:
        if not self.ended:
            self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.ended = True
