"""PURE. One reply after another, out of bytes in pieces of any size.

llhttp parses heads and chunks. Bodies with a length, and those that end with the
connection, are counted here and never copied through the parser.
"""

from __future__ import annotations

from typing import Final

import httptools

from gateway.errors import BadReply
from gateway.fields import Field, Fields
from gateway.upstream.framing import (
    CHUNKED,
    MAX_HEAD_BYTES,
    UNTIL_CLOSE,
    Framing,
    StatusLine,
    framing,
    status_line,
)

MAX_INTERIM_REPLIES: Final = 16
"""1xx replies that may precede the final one; each is swallowed. Go takes 5."""
MAX_BARREN_BYTES: Final = 65536
"""Chunk extensions and trailers in a row without a byte of body between them."""

_NO_LINE: Final = StatusLine(b"", 0, b"")
_NO_FRAMING: Final = Framing(0, None, None)


class ReplyReader:
    """Reads the reply to the request that `begin` told of.

    After `feed`: `has_head` says whether the final head is here (or the 101),
    `pieces` holds what came of the body, `ended` says whether that was all, and
    `surplus` whether there was more than that.
    """

    __slots__ = (
        "_barren",
        "_body_size",
        "_fields",
        "_head_parsed",
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
        "keep_alive",
        "line",
        "pieces",
        "surplus",
    )

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        """What came of the body; whoever reads it puts an empty list in its place."""
        self.begin(head_request=False, upgrade=False)

    def begin(self, *, head_request: bool, upgrade: bool) -> None:
        """Expect a new reply. *upgrade*: it may be a 101."""
        self.begun = False
        """True when a byte of the reply has arrived."""
        self.has_head = False
        self.ended = False
        self.surplus = False
        self.keep_alive = False
        """True when the upstream keeps the connection open after this reply."""
        self.line = _NO_LINE
        self.framing = _NO_FRAMING
        self.fields: Fields = ()
        self._head_request = head_request
        self._upgrade = upgrade
        self._parser: httptools.HttpResponseParser | None = None
        self._head_parsed = False
        self._head_so_far = b""
        self._fields: list[Field] = []
        self._interim = 0
        self._left = 0
        self._body_size = 0
        self._barren = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection.

        Raises:
            BadReply: malformed, too large, or to be read in more than one way.
        """
        self.begun = True
        if self.ended:
            self.surplus = True
        elif self.has_head:
            self._on_body_bytes(data)
        else:
            self._on_head_bytes(data)

    def eof(self) -> bool:
        """The connection ended; return True when that is how this reply ends."""
        if self.has_head and not self.ended and self._left == UNTIL_CLOSE:
            self.ended = True
        return self.ended

    def _on_head_bytes(self, data: bytes) -> None:
        """Feed the parser up to the end of the head, which is the first CRLF CRLF.

        It is looked for here because llhttp doesn't tell where a head ends, and can't
        be told that a reply to HEAD has no body. A head that llhttp accepts has no
        empty line before its end.
        """
        before = self._head_so_far
        head = before + data if before else data
        end = head.find(b"\r\n\r\n", max(0, len(before) - 3)) + 4
        whole = end >= 4
        if (end if whole else len(head)) > MAX_HEAD_BYTES:
            raise BadReply("the reply's head is too large")
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpResponseParser(self)
            self._head_parsed = False
            self._fields = []
        try:
            parser.feed_data(head[len(before) : end] if whole else data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            # llhttp stops after a 101, as it should; any other stop is an error.
            if not (self._head_parsed and parser.get_status_code() == 101):
                raise BadReply(f"malformed head: {exc}") from exc
        if not whole:
            self._head_so_far = head
        elif not self._head_parsed:
            raise BadReply("an empty line before the reply")
        else:
            self._on_head(head[:end], head[end:])

    def _on_head(self, head: bytes, rest: bytes) -> None:
        line = self.line = status_line(head[: head.find(b"\r\n")])
        self._head_so_far = b""
        if 101 != line.status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM_REPLIES:
                raise BadReply(f"more than {MAX_INTERIM_REPLIES} interim replies")
            self._parser = None
            if rest:
                self._on_head_bytes(rest)
            return
        self.fields = tuple(self._fields)
        self.has_head = True
        if line.status == 101:
            # RFC 9110 §7.8: a server mustn't switch to what wasn't asked for.
            if not self._upgrade:
                raise BadReply("101 without having been asked to upgrade")
            self.ended = True
            self.pieces.append(rest)
            return
        self.framing = framing(
            version=line.version,
            status=line.status,
            fields=self.fields,
            head_request=self._head_request,
        )
        self._left = self.framing.length
        if self._left == 0:
            self.ended = True
            self.surplus = bool(rest)
        elif rest:
            self._on_body_bytes(rest)

    def _on_body_bytes(self, data: bytes) -> None:
        left = self._left
        if left == CHUNKED:
            self._on_chunked_bytes(data)
        elif left == UNTIL_CLOSE:
            self.pieces.append(data)
        elif len(data) < left:
            self._left = left - len(data)
            self.pieces.append(data)
        else:
            self.pieces.append(data[:left])
            self.ended = True
            self.surplus = len(data) > left

    def _on_chunked_bytes(self, data: bytes) -> None:
        assert self._parser is not None
        size = self._body_size
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            if not self.ended:
                raise BadReply(f"malformed chunk: {exc}") from exc
            self.surplus = True  # what is broken stands after the end
        self._barren = 0 if self._body_size > size else self._barren + len(data)
        if self._barren > MAX_BARREN_BYTES:
            raise BadReply("too much between two pieces of the body")

    # --- httptools' callbacks -------------------------------------------------

    def on_message_begin(self) -> None:
        if self.ended:
            self.surplus = True  # a second reply begins in the same bytes

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # otherwise a trailer, which is dropped
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._head_parsed = True
        self.keep_alive = self._parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        if self.has_head and not self.ended:
            self.pieces.append(piece)
            self._body_size += len(piece)

    def on_message_complete(self) -> None:
        if self.has_head:
            self.ended = True
