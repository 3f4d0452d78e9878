"""PURE. One reply after another, out of bytes in pieces of any size.

Bodies with a length, and those that end with the connection, are counted and never
copied.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import BadReply
from gateway.http.chunks import ChunkDecoder
from gateway.http.reply_head import (
    CHUNKED,
    UNTIL_CLOSE,
    ReplyHead,
    ReplyHeadReader,
    check_begun,
)

MAX_INTERIM_REPLIES: Final = 16
"""1xx replies that may precede the final one; each is swallowed. Go takes 5."""


class ReplyReader:
    """Reads the reply to the request that `begin` announced."""

    __slots__ = (
        "_chunks",
        "_head_request",
        "_head_so_far",
        "_heads",
        "_interim",
        "_left",
        "_upgrade",
        "begun",
        "ended",
        "head",
        "pieces",
        "surplus",
    )

    def __init__(self, heads: ReplyHeadReader) -> None:
        self.pieces: list[bytes] = []
        """What came of the body; whoever reads it puts an empty list in its place."""
        self._heads = heads
        self.begun = False
        """A byte of the reply has arrived."""
        self.head: ReplyHead | None = None
        """The final reply's head, or the 101's; None until it has arrived."""
        self.ended = False
        """All of the body has arrived."""
        self.surplus = False
        """More has arrived than the reply."""
        self._head_request = False
        self._upgrade = False
        self._head_so_far = b""
        self._interim = 0
        self._left = 0
        """The size of what is to come of the body, or CHUNKED, or UNTIL_CLOSE."""
        self._chunks: ChunkDecoder | None = None

    def begin(self, head_request: bool, upgrade: bool) -> None:
        """Expect a new reply. *upgrade*: it may be a 101."""
        self.begun = self.ended = self.surplus = False
        self.head = None
        self._head_request = head_request
        self._upgrade = upgrade

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection.

        Raises:
            BadReply: malformed, too large, or to be read in more than one way.
        Source: RFC 9112 §6.3, §9.2; RFC 9110 §7.8, §15.2.
        """
        if self.head is None:
            self.begun = True
            self._on_head_bytes(data)
        elif self.ended:
            self.surplus = True
        else:
            self._on_body_bytes(data)

    def eof(self) -> bool:
        """The connection ended; return True when that is how this reply ends."""
        if self.head is not None and not self.ended and self._left == UNTIL_CLOSE:
            self.ended = True
        return self.ended

    def _on_head_bytes(self, data: bytes) -> None:
        known = 0
        if self._head_so_far:
            known = len(self._head_so_far)
            data = self._head_so_far + data
        while True:
            end = data.find(b"\r\n\r\n", known - 3 if known > 3 else 0) + 4
            if end < 4:
                check_begun(data, known)
                self._head_so_far = data
                return
            head = self._heads.read(data[:end], self._head_request)
            if head.status >= 200:
                break
            if head.status == 101:
                # RFC 9110 §7.8: a server mustn't switch to what wasn't asked for.
                if not self._upgrade:
                    raise BadReply("101 without having been asked to upgrade")
                self.pieces.append(data[end:])  # no HTTP any more
                data = data[:end]
                break
            self._interim += 1
            if self._interim > MAX_INTERIM_REPLIES:
                raise BadReply(f"more than {MAX_INTERIM_REPLIES} interim replies")
            data = data[end:]
            known = 0
        self.head = head
        if self._head_so_far:
            self._head_so_far = b""
        if self._interim:
            self._interim = 0
        left = head.length
        if left == len(data) - end:  # as most replies come
            self.ended = True
            if left:
                self.pieces.append(data[end:])
            return
        self._left = left
        if not left:
            self.ended = self.surplus = True
            return
        if left == CHUNKED:
            self._chunks = ChunkDecoder(BadReply, blanks=True)
        if len(data) > end:
            self._on_body_bytes(data[end:])

    def _on_body_bytes(self, data: bytes) -> None:
        left = self._left
        size = len(data)
        if left == CHUNKED:
            chunks = self._chunks
            assert chunks is not None
            self.pieces += chunks.feed(data)
            if chunks.ended:
                self.ended = True
                self.surplus = bool(chunks.rest)
        elif left == UNTIL_CLOSE:
            self.pieces.append(data)
        elif size < left:
            self._left = left - size
            self.pieces.append(data)
        else:
            self.ended = True
            self.surplus = size > left
            self.pieces.append(data[:left] if size > left else data)
