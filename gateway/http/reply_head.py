"""PURE. A reply's head: its facts, where the body ends, and what is refused.

A head is read line by line, in one way only: a reply that two parsers could read
differently is refused. Most lines of a service's replies are the same from one to the
next, so each distinct line is judged once and then looked up.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import BadReply
from gateway.http import framing
from gateway.http.fields import CONTROLS, BoundedCache
from gateway.http.framing import BODILESS, CLOSE, KEEP, Head
from gateway.http.lines import (
    LINE_MAX_BYTES,
    MARKED,
    Line,
    Lines,
    Meaning,
    Rules,
    keep_all,
)

CHUNKED: Final = -1
"""The body is chunked."""
UNTIL_CLOSE: Final = -2
"""The body ends where the connection does."""

MAX_HEAD_BYTES: Final = 65536
"""The largest head. nginx takes 4 to 8 KiB, Go 1 MiB."""
MAX_FIELDS: Final = 256
_SMALL_BYTES = 4 * MAX_FIELDS
"""The size of a head that can't exceed the limits: a field takes four bytes."""

_status_line = re.compile(
    rb"HTTP/(1\.[01]) ([1-5][0-9]{2})(?: ([^%b]*))?" % CONTROLS
).fullmatch
_BEGIN = b"HTTP/1."


class ReplyHead(Head):
    """The facts of a valid head. Nothing in it changes once it is made."""

    __slots__ = (
        "content_length",
        "keep_alive",
        "keep_alive_s",
        "length",
        "reason",
        "start",
        "status",
    )

    start: bytes
    """The status line for a client, with CRLF. Its version is always HTTP/1.1."""
    status: int
    reason: bytes
    length: int
    """The size of the body that follows, or CHUNKED, or UNTIL_CLOSE."""
    content_length: int | None
    """The value of Content-Length; after HEAD and with 304 no such body follows."""
    keep_alive: bool
    """The connection may be used for another request after this reply."""
    keep_alive_s: float | None
    """For how many seconds an idle connection is safe to use; None: unknown."""


# The meanings of fields. No enumeration: its attributes cost more than all the rest of
# a line.
_LENGTH, _CONNECTION, _CODING, _KEEP_FOR = range(1, 5)


def _length(value: bytes) -> int:
    return framing.length(value, BadReply("malformed Content-Length"))


def _coding(value: bytes) -> None:
    framing.coding(value, BadReply("the transfer coding is not chunked"))


def keep_alive_hint(value: bytes) -> float | None:
    """Return for how many seconds an idle connection is safe to use; None: unknown.

    One second less than the service's timeout (half of a timeout of one second),
    because the service starts to count before the gateway does.

    Source: RFC 2068 §19.7.1.1 (`Keep-Alive: timeout=5, max=100`).
    """
    for part in value.split(b","):
        name, _, number = part.partition(b"=")
        number = number.strip()
        if name.strip().lower() == b"timeout" and number.isdigit():
            seconds = float(number[:9])
            return max(seconds - 1, seconds / 2)
    return None


_MEANINGS: dict[bytes, Meaning] = {
    b"content-length": (_LENGTH, _length),
    b"transfer-encoding": (_CODING, _coding),
    b"connection": (_CONNECTION, framing.connection),
    b"keep-alive": (_KEEP_FOR, keep_alive_hint),
}


def _status_parts(line: bytes) -> tuple[bytes, int, bytes, bool, bool]:
    """Return the parts of a status line, given without its CRLF.

    In order: the line for the client, status, reason, whether the version is HTTP/1.0,
    and whether no body can follow.

    Raises:
        BadReply: not HTTP/1.1 or 1.0, a status that isn't 100 to 599, a control byte
            in the reason, or a 1xx of HTTP/1.0.
    Source: RFC 9112 §4, §6.3; RFC 9110 §15, §15.2.
    """
    parts = _status_line(line)
    if parts is None:
        raise BadReply("malformed status line")
    version, digits, reason = parts[1], parts[2], parts[3] or b""
    status = int(digits)
    start = b"HTTP/1.1 %b %b\r\n" % (digits, reason)
    if status < 200 and version == b"1.0":
        # HTTP/1.0 has none: readers differ on whether the final reply follows.
        raise BadReply("an interim reply of HTTP/1.0")
    bodiless = status < 200 or status in BODILESS
    return start, status, reason, version == b"1.0", bodiless


_status_lines = BoundedCache(_status_parts)
"""The parts of status lines. A service sends few distinct ones."""

_new = object.__new__


class ReplyHeadReader:
    """Reads the heads of replies, for one set of header rules."""

    def __init__(self, rules: Rules = keep_all) -> None:
        self._lines = Lines(_MEANINGS, rules, BadReply)
        self._known = self._lines.__getitem__

    def read(self, data: bytes, head_request: bool) -> ReplyHead:
        """Return the facts of a whole head, its empty line included.

        *head_request*: the request was HEAD, so no body follows.

        Raises:
            BadReply: a head or a number of fields above the limits; a status line that
                isn't one of HTTP/1.1 or 1.0, with a status from 100 to 599; a line that
                is no field (a folded one, one with a control byte, a bare CR or LF in
                it); a Transfer-Encoding that isn't exactly `chunked`, comes twice, with
                Content-Length or over HTTP/1.0; a Content-Length that is no plain
                number, or comes twice.
        Source: RFC 9112 §2.2, §4, §5, §6.1, §6.3, §9.3; RFC 9110 §5.1, §5.5.
        """
        texts = data.split(b"\r\n")
        if len(data) > _SMALL_BYTES:
            _check_size(data, texts)
        start, status, reason, http10, bodiless = _status_lines[texts[0]]
        lines: list[Line]
        if len(data) <= LINE_MAX_BYTES:  # most heads: map() loops in C
            lines = [*map(self._known, texts[1:-2])]
        else:
            lines = [*map(self._of_any_size, texts[1:-2])]
        length: int | None = None
        connection = marks = 0
        chunked = False
        keep_alive_s: float | None = None
        for line in lines:
            if not line.meaning:
                continue
            meaning = line.meaning
            marks |= line.marks
            if meaning == _LENGTH:
                if length is not None:
                    raise BadReply("more than one Content-Length")
                length = line.parsed
            elif meaning == MARKED:
                continue
            elif meaning == _CONNECTION:
                connection |= line.parsed
            elif meaning == _KEEP_FOR:
                keep_alive_s = line.parsed
            elif meaning == _CODING:
                if chunked:
                    raise BadReply("more than one Transfer-Encoding")
                chunked = True
        head: ReplyHead = _new(ReplyHead)
        head.content_length = length
        if chunked:
            if length is not None:
                raise BadReply("Content-Length and Transfer-Encoding in one reply")
            if http10:
                raise BadReply("Transfer-Encoding in an HTTP/1.0 reply")
            length = CHUNKED
        elif length is None:
            length = UNTIL_CLOSE
        if bodiless or head_request:
            length = 0
        head.start = start
        head.status = status
        head.reason = reason
        head.length = length
        head.keep_alive = length != UNTIL_CLOSE and not (
            connection & CLOSE or (http10 and not connection & KEEP)
        )
        head.keep_alive_s = keep_alive_s
        head.lines = lines
        head.marks = marks
        return head

    def _of_any_size(self, text: bytes) -> Line:
        known = self._lines
        return known[text] if len(text) <= LINE_MAX_BYTES else known.judge(text)


def _check_size(data: bytes, texts: list[bytes]) -> None:
    """Refuse a head that is larger than the limits, or has more fields."""
    if len(data) > MAX_HEAD_BYTES:
        raise BadReply("the reply's head is too large")
    if len(texts) > MAX_FIELDS + 3:  # the status line, and two empty texts
        raise BadReply(f"more than {MAX_FIELDS} fields in the reply")


def check_begun(data: bytes, known: int) -> None:
    """Refuse an incomplete head at once if it can't become a valid one.

    *data* is all that has arrived of it; the first *known* bytes were checked before.

    Raises:
        BadReply: it is larger than MAX_HEAD_BYTES already, it doesn't begin as HTTP/1
            does, or a line ends in a bare LF.
    """
    if not data.startswith(_BEGIN[: len(data)]):
        raise BadReply("the reply is not HTTP/1.1 or HTTP/1.0")
    # One byte earlier: the last CR of the known bytes may have its LF only now.
    if data.count(b"\n", known) != data.count(b"\r\n", max(0, known - 1)):
        raise BadReply("a line of the head ends in a bare LF")
    if len(data) > MAX_HEAD_BYTES:
        raise BadReply("the reply's head is too large")
