"""PURE. Parses one reply after another from bytes in pieces of any size.

Bodies with a length, and those that end with the connection, are counted, not copied.
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
"""1xx replies allowed before the final one; they are discarded. Go allows 5."""


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
        "is_behind",
        "pieces",
        "surplus",
    )

    def __init__(self, heads: ReplyHeadReader) -> None:
        self.pieces: list[bytes] = []
        """Parsed bytes of the body; the caller takes the list and sets an empty one."""
        self._heads = heads
        self.begun = False
        """A byte of the reply has arrived."""
        self.head: ReplyHead | None = None
        """The final reply's head, or the 101's; None until it has arrived."""
        self.ended = False
        """All of the body has arrived."""
        self.is_behind = False
        """Bytes have arrived that aren't parsed: the caller calls `feed(b"")` until
        there are none. Meanwhile it should not read from the connection."""
        self.surplus = False
        """Bytes beyond the end of the reply have arrived."""
        self._head_request = False
        self._upgrade = False
        self._head_so_far = b""
        self._interim = 0
        self._left = 0
        """Bytes of the body that are still to come, or CHUNKED, or UNTIL_CLOSE."""
        self._chunks: ChunkDecoder | None = None

    def begin(self, head_request: bool, upgrade: bool) -> None:
        """Expect a new reply. *upgrade*: a 101 is allowed."""
        self.begun = self.ended = self.surplus = False
        self.head = None
        self._head_request = head_request
        self._upgrade = upgrade

    def feed(self, data: bytes) -> None:
        """Parse the next bytes of the connection; the attributes hold the result.

        Of a chunked body, a bounded number of chunks is parsed; see `is_behind`.

        Raises:
            BadReply: the reply is malformed, too large, or ambiguous.
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
        """Handle the end of the connection; return True if the reply is complete."""
        if self.head is not None and not self.ended and self._left == UNTIL_CLOSE:
            self.ended = True
        return self.ended

    def _on_head_bytes(self, data: bytes) -> None:
        searched = 0
        if self._head_so_far:
            searched = len(self._head_so_far)
            data = self._head_so_far + data
        while True:
            end = data.find(b"\r\n\r\n", searched - 3 if searched > 3 else 0) + 4
            if end < 4:
                check_begun(data, searched)
                self._head_so_far = data
                return
            head = self._heads.read(data[:end], self._head_request)
            if head.status >= 200:
                break
            if head.status == 101:
                # RFC 9110 §7.8: only to a protocol that the client listed in Upgrade.
                if not self._upgrade:
                    raise BadReply("101 to a request without Upgrade")
                self.pieces.append(data[end:])  # the first bytes of the tunnel
                data = data[:end]
                break
            self._interim += 1
            if self._interim > MAX_INTERIM_REPLIES:
                raise BadReply(f"more than {MAX_INTERIM_REPLIES} interim replies")
            data = data[end:]
            searched = 0
        self.head = head
        if self._head_so_far:
            self._head_so_far = b""
        if self._interim:
            self._interim = 0
        left = head.length
        if left == len(data) - end:  # the usual case: the whole reply at once
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
            self.is_behind = bool(chunks.unread)
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
